"""The Pareto front of quality against cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Metric
from sartor.core.errors import ImpossibleBudget, RunError


@dataclass(frozen=True, slots=True)
class Front:
    """The non-dominated candidates of one task, one metric and one machine.

    A candidate dominates another if its quality is no worse, every field costs no more, and one of these is
    strictly better. ``members`` are sorted from best quality to worst, then by id.
    """

    members: tuple[Candidate, ...]
    task: str
    metric: Metric
    fields: tuple[str, ...]
    split: str = "valid"

    @classmethod
    def of(
        cls, candidates: Iterable[Candidate], *, task: str, metric: Metric, fields: Iterable[str], split: str = "valid"
    ) -> Front:
        """The front of those candidates that may stand on it: done, networks or the like, quality measured.

        A candidate that trained on as another (a child with role ``rung``) is represented by that child.
        Raises RunError for candidates of another task or split, or measured on different machines.
        """
        listed = list(candidates)
        continued = {c.parent("rung") for c in listed if c.state == "done"}
        front = cls((), task, metric, tuple(fields), split)
        eligible = [c for c in listed if c.id not in continued and front._eligible(c)]
        front._check(eligible)
        kept: list[Candidate] = []
        for c in sorted(eligible, key=front._rank):  # what dominates a candidate ranks before it
            if not any(front.dominates(other, c) for other in kept):
                kept.append(c)
        return cls(tuple(kept), task, metric, front.fields, split)

    def dominates(self, a: Candidate, b: Candidate) -> bool:
        """Whether ``a`` is at least as good as ``b`` in everything and better in something."""
        if self.quality(a) == self.quality(b):
            no_worse, better = True, False
        else:
            no_worse = better = self.metric.better(self.quality(a), self.quality(b))
        costs = [(a.cost.value(f), b.cost.value(f)) for f in self.fields]
        return no_worse and all(x <= y for x, y in costs) and (better or any(x < y for x, y in costs))

    def quality(self, candidate: Candidate) -> float:
        """The metric's value of a member."""
        assert candidate.quality is not None
        return candidate.quality.values[self.metric.name]

    def best(self, budget: Budget | str | None = None) -> Candidate:
        """The best member inside the budget by measurement; raises ImpossibleBudget naming the nearest."""
        limits = Budget.parse(budget)
        inside = [c for c in self.members if limits.verdict(c.cost) == "in"]
        if not inside:
            near = self.nearest(limits)
            if near is None:
                raise ImpossibleBudget("no candidate was measured, so the front is empty")
            raise ImpossibleBudget(f"no candidate is within {limits}; the nearest has {limits.describe(near.cost)}")
        return min(inside, key=self._rank)

    def nearest(self, budget: Budget | str) -> Candidate | None:
        """The member whose worst ratio of cost to limit is smallest."""
        limits = Budget.parse(budget)
        return min(self.members, key=lambda c: (limits.distance(c.cost), self._rank(c)), default=None)

    def _rank(self, candidate: Candidate) -> tuple[float, tuple[float, ...], str]:
        sign = -1.0 if self.metric.higher_is_better else 1.0
        return sign * self.quality(candidate), tuple(candidate.cost.value(f) for f in self.fields), candidate.id

    def _eligible(self, c: Candidate) -> bool:
        served = c.proposal.kind in ("network", "pipeline", "embedding")
        measured = c.quality is not None and c.quality.how == "measured" and self.metric.name in c.quality.values
        return c.state == "done" and served and measured and all(c.cost.get(f) for f in self.fields)

    def _check(self, candidates: list[Candidate]) -> None:
        for c in candidates:
            if c.proposal.task != self.task:
                raise RunError(f"candidate {c.id} belongs to task {c.proposal.task}, the front to {self.task}")
            if c.quality is not None and c.quality.split != self.split:
                raise RunError(f"candidate {c.id} was judged on {c.quality.split}, the front on {self.split}")
        for field in self.fields:
            machines = {c.cost.amounts[field].on for c in candidates}
            if len(machines) > 1:
                raise RunError(f"{field} was measured on different machines ({', '.join(sorted(machines))})")
