"""The theorems and equivalences of arXiv 1603.05027."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.network import build, spec_of
from sartor.models.vision.preact_resnet import (
    Dropped,
    Gating,
    Projected,
    Scaling,
    preact_resnet,
    preact_resnet_cifar,
    resnetv2,
)
from sartor.models.vision.resnet import padded_identity, resnet, resnet_cifar
from sartor.testing.backbones import randomise_norms

ORDERS = ("original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact")


def images(side=16, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, side, side, dtype=torch.float64, generator=generator)


def network(spec):
    torch.manual_seed(0)
    net = build(spec).double()
    randomise_norms(net, images(batch=8))
    return net.eval()


def cifar(order="full_preact", shortcut=None, unit="basic", depth=20):
    return network(preact_resnet_cifar(depth, unit, order, shortcut))


def loaded(spec, state, rename):
    """A network with the weights of another whose names ``rename`` translates."""
    net = build(spec).double().eval()
    net.load_state_dict({rename(name): value for name, value in state.items()})
    return net


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def zero_branches(net):
    for name in net.taps:
        net.get_submodule(f"stages.{int(name[5]) - 1}.blocks.{int(name.split('.')[1]) - 1}").zero_branch()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("unit", "depth"), [("basic", 20), ("bottleneck", 29), ("single", 14)])
def test_additivity(order, unit, depth):
    """Equation 4: inside a stage, x_L - x_l is the sum of the branches, where nothing follows the addition."""
    net = cifar(order, unit=unit, depth=depth)
    last = (depth - 2) // (3 * {"basic": 2, "bottleneck": 3, "single": 1}[unit])
    taps = [f"stage2.{b}.branch" for b in range(2, last + 1)]
    seen = net.features(images(), ["stage2.1", f"stage2.{last}", *taps])
    change = seen[f"stage2.{last}"] - seen["stage2.1"]
    branches = sum(seen[tap] for tap in taps)
    if order in ("original", "bn_after_add"):
        assert (change - branches).abs().max() > 1e-3
    else:
        close(change, branches)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_scaled_shortcuts_multiply(factor):
    """Equation 7: with zero branches the body of a stage is lambda^m x, and so is its gradient."""
    net = cifar(shortcut=Scaling(factor))
    zero_branches(net)
    x = net.run(images(), stop="stage2.1").detach().requires_grad_()
    y = net.run(x, start="stage2.1", stop="stage2.3")
    close(y, factor**2 * x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    close(gradient, torch.full_like(x, factor**2))


def test_zero_branches_are_the_identity():
    net = cifar()
    zero_branches(net)
    x = net.run(images(), stop="stage3.1")
    assert torch.equal(net.run(x, start="stage3.1", stop="stage3.3"), x)


def test_spec_can_start_branches_at_zero():
    for order in ORDERS:
        net = build(preact_resnet_cifar(20, order=order).replace(zero_gamma=True)).eval()
        x = net.run(images().float(), stop="stage1.1")
        close(net.run(x, start="stage1.1", stop="stage1.3"), x, 1e-4 if order == "bn_after_add" else 0.0)


@pytest.mark.parametrize(("exclusive", "scaling"), [(True, Scaling(0.5, 0.5)), (False, Scaling(0.5, 1.0))])
@pytest.mark.parametrize("order", ORDERS)
def test_gates_at_zero_are_constant_scaling(exclusive, scaling, order):
    gated = cifar(order, Gating(exclusive, 0.0))
    for name, parameter in gated.named_parameters():
        if ".gate." in name:
            nn.init.zeros_(parameter)
    scaled = build(preact_resnet_cifar(20, order=order, shortcut=scaling)).double().eval()
    scaled.load_state_dict({name: value for name, value in gated.state_dict().items() if ".gate." not in name})
    close(gated(images()), scaled(images()))


def test_gates_start_at_their_bias():
    net = build(preact_resnet_cifar(20, shortcut=Gating(bias=-6.0)))
    biases = [value for name, value in net.named_parameters() if name.endswith("gate.bias")]
    assert len(biases) == 9
    assert all((bias == -6.0).all() for bias in biases)
    assert (1 - torch.sigmoid(biases[0][0])).item() == pytest.approx(0.99753, abs=1e-5)
    roles = net.roles()
    assert {roles[name].kind for name in roles if name.endswith("gate.bias")} == {"bias"}
    assert {roles[name].kind for name in roles if name.endswith("gate.weight")} == {"hidden"}


def test_dropped_shortcuts_only_in_training():
    dropped = cifar("original", Dropped(0.5))
    plain = loaded(preact_resnet_cifar(20, order="original"), dropped.state_dict(), str)
    assert torch.equal(dropped(images()), plain(images()))
    zero_branches(dropped.train())
    nn.init.zeros_(dropped.get_parameter("stages.0.blocks.0.norm2.bias"))
    x = dropped.run(images(), stop="stem")
    y = dropped.run(x, start="stem", stop="stage1.1")
    kept = y != 0
    close(y[kept], 2 * x[kept])
    assert 0.4 < kept.sum() / (x != 0).sum() < 0.6


def test_projected_shortcuts_are_everywhere():
    for order, normalised in (("original", True), ("bn_after_add", False), ("full_preact", False)):
        net = build(preact_resnet_cifar(20, order=order, shortcut=Projected()), device="meta")
        names = [name for name, _ in net.named_modules()]
        assert sum(name.endswith("downsample.conv") for name in names) == 9
        assert sum(name.endswith("downsample.norm") for name in names) == 9 * normalised


def test_signs_of_the_orders():
    """Section 4.1: what the position of the last activation does to what crosses the seams."""
    for order in ORDERS:
        net = cifar(order)
        seen = net.features(images(), [f"stage{s}.{b}" for s in (1, 2, 3) for b in (1, 2, 3)])
        if order in ("original", "bn_after_add"):
            assert all((x >= 0).all() for x in seen.values())
        elif order == "relu_before_add":
            assert all((seen[f"stage{s}.{b + 1}"] >= seen[f"stage{s}.{b}"]).all() for s in (1, 2, 3) for b in (1, 2))
        else:
            assert all((x < 0).any() and (x > 0).any() for x in seen.values())


def asymmetric(net, x):
    """The last sum, and its activation, of a network whose activation after the addition acts on the branch alone."""
    carried = entry = net.run(x, stop="stem")
    for stage, number, _, site in net.spec.blocks():
        block = net.get_submodule(net.spec.block_path(stage, number))
        carried = padded_identity(carried, site) + block.parts(entry)[1]
        entry = F.relu(block.norm2(carried) if block.kind.order == "bn_after_add" else carried)
    return carried, entry


def test_asymmetric_activation_is_preactivation():
    """Figure 5, for activation by ReLU alone and by normalisation and ReLU."""
    original = cifar("original")
    ours = build(preact_resnet_cifar(20, order="relu_preact")).double().eval()
    missing, _ = ours.load_state_dict(original.state_dict(), strict=False)
    assert all(name.startswith("norm.") for name in missing)
    close(ours.run(images(), stop="stage3.3"), asymmetric(original, images())[0])

    after = cifar("bn_after_add")
    units = [f"stages.{s}.blocks.{b}" for s in range(3) for b in range(3)]
    follows = dict(itertools.pairwise(units))

    def rename(name):
        for unit in units:
            if name.startswith(f"{unit}.norm2"):
                return name.replace(f"{unit}.norm2", f"{follows[unit]}.norm1" if unit in follows else "norm")
        return name.replace(".norm1", ".norm2")

    full = loaded(preact_resnet_cifar(20), after.state_dict(), rename)
    close(full.run(images(), stop="norm"), asymmetric(after, images())[1])


def test_original_order_is_resnet():
    ours = cifar("original")

    def rename(name):
        if not name.startswith("stages."):
            return name.replace("stem.conv", "conv1").replace("stem.norm", "bn1").replace("head.fc", "fc")
        _, stage, _, block, rest = name.split(".", 4)
        rest = rest.replace("downsample.conv", "downsample.0").replace("downsample.norm", "downsample.1")
        return f"layer{int(stage) + 1}.{block}.{rest.replace('norm', 'bn')}"

    close(ours(images()), loaded(resnet_cifar(20), ours.state_dict(), rename)(images()), 0.0)
    for bottleneck in (True, False):
        twin = network(preact_resnet([1, 2, 1], bottleneck, "original"))
        theirs = loaded(resnet([1, 2, 1], bottleneck), twin.state_dict(), rename)
        close(twin(images(48)), theirs(images(48)), 0.0)


def test_stem_rules_agree_where_scales_are_positive():
    """The maximum of activations is the activation of the maximum: normalising before or after pooling is one."""
    paper = network(preact_resnet([2, 1], bottleneck=True).replace(classes=7))

    def rename(name):
        return name.replace("stem.norm", "stages.0.blocks.0.norm1")

    state = {name: v[:, :, None, None] if name == "head.fc.weight" else v for name, v in paper.state_dict().items()}
    theirs = loaded(resnetv2([2, 1], bottleneck=True).replace(classes=7), state, rename)
    close(paper(images(48)), theirs(images(48)))


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("preact_resnet110_cifar", 54),
        ("preact_resnet110_1layer_cifar", 108),
        ("preact_resnet164_cifar", 54),
        ("preact_resnet1001_cifar", 333),
    ],
)
def test_unit_counts(name, units):
    assert len(list(spec_of(name).blocks())) == units


def test_where_the_stride_is():
    for spec, strides in (
        (preact_resnet_cifar(29, "bottleneck"), [2, 1, 1]),
        (preact_resnet([1, 1, 1, 1], True), [1, 2, 1]),
    ):
        block = build(spec, device="meta").get_submodule("stages.1.blocks.0")
        assert [block.get_submodule(f"conv{i}").stride[0] for i in (1, 2, 3)] == strides


def test_first_unit_and_end():
    """The stem activates for the first unit, whose shortcut sees activated values; one more norm ends the net."""
    net = build(spec_of("preact_resnet110_cifar"), device="meta")
    modules = dict(net.named_modules())
    assert "stages.0.blocks.0.norm1" not in modules
    assert {"stem.norm", "stages.0.blocks.1.norm1", "norm"} <= set(modules)
    assert "norm" not in dict(build(spec_of("resnet164_cifar"), device="meta").named_modules())


def test_shortcuts_in_json_form():
    spec = preact_resnet_cifar(20, order="original", shortcut={"kind": "gated_shortcut", "bias": -3.0})
    assert spec.stages[0].block.shortcut == Gating(False, -3.0)
    with pytest.raises(SpecError, match="cannot stand where Shortcut is needed"):
        preact_resnet_cifar(20, shortcut={"kind": "basic"})


def test_wrong_numbers():
    for unit, depth in (("basic", 21), ("bottleneck", 21), ("single", 9)):
        with pytest.raises(SpecError, match=f"with {unit} units"):
            preact_resnet_cifar(depth, unit)
    block = preact_resnet_cifar(20).stages[0].block
    with pytest.raises(SpecError, match="no convolution 2 of 2"):
        replace(block, stride_at=2)
