import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.core.budget import Budget
from sartor.core.errors import SpecError
from sartor.core.rng import generator
from sartor.models.network import count, list_models, spec_of
from sartor.models.vision.regnet import STEMS, ConvBlock, XBlock, quantised_line
from sartor.search.design_space import BASE, Setting, anynet_space, between, population, regnet_space, rule_of_thumb
from sartor.testing.spaces import check_space

CIFAR = Setting(BASE.replace(stem=STEMS["res_stem_cifar"](16), size=(32, 32), classes=10))


@pytest.mark.parametrize("space", [anynet_space("A"), anynet_space("E"), regnet_space()], ids=lambda space: space.name)
def test_laws(space):
    check_space(space, seeds=range(4))


@pytest.mark.parametrize(
    ("level", "size"),
    [
        ("A", (16 * 128 * 3 * 6) ** 4),
        ("B", (16 * 128 * 6) ** 4 * 3),
        ("C", (16 * 128) ** 4 * 3 * 6),
        ("D", 16**4 * math.comb(131, 4) * 3 * 6),  # the paper divides by 4!, which leaves out equal widths
        ("E", math.comb(19, 4) * math.comb(131, 4) * 3 * 6),
    ],
)
def test_sizes(level, size):
    assert anynet_space(level).size() == size


def test_sizes_are_those_of_the_paper():
    paper = {"A": 1.8e18, "B": 6.8e16, "C": 3.2e14, "D": 1.3e13, "E": 5.5e11}
    ratios = {level: anynet_space(level).size() / size for level, size in paper.items()}
    assert all(0.95 < ratios[level] < 1.07 for level in "ABCD")
    assert ratios["E"] == pytest.approx(
        1.49, abs=0.01
    )  # equal depths, which its C / (4!)^2 counts for 1 / 24, are many


@pytest.mark.parametrize("level", "ABCDE")
def test_restrictions_hold(level):
    space = anynet_space(level)
    for seed in range(30):
        config = space.sample(np.random.default_rng(seed))
        assert len({*config["bottle_ratio"]}) == 1 or level == "A"
        assert len({*config["group_width"]}) == 1 or level in "AB"
        assert [*config["width"]] == sorted(config["width"]) or level in "ABC"
        assert [*config["depth"]] == sorted(config["depth"]) or level != "E"
        assert [stage.depth for stage in space.spec(config).stages] == [*config["depth"]]


@pytest.mark.parametrize(
    ("order", "holds"),
    [("decreasing", lambda w: [*w] == sorted(w, reverse=True)), ("constant", lambda w: len({*w}) == 1)],
)
def test_controls_replace_restrictions(order, holds):
    space = anynet_space("E", orders={"width": order})
    for seed in range(20):
        config = space.sample(np.random.default_rng(seed))
        assert holds(config["width"])
        assert [*config["depth"]] == sorted(config["depth"])


def test_a_list_sorts_the_same_draws_in_either_order():
    rising, falling = (anynet_space("C", orders={"width": o}) for o in ("increasing", "decreasing"))
    for seed in range(20):
        a, b = (space.sample(np.random.default_rng(seed)) for space in (rising, falling))
        assert a["width"] == b["width"][::-1]
        assert a["depth"] == b["depth"]


def test_share_of_valid_regnets():
    """pycls's default sampler: about 22 % of its draws are whole lines of four stages, about 30 % leave out a width."""
    every, rng = regnet_space(stages=(1, 64)), generator(0, "share")
    draws = 20_000
    whole = [config for config in (every.attempt(rng) for _ in range(draws)) if config is not None]
    assert len(whole) / draws == pytest.approx(0.70, abs=0.02)
    four = sum(len(every.spec(config).stages) == 4 for config in whole)
    assert four / draws == pytest.approx(0.223, abs=0.012)


def test_regnets_are_lines():
    space = regnet_space()
    for seed in range(30):
        config = space.sample(np.random.default_rng(seed))
        line = quantised_line(config["depth"], config["w0"], config["wa"], config["wm"])
        spec = space.spec(config)
        assert not line.has_gap
        assert tuple(stage.depth for stage in spec.stages) == line.depths
        assert all(isinstance(stage.block, XBlock) and stage.stride == 2 for stage in spec.stages)


def test_regnet_controls():
    doubling = regnet_space(ranges={"wm": (2.0, 2.0)})
    tied = regnet_space(tied=True)
    config = tied.sample(np.random.default_rng(0))
    assert "wa" not in config
    line = quantised_line(config["depth"], config["w0"], config["w0"], config["wm"])
    assert tuple(stage.depth for stage in tied.spec(config).stages) == line.depths
    assert {doubling.sample(np.random.default_rng(seed))["wm"] for seed in range(20)} == {2.0}


@pytest.mark.parametrize(
    ("block", "kind", "genes"),
    [
        ("x", XBlock, {"depth", "width", "bottle_ratio", "group_width"}),
        ("r", XBlock, {"depth", "width", "bottle_ratio"}),
        ("v", ConvBlock, {"depth", "width"}),
        ("vr", ConvBlock, {"depth", "width"}),
    ],
)
def test_block_studies_have_the_genes_their_block_uses(block, kind, genes):
    space = anynet_space("C", Setting(block=block))
    config = space.sample(np.random.default_rng(0))
    assert {*config} == genes
    blocks = [stage.block for stage in space.spec(config).stages]
    assert all(isinstance(b, kind) for b in blocks)
    if block == "r":
        assert all(b.groups == 1 for b in blocks)


def test_y_blocks_and_strides_come_from_the_setting():
    setting = Setting(CIFAR.base, se=0.25, strides=(1,))
    spec = anynet_space("A", setting, stages=3).spec(anynet_space("A", stages=3).sample(np.random.default_rng(0)))
    assert [stage.stride for stage in spec.stages] == [1, 2, 2]
    assert all(stage.block.se == 0.25 for stage in spec.stages)
    assert spec.stem.stride == 1


def test_rule_of_thumb():
    assert str(rule_of_thumb(4e9)) == "macs<=4G, params<=25M, activations<=13M"
    for name in list_models("regnetx_*[0-9]"):
        cost = count(spec_of(name))
        assert rule_of_thumb(cost.value("macs")).verdict(cost) == "in"


def test_population_is_unique_and_within_bounds():
    space = regnet_space().within(*between({"macs": (360e6, 400e6), "params": (0, 8e6)}))
    found = population(space, 40, seed=3)
    assert len({*found}) == 40
    for config in found:
        cost = space.count(config)
        assert 360e6 <= cost.value("macs") <= 400e6
        assert cost.value("params") <= 8e6


def test_population_is_the_same_with_any_number_of_workers():
    space = anynet_space("A", CIFAR, stages=3).within(Budget.parse("macs<200M"))
    alone = population(space, 60, seed=7)
    assert population(space, 60, seed=7) == alone
    assert population(space, 30, seed=7) == alone[:30]
    assert population(space, 60, seed=8) != alone
    with ThreadPoolExecutor(3) as pool:
        assert population(space, 60, seed=7, pool=pool) == alone
    carried = pickle.loads(pickle.dumps(space))  # as a process pool does
    assert population(carried, 60, seed=7) == alone


def test_a_small_space_is_found_whole_or_said_to_be_too_small():
    ranges = {"depth": (1, 2), "width": (8, 16), "bottle_ratio": (1, 1), "group_width": (1, 1)}
    space = anynet_space("E", stages=1, ranges=ranges)
    assert len(population(space, 4)) == space.size() == 4
    with pytest.raises(SpecError, match="only 4 of 5 configurations found in 1000 draws"):
        population(space, 5, draws=1000)


@settings(deadline=None, max_examples=30)
@given(level=st.sampled_from("ABCDE"), seed=st.integers(0, 2**32))
def test_widths_hold_whole_groups(level, seed):
    space = anynet_space(level)
    for stage in space.spec(space.sample(np.random.default_rng(seed))).stages:
        assert stage.block.inner % stage.block.groups == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (partial(anynet_space, "F"), "AnyNetX space 'F'"),
        (partial(anynet_space, "A", ranges={"widht": (8, 16)}), "did you mean width"),
        (partial(anynet_space, "A", orders={"w": "free"}), "unknown gene 'w'"),
        (partial(regnet_space, ranges={"w0": (8, 20)}), "multiples of the step"),
    ],
)
def test_wrong_values_are_named(call, words):
    with pytest.raises(SpecError, match=words):
        call()
