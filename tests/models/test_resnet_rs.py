"""ResNet-RS: the published pairs, the scaling rules, the parts it adds to the common network."""

import pytest
import torch
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.spec import from_json, to_json
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.layers import AvgPool
from sartor.models.network import build, spec_of
from sartor.models.vision.preact_resnet import Unit
from sartor.models.vision.regnet import XBlock
from sartor.models.vision.resnet import Bottleneck
from sartor.models.vision.resnet_rs import DEPTHS, REGIMES, resnet_rs, scale_depth, scale_width, slow_side
from sartor.testing.backbones import check_backbone

MACS = {  # of all published pairs of depth and side
    (50, 160): 2_278_629_376,
    (101, 160): 4_181_532_672,
    (101, 192): 6_012_157_952,
    (152, 192): 8_746_844_160,
    (152, 224): 11_895_185_408,
    (152, 256): 15_527_886_848,
    (200, 256): 20_093_386_752,
    (270, 256): 26_950_189_056,
    (350, 256): 34_376_597_504,
    (350, 320): 53_683_601_408,
    (420, 320): 63_942_344_704,
}


def tiny(**changes):
    block = Bottleneck(4, shortcut="D", se=0.25)
    stages = (Stage(block, 1, 16), Stage(block, 2, 16, 2), Stage(block, 1, 24, 2))
    values = {"stem": Stem(8, 3, 2, "conv", before=(4, 6)), "classes": 3, "size": (45, 45)}
    return AnyNet(**{**values, "stages": stages, **changes})


def test_the_published_pairs():
    assert [(r.depth, r.side) for r in REGIMES] == list(MACS)
    for (depth, side), macs in MACS.items():
        assert resnet_rs(depth, side).tally().macs == macs
    assert resnet_rs(50, 160).tally((224, 224)).macs == 4_454_490_112
    assert all(abs(3 * sum(blocks) + 2 - depth) <= 2 for depth, blocks in DEPTHS.items())
    assert {(spec_of(f"resnetrs{depth}").size[0], depth) for depth in DEPTHS} <= {(r.side, r.depth) for r in REGIMES}
    with pytest.raises(SpecError, match="no 50 at 224"):
        resnet_rs(50, 224)


def test_regularisation_is_the_models():
    for r in REGIMES:
        spec = resnet_rs(r.depth, r.side)
        assert (spec.dropout, spec.drop_path, spec.drop_by) == (r.dropout, r.drop_path, "stage")


def test_stochastic_depth_grows_by_stage():
    net = build(tiny(stages=tuple(Stage(Bottleneck(4), 2, 16) for _ in range(4)), drop_path=0.1, drop_by="stage"))
    rates = [net.get_submodule(f"layer{s}.{b}").drop_rate for s in range(1, 5) for b in range(2)]
    assert rates == pytest.approx([0.04, 0.04, 0.06, 0.06, 0.08, 0.08, 0.1, 0.1])


@pytest.mark.parametrize("pair", MACS)
def test_the_rules_lead_to_the_published_models(pair):
    """A budget of exactly a published model's cost: strategy 2 gives its side, strategy 1 its depth."""
    macs, spec = MACS[pair], resnet_rs(*pair)
    assert slow_side(macs) == pair[1]
    found = scale_depth(resnet_rs(50, 160), macs)
    assert (found.stages, found.size) == (spec.stages, spec.size)
    less = scale_depth(resnet_rs(50, 160), macs - 1, pair[1]) if pair[0] > 50 else None
    assert less is None or sum(stage.depth for stage in less.stages) < sum(stage.depth for stage in spec.stages)


def test_depth_keeps_the_rest():
    own = spec_of("resnetrs50", classes=7, dropout=0.1)
    deeper = scale_depth(scale_width(own, 2e9, 128), 4e9, 128)
    assert (deeper.classes, deeper.dropout, deeper.size) == (7, 0.1, (128, 128))
    assert [s.width for s in deeper.stages] == [s.width for s in scale_width(own, 2e9, 128).stages]


@pytest.mark.parametrize("macs", [2.4e9, 7e9, 3e10])
@pytest.mark.parametrize("name", ["resnetrs50", "resnext50_32x4d"])
def test_width_fills_the_budget(name, macs):
    spec = spec_of(name)
    if name == "resnext50_32x4d":
        spec = spec.replace(stages=tuple(Stage(s.block.grouped(), s.depth, s.width, s.stride) for s in spec.stages))
    wide = scale_width(spec, macs)
    assert wide.size == (slow_side(macs),) * 2
    assert 0.6 * macs < wide.tally().macs <= macs
    assert [s.depth for s in wide.stages] == [s.depth for s in spec.stages]
    ratios = {s.width / t.width for s, t in zip(wide.stages, spec.stages, strict=True)}
    assert max(ratios) <= 1.5 * min(ratios)
    assert from_json(to_json(wide)) == wide


def test_impossible_budgets():
    spec = resnet_rs(50, 160)
    for call in (lambda: slow_side(1e9), lambda: scale_depth(spec, 1e9), lambda: scale_width(spec, 1e9)):
        with pytest.raises(SpecError, match="smallest ResNet-RS needs"):
            call()
    for scaled in (scale_depth, scale_width):
        with pytest.raises(SpecError, match="take a smaller side"):
            scaled(spec, 1e6, 160)
    with pytest.raises(SpecError, match="for 4 stages, not 3"):
        scale_depth(tiny(), 1e9, 64)
    for block in (Unit(), XBlock(8)):
        with pytest.raises(SpecError, match="only bottlenecks"):
            scale_width(tiny(stages=(Stage(block, 1, 16),)), 1e9, 64)


def test_blocks_start_as_their_shortcut():
    net = build(tiny(zero_gamma=True)).eval()
    x = torch.rand(2, 16, 6, 6)
    assert torch.equal(net.run(x, start="stage2.1", stop="stage2.2"), x)


@pytest.mark.parametrize("sides", [(4, 4), (5, 7), (1, 2)])
@pytest.mark.parametrize("stride", [2, 3])
def test_average_pooling_leaves_the_border_out(sides, stride):
    x = torch.randn(1, 3, *sides)
    pooled = AvgPool(stride, stride, ceil=True).build()(x)
    assert AvgPool(stride, stride, ceil=True).add_to(None, sides) == tuple(pooled.shape[2:])
    assert torch.allclose(
        pooled[..., -1, -1],
        x[..., (sides[0] - 1) // stride * stride :, (sides[1] - 1) // stride * stride :].mean((2, 3)),
    )


def test_the_shortcut_averages():
    net = build(tiny()).eval()
    block = net.get_submodule("layer2.0")
    x = torch.randn(1, 16, 7, 7)
    shortcut, _ = block.parts(x)
    pooled = F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2) / F.avg_pool2d(F.pad(torch.ones_like(x), (0, 1, 0, 1)), 2)
    weight = block.downsample.get_submodule("1").weight
    expected = block.downsample.get_submodule("2")(F.conv2d(pooled, weight))
    torch.testing.assert_close(shortcut, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stem": Stem(8, 5, before=(4,))},
        {"stem": Stem(8, pool="conv")},
        {"stem": Stem(8, 3, 2, pool=True, before=(4,)), "names": "preact", "final_norm": True},
        {"stages": (Stage(Bottleneck(8, 2, "D"), 2, 12, 3),)},
    ],
)
def test_the_laws(changes):
    check_backbone(tiny(**changes))


def test_the_input_convolution():
    roles = build(tiny()).roles()
    assert [name for name, role in roles.items() if role.kind == "input"] == ["conv1.0.weight"]


def test_impossible_stems():
    with pytest.raises(SpecError, match="widths of at least 1 and norm"):
        Stem(8, norm=False, before=(4,))
