from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.candidate import Candidate, Metric, Parent, Proposal, Quality
from sartor.core.cost import Amount, Cost, counted
from sartor.core.errors import ImpossibleBudget, RunError
from sartor.core.front import Front
from sartor.core.spec import spec_kind


@spec_kind
@dataclass(frozen=True)
class Thing:
    kind: ClassVar[str] = "test-thing"
    number: int


def candidate(number: int, accuracy: float, params: float, latency: float = 1.0, **changes: object) -> Candidate:
    proposal = Proposal("test", Thing(number), {}, "task", 0)
    cost = counted(params=params) | Cost({"latency": Amount(latency, "ms", "measured", "machine", 0.0)})
    made = Candidate.of(proposal)
    return made.having(
        **{"state": "done", "quality": Quality({"accuracy": accuracy}, "valid", 10), "cost": cost, **changes}
    )


def front(candidates: list[Candidate]) -> Front:
    return Front.of(candidates, task="task", metric=Metric("accuracy"), fields=("params", "latency"))


values = st.integers(0, 4).map(float)
populations = st.lists(st.tuples(values, values, values), max_size=12).map(
    lambda rows: [candidate(i, *row) for i, row in enumerate(rows)]
)


@given(populations)
def test_members_are_exactly_the_non_dominated(candidates: list[Candidate]) -> None:
    found = front(candidates)
    for c in candidates:
        dominated = any(found.dominates(other, c) for other in candidates)
        assert (c in found.members) == (not dominated)


@given(populations)
def test_dominance_is_a_strict_order(candidates: list[Candidate]) -> None:
    f = front(candidates)
    for a in candidates:
        assert not f.dominates(a, a)
        for b in candidates:
            assert not (f.dominates(a, b) and f.dominates(b, a))
            for c in candidates:
                if f.dominates(a, b) and f.dominates(b, c):
                    assert f.dominates(a, c)


@given(populations.filter(bool))
def test_adding_a_dominated_candidate_changes_nothing(candidates: list[Candidate]) -> None:
    found = front(candidates)
    worst = candidate(99, -1.0, 99.0, 99.0)
    assert front([*candidates, worst]) == found


def test_the_order_of_arrival_does_not_matter() -> None:
    candidates = [candidate(0, 0.9, 3), candidate(1, 0.8, 2), candidate(2, 0.8, 3), candidate(3, 0.9, 3)]
    assert len({tuple(c.id for c in front(list(order)).members) for order in permutations(candidates)}) == 1


def test_best_is_inside_the_budget_or_names_the_nearest() -> None:
    f = front([candidate(0, 0.9, 300), candidate(1, 0.8, 200)])
    assert f.best().proposal.spec.number == 0
    assert f.best("params<250").proposal.spec.number == 1
    with pytest.raises(ImpossibleBudget, match="params 200"):
        f.best("params<100")
    with pytest.raises(ImpossibleBudget, match="no candidate"):
        front([]).best()


def test_what_may_not_stand_on_a_front() -> None:
    good = candidate(0, 0.5, 100)
    refused = [
        candidate(1, 0.9, 1, state="failed"),
        candidate(2, 0.9, 1, quality=Quality({"accuracy": 0.9}, "valid", 10, "predicted")),
        candidate(3, 0.9, 1, quality=None),
        candidate(4, 0.9, 1, cost=counted(params=1)),
    ]
    assert front([good, *refused]).members == (good,)


def test_a_continued_candidate_is_represented_by_its_child() -> None:
    parent = candidate(0, 0.9, 100)
    proposal = Proposal("test", Thing(0), {}, "task", 0, rung=1, parents=(Parent(parent.id, "rung"),))
    child = candidate(0, 0.8, 100).having(id=Candidate.of(proposal).id, proposal=proposal)
    assert front([parent, child]).members == (child,)
    assert front([parent, child.having(state="failed")]).members == (parent,)


def test_another_task_split_or_machine_is_refused() -> None:
    other = candidate(1, 0.9, 1)
    elsewhere = Cost({"latency": Amount(1.0, "ms", "measured", "another machine")})
    with pytest.raises(RunError, match="different machines"):
        front([candidate(0, 0.5, 100), other.having(cost=other.cost | elsewhere)])
    with pytest.raises(RunError, match="judged on test"):
        front([other.having(quality=Quality({"accuracy": 0.9}, "test", 10))])
    with pytest.raises(RunError, match="belongs to task"):
        Front.of([other], task="other", metric=Metric("accuracy"), fields=("params",))
