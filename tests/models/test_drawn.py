"""Networks drawn at random over all kinds of block: counting equals hooks, and the laws of a backbone hold."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build, count
from sartor.models.vision.preact_resnet import Dropped, Gating, Projected, Scaling, Shortcut, Unit
from sartor.models.vision.regnet import ConvBlock, XBlock
from sartor.models.vision.res2net import MultiScale
from sartor.models.vision.resnet import Basic, Bottleneck
from sartor.models.vision.resnext import Aggregated
from sartor.testing.backbones import check_backbone, observed_cost

ORDERS = ["original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact"]
groups = st.sampled_from([1, 2, 4])
shortcuts = st.sampled_from(["A", "B", "C", "D", "none"])
carried = st.one_of(
    st.builds(Shortcut),
    st.builds(Scaling, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.5, 1.0])),
    st.builds(Gating, st.booleans(), st.sampled_from([0.0, -6.0])),
    st.builds(Projected),
    st.builds(Dropped, st.sampled_from([0.0, 0.5])),
)


@st.composite
def units(draw):
    kernels = tuple(draw(st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=4)))
    return Unit(
        kernels,
        inner=draw(st.sampled_from([0, 4, 8])),
        groups=draw(groups),
        order=draw(st.sampled_from(ORDERS)),
        shortcut=draw(carried),
        change=draw(st.sampled_from("AB")),
        stride_at=draw(st.integers(0, len(kernels) - 1)),
        dropout=draw(st.sampled_from([0.0, 0.3])),
    )


inner = st.sampled_from([4, 8, 12])
blocks = st.one_of(
    st.builds(Basic, shortcuts),
    st.builds(Bottleneck, inner, groups, shortcuts),
    st.builds(Aggregated, inner, groups, st.sampled_from("ABC"), shortcuts),
    units(),
    st.builds(
        MultiScale,
        inner,
        st.integers(1, 4),
        groups,
        st.sampled_from([0.0, 0.25]),
        shortcuts,
        st.sampled_from(["pool", "conv"]),
    ),
    st.builds(XBlock, inner, groups, st.sampled_from([0.0, 0.25]), st.booleans()),
    st.builds(ConvBlock, st.integers(1, 3), st.booleans()),
)
pools = st.sampled_from([False, True, "conv"])
shapes = st.sampled_from([4, 8]), st.sampled_from([3, 7]), st.sampled_from([1, 2]), pools
befores = st.sampled_from([(), (6,), (4, 6)])
stems = st.one_of(
    st.builds(Stem, *shapes, st.just(False)),
    st.builds(Stem, *shapes, st.just(True), befores, st.sampled_from([1, 3])),
)


@st.composite
def networks(draw):
    stem = draw(stems)
    widths = draw(st.lists(st.sampled_from([8, 12, 16, 24]), min_size=1, max_size=3))
    stages = [Stage(draw(blocks), draw(st.integers(1, 3)), w, draw(st.sampled_from([1, 2]))) for w in widths]
    names = draw(st.sampled_from(["resnet", "preact", "regnet", "resnetv2"]))
    return AnyNet(
        stem,
        tuple(stages),
        classes=draw(st.integers(1, 7)),
        channels=draw(st.sampled_from([1, 3])),
        size=draw(st.sampled_from([(16, 16), (17, 21)])),
        act=draw(st.sampled_from(["relu", "silu", "gelu"])),
        final_norm=draw(st.booleans()),
        head_width=draw(st.sampled_from([0, 12])),
        drop_path=draw(st.sampled_from([0.0, 0.2])),
        names=names,
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(networks())
def test_counting_equals_hooks(spec):
    network = build(spec, device="meta").eval()
    x = torch.empty(1, spec.channels, *spec.size, device="meta")
    assert observed_cost(network, x) == count(spec)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(networks())
def test_drawn_networks_keep_the_laws(spec):
    check_backbone(spec)
