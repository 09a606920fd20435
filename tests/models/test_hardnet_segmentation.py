"""FC-HarDNet, FC-DenseNet and FCN heads: published figures, and answers of networks written out plainly."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.network import build, count, spec_of
from sartor.models.vision.fcn import FCN, fcn
from sartor.models.vision.hardnet_segmentation import DenseUNet
from sartor.testing.backbones import cases, randomise_norms

# name: params in millions, GMACs (the table gives twice as many), CIO in MB, at 352 x 480
TABLE = {
    "fc_hardnet68": (1.4, 15, 473),
    "fc_hardnet76": (3.5, 54, 932),
    "fc_hardnet84": (8.4, 100, 1267),
    "fc_hardnet_ref100": (3.6, 151, 2076),
    "fc_densenet56": (1.4, 60, 1351),
    "fc_densenet67": (3.5, 140, 2286),
    "fc_densenet103": (9.4, 134, 2150),
    "fc_densenet_ref100": (3.5, 142, 3337),
}
SMALL = DenseUNet(((6, 2), (8, 1)), (4, 2, 4), (4, 6, 4), 1.7, (12, 16, 20), classes=3, size=(32, 48))
TIRAMISU = DenseUNet(((6, 1),), (2, 4), (4, 6), 1.7, classes=3, size=(16, 16))
PLAIN = DenseUNet(((6, 1),), (3, 2), (4, 4), 0.0, classes=3, size=(16, 16), dropout=0.2)


def test_the_released_network():
    spec = spec_of("fc_hardnet70")
    tally = spec.tally((256, 512))
    assert (tally.params, tally.macs, tally.cio) == (4_119_257, 2_201_089_152, 17_018_752)
    net = build(spec, device="meta")
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 70
    assert [level.w_out for level in spec.levels] == [48, 78, 160, 214, 286]
    assert [up[1:3] for up in spec.ups().values()] == [(534, 267), (374, 187), (238, 119), (126, 63)]


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_table(name):
    params, gflops, cio = TABLE[name]
    tally = spec_of(name).tally()
    assert tally.params / 1e6 == pytest.approx(params, rel=0.03)
    assert 2 * tally.macs / 1e9 == pytest.approx(gflops, rel=0.03)
    assert 4 * tally.cio / 2**20 == pytest.approx(cio, rel=0.04)


def test_layers_as_the_depth_names_say():
    for name in ("fc_hardnet68", "fc_hardnet76", "fc_hardnet84", "fc_densenet56", "fc_densenet67", "fc_densenet103"):
        net = build(spec_of(name), device="meta")
        layers = sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in net.modules())
        assert layers == int("".join(c for c in name if c.isdigit()))


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=name)
        for name, check in cases(
            {
                "small": SMALL,
                "tiramisu": TIRAMISU,
                "plain": PLAIN,
                "fcn-vit": fcn("deit_tiny_patch16_224", 4).replace(size=(32, 48), width=24, depth=2, heads=3),
                "fcn-swin": fcn("swin_tiny_patch4_window7_224", 4).replace(
                    size=(32, 64), width=24, depths=(2, 2, 1), heads=(1, 2, 3)
                ),
                "fcn-resnetv2": fcn("resnetv2_18", 4).replace(size=(64, 64)),
            }
        )
    ],
)
def test_laws(check):
    check()


def concat_block(net, name, links, x):
    outs = [x]
    for n, taken in enumerate(links):
        layer = net.get_submodule(f"{name}.layers.{n}")
        outs.append(F.relu(layer.norm(layer.conv(torch.cat([outs[i] for i in taken], 1)))))
    return torch.cat([outs[i] for i in range(1, len(outs)) if i % 2 or i == len(outs) - 1], 1)


FOUR, TWO = [[0], [1, 0], [2], [3, 2, 0]], [[0], [1, 0]]


def test_the_u_shape_is_the_papers():
    """The released layout written out: skips before the 1x1's, means, corners aligned, halved widths."""
    torch.manual_seed(0)
    net = build(SMALL)
    x = torch.randn(2, 3, 36, 52)
    randomise_norms(net, torch.randn(2, 3, 32, 48))

    def cbr(name, x):
        unit = net.get_submodule(name)
        return F.relu(unit.norm(unit.conv(x)))

    def up(x, other):
        return F.interpolate(x, other.shape[2:], mode="bilinear", align_corners=True)

    with torch.no_grad():
        h = cbr("base.1", cbr("base.0", x))
        first = concat_block(net, "base.2", FOUR, h)
        second = concat_block(net, "base.5", TWO, F.avg_pool2d(cbr("base.3", first), 2))
        third = cbr("base.9", concat_block(net, "base.8", FOUR, F.avg_pool2d(cbr("base.6", second), 2)))
        h = cbr("conv1x1_up.0", torch.cat([up(third, second), second], 1))
        h = concat_block(net, "denseBlocksUp.0", TWO, h)
        h = cbr("conv1x1_up.1", torch.cat([up(h, first), first], 1))
        h = concat_block(net, "denseBlocksUp.1", FOUR, h)
        expected = up(net.finalConv(h), x)
        assert torch.allclose(net(x), expected, atol=1e-5)


def test_the_dense_layout_is_fc_densenets():
    torch.manual_seed(0)
    net = build(PLAIN)
    randomise_norms(net, torch.randn(4, 3, 16, 16))

    def layer(name, x):
        unit = net.get_submodule(name)
        return unit.conv(F.relu(unit.norm(x)))

    def block(name, count, x):
        outs = [x]
        for n in range(count):
            outs.append(layer(f"{name}.layers.{n}", torch.cat(outs, 1)))
        return outs

    x = torch.randn(2, 3, 17, 16)
    with torch.no_grad():
        skip = torch.cat(block("base.1", 3, net.get_submodule("base.0").conv(x)), 1)
        bottom = torch.cat(block("base.4", 2, F.max_pool2d(layer("base.2", skip), 2))[1:], 1)
        large = net.get_submodule("transUpBlocks.0")(bottom)[:, :, :17, :16]
        expected = net.finalConv(torch.cat(block("denseBlocksUp.0", 3, torch.cat([large, skip], 1)), 1))
        assert torch.allclose(net(x), expected, atol=1e-5)


@pytest.mark.parametrize("spec", [SMALL, PLAIN, fcn("resnet18", 3)])
def test_any_size_gives_a_mask_of_that_size(spec):
    net = build(spec).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 41, 70)).shape == (1, 3, 41, 70)


def test_recomputed_blocks_have_equal_gradients():
    torch.manual_seed(0)
    net, x = build(SMALL).train(), torch.randn(2, 3, 32, 48)
    found = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        net(x).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


def test_the_head_on_resnet50():
    spec = spec_of("fcn_resnet50", classes=6)
    net = build(spec, device="meta")
    head = sum(p.numel() for name, p in net.named_parameters() if name.startswith("classifier"))
    assert head == 9_441_286
    assert count(spec).value("params") == 23_508_032 + head
    assert not any(name.startswith("backbone.fc") for name, _ in net.named_parameters())


def test_what_cannot_be():
    with pytest.raises(SpecError, match="a levit network gives no map"):
        fcn("levit_128s")
    with pytest.raises(SpecError, match="residual-mlp"):
        fcn("residual_mlp4_64")
    with pytest.raises(SpecError, match="power of two"):
        DenseUNet(((6, 1),), (3, 2), (4, 4), 1.7)
    with pytest.raises(SpecError, match="too small"):
        spec_of("fc_hardnet68").tally((16, 16))
    assert isinstance(spec_of("fcn_resnet50"), FCN)
