import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.network import build, spec_of
from sartor.models.vision.simplenet import MODES, PlainUnit, SimpleNet, simplenet, simplenet_caffe, units_of
from sartor.testing.backbones import randomise_norms
from sartor.weights.create import create_model

PORTED = ("simplenet_cifar_310k", "simplenet_cifar_5m_extra_pool", "simplenetv1_small_m2_05")
IMAGENET = [64, 128, 128, 128, 128, 128, "P", 256, 256, 256, 512, "P", "2048k1", "256k1", 256]
ROW = [8, 8, "P", 8, "16k1", "P", 8]


class Port(nn.Module):
    """The port's layout: a Sequential of conv, bn, relu and dropouts in two places, global maximum, a matrix.

    ``between`` has dropouts after all units, else after those that no pooling follows; poolings always have one.
    """

    def __init__(self, spec, between):
        super().__init__()
        layers, w_in = [], spec.channels
        for unit in spec.units:
            layers += [
                nn.Conv2d(w_in, unit.width, unit.kernel, unit.stride, unit.kernel // 2),
                nn.BatchNorm2d(unit.width, momentum=0.05),
                nn.ReLU(),
            ]
            if between or unit.pool == "none":
                layers.append(nn.Dropout2d(0.0))
            if unit.pool == "end":
                layers += [nn.MaxPool2d(2, 2), nn.Dropout2d(0.0)]
            w_in = unit.width
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(w_in, spec.classes)

    def forward(self, x):
        x = self.features(x)
        return self.classifier(F.max_pool2d(x, x.shape[2:]).flatten(1))


def images(spec, batch=2):
    shape = batch, spec.channels, *spec.size
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("between", [True, False])
@pytest.mark.parametrize("name", PORTED)
def test_checkpoints_of_the_port(name, between, prefix, tmp_path):
    torch.manual_seed(0)
    spec = spec_of(name).replace(size=(64, 64))
    theirs, x = Port(spec, between), images(spec)
    randomise_norms(theirs, x)
    save_file({f"{prefix}{key}": value for key, value in theirs.state_dict().items()}, tmp_path / "port.safetensors")
    ours = create_model(name, weights=tmp_path / "port.safetensors").eval()
    torch.testing.assert_close(ours.double()(x.double()), theirs.double()(x.double()), rtol=0, atol=1e-9)


def test_a_training_step_of_the_port():
    torch.manual_seed(0)
    spec = simplenet(ROW)
    theirs, ours, x = Port(spec, True).double().train(), build(spec).double().train(), images(spec, 4).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for net in (theirs, ours):
        net(x).square().mean().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12, msg=name)  # statistics: the momentum too


@pytest.mark.parametrize(("mode", "macs"), [(3, 2_035_394_560), (4, 2_729_027_584)])
def test_slower_modes(mode, macs):
    tally = simplenet(IMAGENET, mode=mode, classes=1000, size=224).tally()
    assert (tally.params, tally.macs) == (5_752_808, macs)


@pytest.mark.parametrize("mode", MODES)
def test_modes_stride_convolutions_alone(mode):
    units = simplenet(IMAGENET, mode=mode).units
    assert tuple(unit.stride for unit in units[:6]) == (MODES[mode] + (1,) * 6)[:6]
    assert {unit.stride for unit in units[6:]} == {1}
    assert [unit.pool for unit in units] == ["none"] * 5 + ["end"] + ["none"] * 3 + ["end"] + ["none"] * 3


def test_maps_of_a_small_net_at_224():
    net = build(spec_of("simplenetv1_small_m2_05"), device="meta")
    names = [seam.name for seam in net.seams]
    maps = net.features(torch.empty(1, 3, 224, 224, device="meta"), names)
    assert [maps[name].shape[2] for name in names[:-1]] == [112, 56, 56, 28, 28, 14, 14, 14, 14, 7, 7, 7, 7]
    assert maps["pool"].shape == (1, 128)
    assert names == [*(f"stage1.{i}" for i in range(1, 7)), *(f"stage2.{i}" for i in range(1, 5)),
                     "stage3.1", "stage3.2", "stage3.3", "pool"]  # fmt: skip


def test_thirteen_convolutions():
    for name in ("simplenet_cifar_310k", "simplenet_caffe_460k", "simplenetv1_9m_m1", "simpnet_cifar_9m"):
        assert len(spec_of(name).units) == 13


def test_widths_are_rounded_to_even():
    assert [unit.width for unit in units_of([5, 7, "9k1"], 0.5)] == [2, 4, 4]


def rates(spec):
    return [unit.drop for unit in spec.units], [unit.pool_drop for unit in spec.units]


def test_dropout_of_the_paper():
    """After every unit but 9 and 13; after the pooling where that ends units 4 and 12, not where it comes early."""
    after_units, after_pools = rates(spec_of("simplenet_caffe_5m"))
    assert [n for n, rate in enumerate(after_units, 1) if rate] == [1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert [n for n, rate in enumerate(after_pools, 1) if rate] == [4, 12]
    assert {*after_units, *after_pools} == {0.0, 0.2}


def test_dropout_of_the_second_version():
    spec = spec_of("simpnet_cifar_5m")
    after_units, after_pools = rates(spec)
    assert after_units == [0.2] * 4 + [0.0] + [0.2] * 4 + [0.0] + [0.3] * 2 + [0.0]
    assert (after_pools[4], after_pools[9], spec.dropout) == (0.2, 0.3, 0.3)


def test_rates_at_positions_of_a_row():
    spec = simplenet(ROW, rates={"1": 0.1, "2": 0.2, "4": 0.3})
    assert rates(spec) == ([0.0, 0.1, 0.0, 0.3, 0.0], [0.0, 0.2, 0.0, 0.0, 0.0])
    with pytest.raises(SpecError, match="no layer 7 to drop after among 7"):
        simplenet(ROW, rates={"7": 0.1})


@pytest.mark.parametrize("whole_maps", [True, False])
def test_what_is_dropped(whole_maps):
    spec = SimpleNet((PlainUnit(64, drop=0.5),), map_dropout=whole_maps)
    net = build(spec).train()
    nn.init.constant_(net.units.get_submodule("0").norm.bias, 100.0)  # nothing is zero but what is dropped
    torch.manual_seed(0)
    zero = (net.run(images(spec), stop="stage1.1") == 0).double().mean((2, 3))
    assert zero.mean().item() == pytest.approx(0.5, abs=0.15)
    assert bool(((zero == 0) | (zero == 1)).all()) == whole_maps


def test_dropout_is_nothing_in_eval_mode():
    plain, dropped = (simplenet_caffe(ROW, drop=rate, head=rate) for rate in (0.0, 0.5))
    net, other = build(plain).eval(), build(dropped).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(images(plain)), other(images(plain)))
    assert not torch.equal(net(images(plain)), other.train()(images(plain)))


def test_the_papers_own_form():
    """The tail has no norms, unit 7 pools before it normalises, and pooled sizes are rounded up."""
    spec = spec_of("simplenet_caffe_310k")
    net = build(spec, device="meta")
    assert [hasattr(unit, "norm") for unit in net.units.children()] == [True] * 10 + [False] * 3
    assert list(dict(net.units.get_submodule("6").named_children())) == ["conv", "pool", "norm", "act"]
    assert list(dict(net.units.get_submodule("3").named_children())) == ["conv", "norm", "pool", "act"]
    small = spec_of("simplenet_caffe_mnist", size=(28, 28))
    assert build(small)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert "units.11.norm.weight" in build(simplenet_caffe([8] * 12)).state_dict()


def test_early_pooling_is_what_the_norm_sees():
    spec = simplenet_caffe([8, "P", 8], early=[1])
    net, x = build(spec), images(spec)
    randomise_norms(net, x)
    unit = net.units.get_submodule("0")
    torch.testing.assert_close(net.run(x, stop="stage1.1"), unit.norm(F.max_pool2d(unit.conv(x), 2)).relu())


def test_the_maximum_is_pooled():
    spec = simplenet(ROW)
    net, x = build(spec).eval(), images(spec)
    assert torch.equal(net.run(x, stop="pool"), net.run(x, stop="stage3.1").amax((2, 3)))


@pytest.mark.parametrize("layer", ["conv", "bias", "classifier"])
def test_the_initial_weights(layer):
    torch.manual_seed(0)
    net = build(simplenet([64, 128]))
    conv = net.units.get_submodule("1").conv
    values, bound = {
        "conv": (conv.weight, (2 * 6 / (9 * 64 + 9 * 128)) ** 0.5),
        "bias": (conv.bias, (9 * 64) ** -0.5),
        "classifier": (net.classifier.weight, 128**-0.5),
    }[layer]
    assert values.abs().max().item() == pytest.approx(bound, rel=0.05)
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_checkpointing_changes_nothing():
    x = images(simplenet(ROW), 4)
    nets = []
    for enable in (False, True):
        torch.manual_seed(0)
        net = build(simplenet(ROW, rates={"0": 0.3})).train()
        net.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        net(x).square().sum().backward()
        nets.append(net)
    for (name, mine), other in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad), name
    for (name, mine), other in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def test_wrong_rows():
    with pytest.raises(SpecError, match="'P' in a row of layers"):
        simplenet([8, "P", "P"])
    with pytest.raises(SpecError, match="'8x1' in a row of layers"):
        simplenet(["8x1"])
    with pytest.raises(SpecError, match="mode 5 is none of 0, 1, 2, 3, 4"):
        simplenet([8], mode=5)
    with pytest.raises(SpecError, match="at least one unit"):
        simplenet([])
    with pytest.raises(SpecError, match="unit 2 has a width"):
        SimpleNet((PlainUnit(8), PlainUnit(0)))
    with pytest.raises(SpecError, match="too small"):
        simplenet(ROW).tally((3, 3))
