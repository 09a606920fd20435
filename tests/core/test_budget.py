from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.budget import Bound, Budget
from sartor.core.cost import BATCHED, BOUNDABLE, FIELDS, STATISTICS, Amount, Cost, Quantity, counted
from sartor.core.errors import BudgetError


def quantity(field: str, p95: bool, batch: int) -> Quantity:
    statistic = STATISTICS[0] if p95 and FIELDS[field].dimension == "time" else ""
    return Quantity(field, statistic, batch if field in BATCHED else 1)


quantities = st.builds(quantity, st.sampled_from(BOUNDABLE), st.booleans(), st.integers(1, 512))
bounds = st.builds(Bound, quantities, st.booleans(), st.floats(1e-6, 1e15, allow_subnormal=False))
budgets = st.lists(bounds, max_size=6, unique_by=lambda b: b.quantity).map(lambda b: Budget(tuple(b)))


@given(budgets)
def test_a_budget_reads_back_what_it_writes(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "field", "limit"),
    [
        ("latency<2ms", "latency", 2.0),
        ("latency<1.5s", "latency", 1500.0),
        ("params<=1.5M", "params", 1.5e6),
        ("macs<300M", "macs", 3e8),
        ("storage<200MB", "storage", 2e8),
        ("memory<1GB", "peak_memory", 1e9),
        ("params < 10_000".replace("_", ""), "params", 1e4),
        ("memory<512MiB", "peak_memory", 512 * 2**20),
    ],
)
def test_amounts_are_read_in_their_units(text: str, field: str, limit: float) -> None:
    (bound,) = Budget.parse(text).bounds
    assert (bound.quantity.field, bound.limit) == (field, limit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latencies<2ms", "latency"),
        ("latency<2MB", "ms"),
        ("params<1ms", "k, K, M"),
        ("params", "write one like"),
        ("params>1M", "only upper bounds"),
        ("params<0", "more than zero"),
        ("params<-5", "not an amount"),
        ("latency.p50x<2ms", "p95"),
        ("params.p95<2M", "other fields none"),
        ("latency@0<2ms", "at least 1"),
        ("latency@x<2ms", "at least 1"),
        ("latency<", "write one like"),
    ],
)
def test_what_cannot_be_read_is_answered_with_what_can(text: str, says: str) -> None:
    with pytest.raises(BudgetError, match=says) as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


def test_of_two_bounds_on_one_quantity_the_tighter_counts() -> None:
    assert str(Budget.parse("params<2M, params<=1M, params<1M")) == "params<1M"


def test_an_unknown_amount_is_never_in() -> None:
    budget = Budget.parse("params<10, latency<2ms")
    assert budget.verdict(counted(params=5)) == "unknown"
    assert budget.verdict(counted(params=10)) == "out"
    assert Budget().verdict(Cost()) == "in"


def test_a_measured_amount_is_held_by_its_upper_end() -> None:
    budget = Budget.parse("latency<2ms")

    def verdict(spread: float) -> str:
        return budget.verdict(Cost({"latency": Amount(1.5, "ms", "measured", "here", spread)}))

    assert verdict(0.4) == "in"
    assert verdict(0.5) == "out"


@given(budgets, st.floats(0.01, 100))
def test_inside_is_where_the_distance_is_below_one(budget: Budget, ratio: float) -> None:
    cost = Cost({str(b.quantity): Amount(b.limit * ratio, b.quantity.kind.unit, "counted") for b in budget.bounds})
    if budget.bounds and abs(ratio - 1) > 1e-9:
        assert (budget.verdict(cost) == "in") == (budget.distance(cost) < 1)


def test_counted_and_measured_bounds_come_apart() -> None:
    budget = Budget.parse("params<1M, latency<2ms")
    assert str(budget.of("counted")) == "params<1M"
    assert str(budget.of("measured")) == "latency<2ms"
