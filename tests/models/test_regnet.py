import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.core.errors import SpecError
from sartor.core.spec import from_json, to_json
from sartor.models.anynet import AnyNet
from sartor.models.network import build, count, list_models, spec_of
from sartor.models.scaling import scale, scaling_factors
from sartor.models.vision.regnet import BLOCKS, STEMS, StageRow, anynet_x, fit_groups, quantised_line, regnet

RECORDED = json.loads(Path(__file__).with_name("pycls_complexity.json").read_text())["models"]
RATIOS = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0]


def published(name):
    """``RegNetX-3.2GF`` is regnetx_032."""
    letter, number, unit = re.fullmatch(r"RegNet([XY])-([\d.]+)([MG])F", name).groups()
    return f"regnet{letter.lower()}_{round(float(number) * (10 if unit == 'G' else 0.01)):03d}"


def counted(spec):
    cost = count(spec, convention="pycls")
    return {"acts": cost.value("activations"), "flops": cost.value("macs"), "params": cost.value("params")}


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("RegNet")])
def test_complexity_equals_the_recorded_values(name):
    assert counted(spec_of(published(name))) == RECORDED[name]


def test_all_published_models_are_recorded():
    assert sum(name.startswith("RegNet") for name in RECORDED) == 24
    assert len(list_models("regnet[xy]_*")) == 24 + 3 + 3 + 1  # and 640 to 2560, torchvision's three, one for CIFAR


@pytest.mark.parametrize(
    ("name", "ratio", "group_widths"),
    [("R-50-1x64d", 0.25, [64, 128, 256, 512]), ("X-50-32x4d", 0.5, [4, 8, 16, 32])],
)
def test_resnets_are_anynets(name, ratio, group_widths):
    rows = zip((3, 4, 6, 3), (256, 512, 1024, 2048), group_widths, (1, 2, 2, 2), strict=True)
    spec = anynet_x([StageRow(d, w, ratio, g, s) for d, w, g, s in rows]).replace(stem=STEMS["res_stem_in"](64))
    assert counted(spec) == RECORDED[name]


@pytest.mark.parametrize(
    ("name", "depth", "block"), [("R-56", 9, "basic"), ("R-110", 18, "basic"), ("V-56", 9, "vanilla")]
)
def test_cifar_anynets(name, depth, block):
    rows = [StageRow(depth, w, stride=s) for w, s in ((16, 1), (32, 2), (64, 2))]
    spec = anynet_x(rows, block=block).replace(stem=STEMS["res_stem_cifar"](16), classes=10, size=(32, 32))
    assert counted(spec) == RECORDED[name]


def test_torchvision_rounds_three_models_otherwise():
    params = {name: count(spec_of(name)).value("params") for name in list_models("regnet*_tv")}
    assert params == {"regnetx_004_tv": 5_495_976, "regnety_008_tv": 6_432_512, "regnety_080_tv": 39_381_472}


def test_cifar_example_is_within_the_sweep_it_comes_from():
    cost = count(spec_of("regnety_001_cifar"))
    assert 0.12e9 <= cost.value("macs") <= 0.13e9
    assert cost.value("params") <= 2e6
    assert cost.value("activations") <= 1e6


@pytest.mark.parametrize(
    ("parameters", "depths", "widths"),
    [
        ((13, 24, 36.44, 2.49), (1, 1, 4, 7), (24, 56, 152, 368)),
        ((22, 24, 24.48, 2.54), (1, 2, 7, 12), (24, 64, 152, 392)),  # groups of 16 make them 32, 64, 160, 384
        ((23, 320, 69.86, 2.0), (2, 7, 13, 1), (320, 640, 1280, 2560)),
    ],
)
def test_published_lines(parameters, depths, widths):
    line = quantised_line(*parameters)
    assert (line.depths, line.widths) == (depths, widths)
    assert not line.has_gap


@given(depth=st.integers(1, 64), w0=st.integers(1, 32), wa=st.floats(0, 256), wm=st.floats(1.2, 3.0))
def test_lines_follow_the_equations(depth, w0, wa, wm):
    w0 *= 8
    line = quantised_line(depth, w0, wa, wm)
    u = w0 + wa * np.arange(depth)
    s = np.round(np.log(u / w0) / np.log(wm))
    w = np.round(w0 * wm**s / 8).astype(int) * 8
    widths, depths = np.unique(w, return_counts=True)
    assert line.widths == tuple(widths)
    assert line.depths == tuple(depths)
    assert line.has_gap == (len(widths) != s.max() + 1)


def test_a_line_that_jumps_a_level_has_a_gap():
    assert quantised_line(4, 8, 100.0, 2.0).has_gap


@given(width=st.integers(1, 2048), group=st.integers(1, 256), ratio=st.sampled_from(RATIOS), tv=st.booleans())
def test_groups_fit(width, group, ratio, tv):
    fitted, groups = fit_groups(width, group, ratio, "torchvision" if tv else "even")
    inner = fitted * ratio
    assert inner == int(inner)
    assert inner % groups == 0
    assert groups <= max(group, 1)
    if inner > groups and ratio <= 1 and not tv:
        assert abs(fitted - width) <= width / 3 + 1 / ratio
    if tv:
        assert fitted >= 0.9 * width - 1 / ratio


def test_rounding_is_half_to_even():
    assert fit_groups(40, 16) == (32, 16)  # 2.5 groups
    assert fit_groups(40, 16, rounding="torchvision") == (48, 16)
    assert quantised_line(1, 20, 0.0, 2.0).widths == (16,)  # 2.5 eighths


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: regnet(12, 20, 10.0, 2.0, 8), "multiple of 8"),
        (lambda: regnet(12, 24, -1.0, 2.0, 8), "wa >= 0"),
        (lambda: regnet(12, 24, 1.0, 1.0, 8), "wm > 1"),
        (lambda: fit_groups(16, 4, 1.5), "above 1 whole"),
        (lambda: anynet_x([StageRow(1, 8)], block="why"), "unknown regnet block"),
        (lambda: scaling_factors("d1w", 2.0), "d1_w8_g8_r1"),
        (lambda: scaling_factors("d", -2.0), "positive"),
    ],
)
def test_wrong_values_are_named(call, words):
    with pytest.raises(SpecError, match=re.escape(words)) as error:
        call()
    assert "\n" not in str(error.value)


def small(block="x", se=0.0):
    rows = [StageRow(2, 16, 0.5, 4), StageRow(1, 32, 0.5, 8)]
    return anynet_x(rows, block=block, se=se).replace(stem=STEMS["res_stem_cifar"](8), size=(12, 12), classes=3)


@pytest.mark.parametrize("se", [0.0, 0.25])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_build_count_and_keep_their_seams(block, se):
    spec = small(block, se)
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
    torch.manual_seed(0)
    network = build(spec).eval()
    assert sum(p.numel() for p in network.parameters()) == count(spec).value("params")
    x = torch.randn(2, 3, 12, 12)
    expected = network(x)
    for seam in network.seams:
        assert torch.equal(network.run(network.run(x, stop=seam.name), start=seam.name), expected)
    taps = network.features(x, network.taps)
    assert all(torch.isfinite(tap).all() for tap in taps.values())


@pytest.mark.parametrize("block", ["linear", "vr"])
def test_identity_shortcuts(block):
    network = build(small(block)).eval()
    x = torch.randn(1, 16, 6, 6).relu()
    module = network.s1.b2
    norm = module.conv3.bn if block == "linear" else module.conv1.bn
    torch.nn.init.zeros_(norm.weight)
    assert torch.equal(module(x), x)


def test_linear_block_has_no_shortcut_where_the_shape_changes():
    assert not any("downsample" in name for name, _ in build(small("linear")).named_modules())


def test_se_width_follows_the_block_input():
    network = build(spec_of("regnety_002"), device="meta")
    assert [network.s1.b1.se.fc1.out_channels, network.s2.b1.se.fc1.out_channels] == [8, 6]  # quarters of 32 and 24


def test_a_head_of_another_width_and_activation_run():
    spec = replace(small(se=0.25), head_width=24, act="silu")
    network = build(spec)
    assert network(torch.randn(2, 3, 12, 12)).shape == (2, 3)
    assert sum(p.numel() for p in network.parameters()) == count(spec).value("params")


def test_scaling_factors():
    depth, width, group_width, resolution = scaling_factors("d1_w8_g8_r1", 4.0)
    assert depth * width**2 * resolution**2 == pytest.approx(4.0)
    assert width == group_width == pytest.approx(4.0 ** (8 / 10 / 2))
    assert scaling_factors("dw", 4.0) == pytest.approx((2.0, 2.0**0.5, 1.0, 1.0))
    assert scaling_factors("d1_w2", 1.0) == pytest.approx((1.0, 1.0, 1.0, 1.0))


@settings(deadline=None)
@given(name=st.sampled_from(["regnetx_002", "regnety_004", "resnet50", "resnet18"]), factor=st.floats(1.0, 16.0))
def test_scaled_networks_grow_by_about_the_factor(name, factor):
    spec = spec_of(name)
    scaled = scale(spec, factor)
    assert isinstance(scaled, AnyNet)
    assert all(stage.width % 2 == 0 for stage in scaled.stages)
    ratio = count(scaled).value("macs") / count(spec).value("macs")
    assert 0.7 * factor < ratio < 1.35 * factor


def test_scaling_by_one_changes_nothing():
    assert scale(spec_of("regnety_032"), 1.0) == spec_of("regnety_032")
