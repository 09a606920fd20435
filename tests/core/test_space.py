import dataclasses
import json
import math
import pickle
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.budget import Budget
from sartor.core.cost import counted
from sartor.core.errors import ImpossibleBudget, SpecError
from sartor.core.genes import Choice, Int, Real, Repeat
from sartor.core.space import Config, SearchSpace, Space
from sartor.core.spec import spec_kind
from sartor.testing.spaces import LAWS, cases, check_space

SEEDS = st.integers(0, 2**32)
UNIFORMS = st.floats(0, 1, exclude_max=True)


@spec_kind
@dataclass(frozen=True)
class Box:
    kind: ClassVar[str] = "test_box"
    sides: tuple[int, ...]


def volume(box):
    return counted(params=math.prod(box.sides), macs=10 * sum(box.sides))


def to_box(config):
    return Box((config["width"], *config["depth"][: config["stages"]], config.get("extra", 1)))


def toy(**changes):
    genes = (
        Choice("stages", (1, 2, 3)),
        Repeat(Int("depth", 1, 6, 1, "log_uniform"), 3, "increasing"),
        Int("width", 8, 256, 8, "log_uniform"),
        Choice("extra", (1, 2, 5), (1.0, 1.0, 2.0)),
    )
    rules = {"active": {"extra": lambda values: values["stages"] > 1}, "valid": lambda config: config["width"] != 16}
    return Space("toy", genes, to_box, volume, **(rules | changes))


def made_even(values):
    return {**values, "b": values["b"] ^ (values["a"] + values["b"]) % 2}


def repaired():
    genes = (Int("a", 0, 9), Int("b", 0, 9))
    return Space("even", genes, lambda c: Box((c["a"] + 1, c["b"] + 1)), volume, repair=made_even)


@given(seed=SEEDS)
@pytest.mark.parametrize("make", [toy, repaired])
def test_laws(make, seed):
    space = make()
    assert isinstance(space, SearchSpace)
    check_space(space, seeds=[seed])


class Forgetful(Space):
    """Breaks one law or another."""

    def decode(self, vector):
        return super().decode(vector[::-1])


class Restless(Space):
    def sample(self, rng):
        return super().sample(np.random.default_rng())


@pytest.mark.parametrize(("kind", "law"), [(Forgetful, "encodes"), (Restless, "repeats"), (Restless, "determines")])
def test_broken_spaces_are_found(kind, law):
    fields = {f.name: getattr(repaired(), f.name) for f in dataclasses.fields(Space)}
    with pytest.raises(AssertionError):
        check_space(kind(**fields), [law])


def test_every_law_is_a_case():
    checks = dict(cases({"toy": toy()}))
    assert {*checks} == {f"toy-{law}" for law in LAWS}
    for check in checks.values():
        check()


@st.composite
def numbers(draw):
    """A number gene of any law whose ends fit its quantum."""
    law = draw(st.sampled_from(["uniform", "log_uniform", "normal", "log_normal"]))
    quantum = draw(st.sampled_from([1, 8, 0.1, 0.001, 1e-10, 1 / 128]))
    low = draw(st.integers(-50 if law in ("uniform", "normal") else 1, 500))
    high = low + draw(st.integers(0, 3000))
    scale = Real("scale", 0.0, 1e9, quantum)  # the floats nearest to multiples of the quantum
    low, high = (math.copysign(scale.at(abs(end)), end) for end in (low, high))
    return (
        Int("n", int(low), int(high), quantum, law) if isinstance(quantum, int) else Real("n", low, high, quantum, law)
    )


@st.composite
def powers(draw):
    law = draw(st.sampled_from(["power2_uniform", "power2_or_log_uniform"]))
    low = draw(st.integers(-6, 6))
    high = low + draw(st.integers(0, 8))
    quantum = draw(st.integers(-7, low if law == "power2_uniform" else 8))
    return Real("n", 2.0**low, 2.0**high, 2.0**quantum, law)


@given(gene=numbers() | powers(), u=UNIFORMS)
def test_draws_are_on_the_grid_and_survive_encoding(gene, u):
    index = gene.quantile(u)
    assert 0 <= index < gene.levels
    value = gene.at(index)
    assert gene.low <= value <= gene.high
    assert gene.index(value) == index
    assert gene.index(json.loads(json.dumps(value))) == index
    assert isinstance(value, int) == isinstance(gene, Int)


@given(gene=numbers() | powers(), a=UNIFORMS, b=UNIFORMS)
def test_quantiles_do_not_decrease(gene, a, b):
    assert gene.quantile(min(a, b)) <= gene.quantile(max(a, b))


@given(gene=numbers() | powers())
def test_both_ends_belong_to_the_grid(gene):
    assert gene.at(0) == gene.low
    assert gene.at(gene.levels - 1) == gene.high


def shares(gene, draws=40_000):
    us = (np.arange(draws) + 0.5) / draws
    found = Counter(gene.at(gene.quantile(u)) for u in us)
    return {value: found[value] / draws for value in sorted(found)}


def bell(z):
    """The cumulative normal law, cut at three standard deviations."""
    cdf = NormalDist().cdf
    return (cdf(max(-3.0, min(3.0, z))) - cdf(-3.0)) / (cdf(3.0) - cdf(-3.0))


@pytest.mark.parametrize(
    ("gene", "expected"),
    [
        (Int("n", 3, 6), {3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}),
        (Real("n", -0.1, 0.1, 0.1), {-0.1: 1 / 3, 0.0: 1 / 3, 0.1: 1 / 3}),
        # from half the low end to the high end, rounded up: log 2 / log 8 and so on
        (Int("n", 1, 4, 1, "log_uniform"), {1: 1 / 3, 2: 1 / 3, 3: math.log(1.5, 8), 4: math.log(4 / 3, 8)}),
        (Int("n", 2, 16, 1, "power2_uniform"), {2: 0.25, 4: 0.25, 8: 0.25, 16: 0.25}),
        # powers below 4, then multiples of 4 log-uniform from 2 to 16
        (
            Int("n", 1, 16, 4, "power2_or_log_uniform"),
            {1: 0.2, 2: 0.2, 4: 0.2, 8: 0.2, 12: 0.6 * math.log(1.5, 8), 16: 0.6 * math.log(4 / 3, 8)},
        ),
        (Real("n", 0.25, 4.0, 4.0, "power2_or_log_uniform"), {0.25: 0.2, 0.5: 0.2, 1.0: 0.2, 2.0: 0.2, 4.0: 0.2}),
        (Int("n", 0, 6, 1, "normal"), {n: bell(n - 2.5) - bell(n - 3.5) for n in range(7)}),
        (Choice("n", ("a", "b"), (1.0, 3.0)), {"a": 0.25, "b": 0.75}),
    ],
)  # fmt: skip
def test_laws_give_the_shares_they_should(gene, expected):
    assert shares(gene) == pytest.approx(expected, abs=2e-4)


def test_log_normal_is_normal_in_the_logarithm():
    gene = Real("n", 1.0, 64.0, 1e-6, "log_normal")
    assert [math.log2(gene.at(gene.quantile(u))) for u in (0.5, 0.8413)] == pytest.approx([3.0, 4.0], abs=0.01)


@pytest.mark.parametrize(
    ("order", "size"),
    [("free", 6**3), ("constant", 6), ("increasing", math.comb(8, 3)), ("decreasing", math.comb(8, 3))],
)
def test_sizes_of_repeats(order, size):
    gene = Repeat(Int("n", 1, 6), 3, order)
    every = {gene.decode(indices) for indices in np.ndindex(*(gene.levels,) * gene.entries)}
    assert gene.size == len(every) == size
    assert all(gene.decode(gene.encode(value)) == value for value in every)
    if order == "decreasing":
        assert all(list(value) == sorted(value, reverse=True) for value in every)


def test_inactive_genes_are_absent():
    space = toy()
    config = space.decode(np.array([0, 0, 1, 2, 9, 1]))
    assert "extra" not in config
    assert space.encode(config).tolist() == [0, 0, 1, 2, 9, -1]
    assert space.encode(space.decode(np.array([1, 0, 1, 2, 9, -1]))).tolist() == [1, 0, 1, 2, 9, 0]


def test_vectors_of_another_length_are_refused():
    with pytest.raises(SpecError, match="has 6 entries, not 5"):
        toy().decode(np.zeros(5))


def test_other_numbers_are_rounded_and_clipped():
    assert toy().decode(np.array([9.0, -3, 2.4, 99, 8.6, 0.2])) == toy().decode(np.array([2, 0, 2, 5, 9, 0]))


def test_space_reads_configurations_back():
    space = toy()
    config = space.sample(np.random.default_rng(1))
    assert space.config(json.loads(json.dumps(dict(config)))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert {config: 1}[space.config(dict(config))] == 1
    assert config.id == space.config(dict(config)).id
    assert space.size() == 3 * math.comb(8, 3) * 32 * 3
    assert space.levels.tolist() == [3, 6, 6, 6, 32, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widht": 8}, "did you mean width"),
        ({"width": 9}, "gene width: 9 is not on the grid"),
        ({"width": True}, "gene width: True is not on the grid"),
        ({"stages": 4}, "one of 1, 2, 3"),
        ({"depth": [3, 2, 1]}, "is not a list of 3, increasing"),
        ({"depth": 3}, "is not a list of 3, increasing"),
        ({"width": 16}, "not valid"),
        ({"stages": 1}, "which its rules make of it"),
    ],
)
def test_foreign_values_are_named(change, words):
    good = {"stages": 2, "depth": [1, 2, 3], "width": 24, "extra": 5}
    with pytest.raises(SpecError, match=words) as error:
        toy().config(good | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Int("n", 3, 2), "low <= high"),
        (lambda: Int("n", 1, 9, 2), "multiples of the step"),
        (lambda: Int("n", 0, 9, 1, "log_uniform"), "must be positive"),
        (lambda: Int("n", 3, 12, 1, "power2_uniform"), "powers of two"),
        (lambda: Real("n", 0.0, 1.0, 0.0), "a positive step"),
        (lambda: Real("n", 0.0, 1.0, 0.1, "unfirom"), "unknown law 'unfirom'"),
        (lambda: Int("n", 0.5, 1, 1), "must be whole"),
        (lambda: Choice("n", ()), "needs values"),
        (lambda: Choice("n", (1, 1)), "given twice"),
        (lambda: Choice("n", (1, 2), (0.0, 0.0)), "needs values"),
        (lambda: Repeat(Int("n", 1, 2), 0), "at least 1"),
        (lambda: Space("s", (Int("n", 1, 2), Int("n", 1, 2)), dict, volume), "one name"),
        (lambda: toy(active={"nothing": bool}), "unknown gene"),
    ],
)  # fmt: skip
def test_wrong_genes_are_named(make, words):
    with pytest.raises(SpecError, match=words):
        make()


def test_within_gives_up_and_names_the_nearest():
    space = toy(tries=300).within(Budget.parse("params<2"))
    words = r"none of 300 draws is within params<2; the nearest has params \d+"
    with pytest.raises(ImpossibleBudget, match=words) as error:
        space.sample(np.random.default_rng(0))
    assert "\n" not in str(error.value)


def test_a_space_without_valid_configurations_says_so():
    with pytest.raises(SpecError, match="none of 50 draws is valid"):
        toy(valid=lambda config: False, tries=50).sample(np.random.default_rng(0))


def test_bounds_add_up_and_measured_ones_are_left_out():
    space = toy().within(Budget.parse("params<=1000, latency<1ms"))
    space = space.within(Budget.parse("macs<2k"), floor=Budget.parse("params<100"))
    assert str(space.budget) == "params<=1k, macs<2k"
    for seed in range(50):
        cost = space.count(space.sample(np.random.default_rng(seed)))
        assert 100 <= cost.value("params") <= 1000
        assert cost.value("macs") < 2000


def test_a_strict_bound_is_strict():
    space = Space("one", (Int("a", 1, 2),), lambda c: Box((c["a"],)), volume)
    rng = np.random.default_rng(0)
    assert {space.within(Budget.parse("params<2")).sample(rng)["a"] for _ in range(20)} == {1}
    assert {space.within(Budget.parse("params<=2")).sample(rng)["a"] for _ in range(20)} == {1, 2}


def test_mutation_moves_one_entry_and_reaches_everything():
    space, rng = toy(valid=None, active={}), np.random.default_rng(0)
    config, seen = space.sample(rng), set()
    for _ in range(3000):
        child = space.mutate(config, rng)
        moved = Counter(config["depth"]) - Counter(child["depth"])
        assert sum(moved.values()) + sum(config[n] != child[n] for n in ("stages", "width", "extra")) == 1
        config = child
        seen.add(config["width"])
    assert len(seen) > 28


def test_operations_without_alternatives_return_the_parent():
    space = Space("one", (Int("a", 1, 1),), lambda c: Box((1,)), volume)
    config = space.sample(np.random.default_rng(0))
    assert space.mutate(config, np.random.default_rng(0)) == config
    assert space.cross(config, config, np.random.default_rng(0)) == config


def test_crossing_takes_every_entry_from_a_parent():
    space = toy(valid=None)
    a, b = space.decode(np.array([2, 0, 0, 0, 0, 0])), space.decode(np.array([2, 5, 5, 5, 31, 2]))
    for seed in range(50):
        child = space.encode(space.cross(a, b, np.random.default_rng(seed)))
        assert all(x in (p, q) for x, p, q in zip(child, space.encode(a), space.encode(b), strict=True))


def test_configs_cannot_be_changed():
    config = Config({"a": 1})
    with pytest.raises(TypeError):
        config["a"] = 2
