import pytest
import torch

from sartor.cost.counters import Tally, out_size
from sartor.models.layers import Conv, Linear, MaxPool, Norm, Path, count_paths


@pytest.mark.parametrize("size", [(7, 9), (32, 31), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (7, 2, 3), (1, 2, 0), (5, 3, 0)])
def test_sizes_are_those_of_the_convolution(size, kernel, stride, padding):
    if min(size) + 2 * padding < kernel:
        return
    layer = torch.nn.Conv2d(1, 1, kernel, stride, padding)
    assert out_size(size, kernel, stride, padding) == tuple(layer(torch.zeros(1, 1, *size)).shape[2:])


def test_a_convolution():
    tally = Tally()
    assert Conv(8, 12, 3, 2, groups=4, bias=True).add_to(tally, (5, 7)) == (3, 4)
    weights = 12 * 2 * 9
    assert tally.params == weights + 12
    assert tally.macs == weights * 12
    assert tally.activations == 12 * 12
    assert tally.cio == 8 * 35 + 12 * 12
    assert tally.traffic == 4 * (tally.cio + weights)


def test_the_pycls_convention_counts_biases_and_pools():
    layers = {
        "conv": Conv(4, 6, 1, bias=True),
        "norm": Norm(6),
        "pool": MaxPool(6),
        "fc": Linear(6, 5),
    }
    plain, pycls = Tally(), Tally("pycls")
    for tally in (plain, pycls):
        count_paths((Path(layers),), tally, (8, 8))
    assert pycls.params == plain.params == 24 + 6 + 12 + 35
    assert pycls.macs - plain.macs == 6 * 64 + 5
    assert pycls.activations - plain.activations == 6 * 16
    assert pycls.traffic == plain.traffic


def test_tallies_add_up():
    once, many = Tally(), Tally()
    once.linear(3, 4, bias=False)
    many.add(once, 5)
    assert (many.params, many.macs, many.activations, many.traffic) == (60, 60, 20, 5 * 4 * 19)
    cost = many.cost()
    values = {name: cost.value(name) for name in cost}
    assert values == {"params": 60, "macs": 60, "activations": 20, "traffic": 380, "cio": 0}
    assert all(amount.how == "counted" for amount in cost.amounts.values())


def test_paths_start_from_the_input_or_from_what_is_pooled():
    main, side = Path({"a": Conv(2, 2, 3, 2)}), Path({"b": Conv(2, 3, 1)}, pooled=True)
    tally = Tally()
    assert count_paths((main, side), tally, (6, 6)) == (3, 3)
    assert tally.macs == 36 * 9 + 6
