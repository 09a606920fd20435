"""HarDNet: links, widths and figures of the paper and the released models; equal answers under the authors' names."""

import pytest
import torch
from torch import nn

from sartor.core.errors import SpecError
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build, count, list_models, spec_of
from sartor.models.vision.hardnet import Harmonic, hardnet, layer_width, links, published_cio, released_names
from sartor.testing.backbones import check_backbone, draw_inputs, randomise_norms
from sartor.weights import load_weights
from sartor.weights.config import name_of

# CIO of all convolutions, and without those that pool
CIO = {
    "hardnet39ds": (9_818_424, 8_219_064),
    "hardnet68ds": (17_324_440, 15_348_760),
    "hardnet68": (11_468_940, 11_468_940),
    "hardnet85": (17_469_284, 17_469_284),
}
LINKS = [
    [0], [1, 0], [2], [3, 2, 0], [4], [5, 4], [6], [7, 6, 4, 0], [8], [9, 8], [10], [11, 10, 8], [12], [13, 12], [14],
    [15, 14, 12, 8, 0],
]  # fmt: skip
ROWS = ((4, 10, 16, 2), (2, 6, 24, 1), (4, 8, 20, 2))


def small(depthwise=False, **changes):
    rows = [(*row[:3], 1 if i == 0 and not depthwise else row[3]) for i, row in enumerate(ROWS)]
    return hardnet((6, 8), rows, 1.7, depthwise, last_dropout=0.1).replace(classes=5, size=(64, 32), **changes)


class Released(nn.Module):
    """A HarDNet written out with the authors' names, every concatenation as the paper draws it."""

    def __init__(self, stem, rows, multiplier, depthwise, classes):
        super().__init__()
        self.base, self.blocks = nn.ModuleList(), []
        self.unit("conv", 3, stem[0], 3, 2)
        self.unit("conv", stem[0], stem[1], 1 if depthwise else 3)
        self.pool(stem[1], depthwise, nn.MaxPool2d(3, 2, 1))
        w_in = stem[1]
        for i, (length, growth, width, _) in enumerate(rows):
            widths = [w_in, *(layer_width(n, growth, multiplier) for n in range(1, length + 1))]
            layers = nn.ModuleList(
                self.layer(sum(widths[j] for j in LINKS[n - 1]), widths[n], depthwise) for n in range(1, length + 1)
            )
            block = nn.Module()
            block.layers = layers
            self.base.append(block)
            if i == len(rows) - 1:
                self.base.append(nn.Dropout(0.1))
            w_in = sum(w for n, w in enumerate(widths) if n % 2 or n == length)
            self.unit("conv", w_in, width, 1)
            w_in = width
            if i + 1 < len(rows) and rows[i + 1][3] == 2:
                self.pool(width, depthwise, nn.MaxPool2d(2, 2))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(w_in, classes))
        self.base.append(head)

    def unit(self, name, w_in, w_out, kernel, stride=1, groups=1):
        unit = self.named(name, nn.Conv2d(w_in, w_out, kernel, stride, kernel // 2, 1, groups, bias=False))
        self.base.append(unit)

    @staticmethod
    def named(name, conv):
        unit = nn.Sequential()
        unit.add_module(name, conv)
        unit.add_module("norm", nn.BatchNorm2d(conv.out_channels))
        if name == "conv":
            unit.add_module("relu", nn.ReLU6())
        return unit

    def pool(self, width, depthwise, otherwise):
        if depthwise:
            self.unit("dwconv", width, width, 3, 2, width)
        else:
            self.base.append(otherwise)

    def layer(self, w_in, w_out, depthwise):
        if not depthwise:
            return self.named("conv", nn.Conv2d(w_in, w_out, 3, 1, 1, bias=False))
        layer = nn.Sequential()
        layer.add_module("layer1", self.named("conv", nn.Conv2d(w_in, w_out, 1, bias=False)))
        layer.add_module("layer2", self.named("dwconv", nn.Conv2d(w_out, w_out, 3, 1, 1, 1, w_out, bias=False)))
        return layer

    def forward(self, x):
        for module in self.base:
            if not hasattr(module, "layers"):
                x = module(x)
                continue
            outs = [x]
            for layer, taken in zip(module.layers, LINKS, strict=False):
                outs.append(layer(torch.cat([outs[i] for i in taken], 1)))
            last = len(outs) - 1
            x = torch.cat([out for n, out in enumerate(outs) if n % 2 or n == last], 1)
        return x


def test_links():
    assert [list(links(layer)) for layer in range(1, 17)] == LINKS
    assert links(0) == ()
    for size in (2, 4, 8, 16, 32):
        assert sum(len(links(layer)) for layer in range(1, size + 1)) == 2 * size - 1


def test_widths():
    assert [layer_width(n, 14, 1.7) for n in range(1, 9)] == [14, 24, 14, 40, 14, 24, 14, 68]
    assert [layer_width(2**n, 20, 1.6) for n in range(1, 5)] == [32, 52, 82, 132]
    assert Harmonic(8, 14).widths(64) == (64, 14, 24, 14, 40, 14, 24, 14, 68)
    inputs = [sum(Harmonic(8, 14).widths(64)[i] for i in links(n)) for n in range(1, 9)]
    assert inputs == [64, 78, 24, 102, 40, 54, 24, 142]
    doubled = Harmonic(8, 16, 2.0).widths(16)
    assert all(doubled[n] == sum(doubled[i] for i in links(n)) for n in (2, 4, 8))  # as wide as what they take


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("hardnet39ds", [72, 292, 518, 730]),
        ("hardnet68", [124, 262, 328, 654, 782]),
        ("hardnet85", [214, 392, 458, 588, 784, 1252]),
    ],
)
def test_dense_widths(name, widths):
    for (_, _, block, site), width in zip(spec_of(name).blocks(), widths, strict=True):
        assert sum(block.widths(site.w_in)[i] for i in block.kept) == width
        assert block.paths(site)[0].layers["transition.conv"].w_in == width


@pytest.mark.parametrize("name", CIO)
def test_traffic(name):
    spec = spec_of(name)
    assert (count(spec).value("cio"), published_cio(spec)) == CIO[name]
    assert published_cio(spec, (448, 448)) == 4 * CIO[name][1]


def test_traffic_of_other_networks():
    assert count(spec_of("resnet18")).value("cio") == 4_666_368
    assert count(spec_of("resnet50")).value("cio") == 21_776_384
    assert published_cio(spec_of("resnet18")) == 4_666_368


def test_every_released_network_is_here():
    assert set(list_models("hardnet*")) == set(CIO)
    depths = {"hardnet39ds": 39, "hardnet68ds": 68, "hardnet68": 68, "hardnet85": 85}
    for name, depth in depths.items():
        convs = [m for m in build(spec_of(name), device="meta").modules() if isinstance(m, nn.Conv2d)]
        assert sum(conv.groups == 1 for conv in convs) + 1 == depth
        assert name_of(spec_of(name, classes=3)) == name


@pytest.mark.parametrize("depthwise", [False, True])
def test_answers_under_the_authors_names(depthwise, tmp_path):
    spec = small(depthwise)
    torch.manual_seed(0)
    theirs = Released((6, 8), ROWS, 1.7, depthwise, 5)
    x = draw_inputs(spec)
    randomise_norms(theirs, x)
    torch.save(theirs.state_dict(), tmp_path / "released.pth")
    ours = load_weights(build(spec, device="meta"), tmp_path / "released.pth").eval()
    theirs, ours, x = theirs.double(), ours.double(), x.double()
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CIO)
def test_released_names_cover_the_network(name):
    spec = spec_of(name)
    layers = {key.rpartition(".")[0] for key in build(spec, device="meta").state_dict()}
    ours = released_names(spec)
    assert sorted(ours.values()) == sorted(layers)
    if name == "hardnet39ds":
        assert ours["base.2.dwconv"] == "blocks.0.0.down.dwconv"
        assert ours["base.3.layers.1.layer2.dwconv"] == "blocks.0.0.layers.1.layer2.dwconv"
        assert ours["base.5.dwconv"] == "blocks.1.0.down.dwconv"
        assert ours["base.14.3"] == "head.fc"
    if name == "hardnet85":
        assert ours["base.18.conv"] == "blocks.5.0.transition.conv"  # 17 is the dropout
        assert ours["base.19.3"] == "head.fc"


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_laws(depthwise):
    check_backbone(small(depthwise))


def test_maps_are_let_go():
    """After the last reader of an even layer only what comes out or is still read is held."""
    block = build(small()).get_submodule("blocks.0.0")
    assert {layer: sorted(gone) for layer, gone in block._done.items() if gone} == {4: [0, 2]}


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_before_the_last_convolution(training):
    block = build(small()).get_submodule("blocks.2.0").train(training)
    x = torch.rand(2, 24, 4, 4)
    with torch.no_grad():
        torch.manual_seed(0)
        dense = block.dense(block.down(x))
        got = block(x)
        torch.manual_seed(0)
        dropped = nn.functional.dropout(dense, 0.1, training)
        expected = block.act(block.transition.norm(block.transition.conv(dropped)))
    assert torch.equal(got, expected)
    assert torch.equal(dropped, dense) is not training


def test_gradients_reach_every_parameter():
    net = build(small(True))
    net(torch.randn(4, 3, 64, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("block", "message"),
    [((6, 8), "power of two, not 6"), ((0, 8), "power of two"), ((4, 0), "at least 1"), ((4, 8, 0.5), "at least 1")],
)
def test_impossible_blocks(block, message):
    with pytest.raises(SpecError, match=message):
        Harmonic(*block)


def test_impossible_strides_and_names():
    with pytest.raises(SpecError, match="stride is 1 or 2, not 3"):
        AnyNet(Stem(8), (Stage(Harmonic(2, 4), 1, 8, 3),)).tally()
    with pytest.raises(SpecError, match="bottleneck has none"):
        released_names(spec_of("resnet50"))
