"""The package ``mup``: factors on learning rates and decay by width, the readout's factor, initial weights.

By intention ours differ in three things. Norms and biases have no decay unless a recipe says so. The readout's bias
starts at zero, where ``mup`` enlarges the framework's random one. Attention keeps its 1 / sqrt(d), for the width of a
head does not grow with the network here, but the number of heads.
"""

import pytest
import torch
from torch import nn

from sartor.core.protocols import Role
from sartor.models.network import build
from sartor.models.vision.residual_mlp import ResidualMLP
from sartor.training.classification import groups_for, spec_for
from sartor.training.optimisers import SGD, AdamW
from sartor.training.parametrization import DepthMup
from sartor.training.recipe import Recipe

BASE, WIDE = 16, 64
KINDS = {  # of the parameters of Net
    "0.weight": "input", "0.bias": "bias", "1.weight": "norm", "1.bias": "norm", "2.weight": "hidden", "2.bias": "bias",
    "3.weight": "readout", "3.bias": "bias",
}  # fmt: skip


@pytest.fixture
def mup():
    return pytest.importorskip("mup")


def perceptron(mup, width):
    return nn.Sequential(
        nn.Linear(12, width), nn.LayerNorm(width), nn.Linear(width, width), mup.MuReadout(width, 5)
    )  # fmt: skip


def theirs(mup, optimiser, **options):
    """Parameters by name to the group they are in, in a perceptron that is WIDE relative to one that is BASE."""
    network = perceptron(mup, WIDE)
    mup.set_base_shapes(network, perceptron(mup, BASE), delta=perceptron(mup, 2 * BASE))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = optimiser(network.parameters(), lr=1.0, **options).param_groups
    return {names[id(p)]: group for group in groups for p in group["params"]}


def ours(rule):
    """Factors by the same names."""
    roles = {name: Role(kind, -1, 12 if name == "0.weight" else WIDE, 0) for name, kind in KINDS.items()}
    return DepthMup(base_width=BASE).lr_factors(roles, rule)


@pytest.mark.parametrize(("name", "rule"), [("MuAdam", AdamW()), ("MuAdamW", AdamW()), ("MuSGD", SGD())])
def test_factors_on_learning_rates(mup, name, rule):
    groups = theirs(mup, getattr(mup, name))
    assert ours(rule) == {key: groups[key]["lr"] for key in KINDS}


def test_every_role_has_its_own_factor(mup):
    """What the test above compares is not all ones."""
    assert set(ours(SGD()).values()) == {1.0, 4.0}
    assert set(ours(AdamW()).values()) == {1.0, 0.25}


def test_readout_at_the_start(mup):
    """Its input is divided by the ratio of widths, its weights are larger by the root of that."""
    spec = ResidualMLP(BASE, 1, channels=1, size=(4, 4), classes=5)
    recipe = Recipe(optimiser=AdamW(), parametrization=DepthMup(base_width=BASE))
    torch.manual_seed(0)
    network = build(spec_for(recipe, spec.replace(width=4096)))
    torch.manual_seed(0)
    layer = mup.MuReadout(4096, 5)
    mup.set_base_shapes(layer, mup.MuReadout(BASE, 5), delta=mup.MuReadout(2 * BASE, 5))
    assert network.spec.readout_scale == 1 / layer.width_mult()
    plain = 4096**-0.5
    assert network.head.weight.std().item() == pytest.approx(plain * layer.width_mult() ** 0.5, rel=0.02)
    uniform = plain / 3**0.5  # mup keeps the framework's, whose variance is a third of 1 / fan_in
    assert layer.weight.std().item() == pytest.approx(uniform * layer.width_mult() ** 0.5, rel=0.02)
    layer.weight.data, layer.bias.data = network.head.weight.data, network.head.bias.data
    x = torch.randn(3, 4096)
    with torch.no_grad():
        torch.testing.assert_close(network.run(x, start="block1"), layer(x))


def test_matrices_of_a_fixed_deviation(mup):
    """A transformer's matrices start smaller where both sides grow, and as they are where one does."""
    from sartor.models.scaling import wider
    from sartor.models.vision.deit import ViT

    base = ViT(BASE, 1, 2, patch=4, size=(8, 8), classes=5)
    recipe = Recipe(optimiser=AdamW(), parametrization=DepthMup(base_depth=2, base_width=BASE))
    network = build(spec_for(recipe, wider(base, 16)))
    hidden, ends = nn.Linear(256, 1024), mup.MuReadout(256, 5)
    shapes = [nn.ModuleList([nn.Linear(w, 4 * w), mup.MuReadout(w, 5)]) for w in (BASE, 2 * BASE)]
    layers = nn.ModuleList([hidden, ends])
    mup.set_base_shapes(layers, shapes[0], delta=shapes[1], rescale_params=False)
    for layer in layers:
        mup.init.normal_(layer.weight, std=0.02)
    for name, layer in (("blocks.0.mlp.fc1.weight", hidden), ("head.weight", ends)):
        expected = layer.weight.std().item()
        assert network.get_parameter(name).std().item() == pytest.approx(expected, rel=0.1), name


@pytest.mark.parametrize(("name", "rule"), [("MuAdamW", AdamW()), ("MuSGD", SGD())])
def test_learning_rate_times_decay(mup, name, rule):
    """It is the same for all parameters that decay, however wide the network is."""
    groups = theirs(mup, getattr(mup, name), weight_decay=0.1).values()
    assert {round(group["lr"] * group["weight_decay"], 9) for group in groups} == {0.1}
    recipe = Recipe(optimiser=rule, weight_decay=0.1, parametrization=DepthMup(base_width=BASE))
    network = build(spec_for(recipe, ResidualMLP(WIDE, 1, channels=1, size=(4, 4))))
    found = groups_for(recipe)({"model": network})
    assert {round(group.lr_factor * group.weight_decay, 9) for group in found} == {0.0, 0.1}
