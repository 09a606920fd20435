"""What became of every family and every recipe in a run: chosen, or at which rung it was dropped and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Metric

_LATER = ("held", "final", "views")


def family_fates(
    candidates: Sequence[Candidate], dropped: Mapping[str, str], metric: Metric, budget: Budget, chosen: str = ""
) -> dict[str, str]:
    """One line for every family, those drawn first; empty for one that is still in the race.

    ``dropped`` are the families that were not drawn, with the reason; ``chosen`` is the winner's id. Networks drawn
    small by choice compete among themselves and count only for a family without others.
    """
    race = _Race(candidates, metric, budget, chosen, lambda c: str(c.proposal.recipe.get("family", "")))
    return {**{family: race.fate(family) for family in race.groups}, **dropped}


def recipe_fates(candidates: Sequence[Candidate], metric: Metric, budget: Budget, chosen: str = "") -> dict[str, str]:
    """One line for every recipe that was drawn, under what it has other than its family's default."""
    race = _Race(candidates, metric, budget, chosen, ingredients_text)
    return {name: race.fate(name) for name in race.groups}


def ingredients_text(candidate: Candidate) -> str:
    """In what a candidate's recipe differs from the default of its family."""
    return ", ".join(candidate.proposal.recipe.get("ingredients", ())) or "default"


def _phase(candidate: Candidate) -> str:
    return str(candidate.proposal.recipe.get("phase", "rung"))


class _Race:
    """The candidates by group and by rung."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        metric: Metric,
        budget: Budget,
        chosen: str,
        group: Callable[[Candidate], str],
    ) -> None:
        self.candidates = {c.id: c for c in candidates}
        self.metric, self.budget, self.chosen = metric, budget, chosen
        self.continued = {p.id for c in candidates for p in c.proposal.parents}
        self.groups: dict[str, list[Candidate]] = defaultdict(list)
        for c in candidates:
            if c.proposal.method == "halving":
                self.groups[group(c)].append(c)

    def fate(self, name: str) -> str:
        """One line for a group."""
        found = self.groups[name]
        if any(c.id == self.chosen for c in found):
            return "chosen"
        found = [c for c in found if not c.proposal.recipe.get("small")] or found
        drawn = [c for c in found if _phase(c) == "draw"]
        trained = [c for c in found if _phase(c) in ("rung", *_LATER)]
        if not trained:
            return self._untrained(drawn)
        judged = [c for c in trained if self._value(c) is not None]
        if not judged:
            return f"failed in rung 0: {trained[0].why}" if trained[0].state in ("failed", "stopped") else ""
        last = max(judged, key=lambda c: (c.proposal.rung, self._sign(c)))
        return self._judged(last)

    def _untrained(self, drawn: Sequence[Candidate]) -> str:
        """Why no network of a group was trained."""
        done = [c for c in drawn if c.state == "done"]
        if not done:
            failed = [c for c in drawn if c.state in ("failed", "stopped")]
            return f"drawn, but not trained: {failed[0].why}" if failed else ""
        if not any(_phase(c) == "rung" for c in self.candidates.values()):
            return ""  # the run has not come so far
        out = [c for c in done if self.budget.verdict(c.cost) == "out"]
        if len(out) == len(done):
            nearest = min(out, key=lambda c: self.budget.distance(c.cost))
            return f"drawn, but not trained: outside the budget, {self.budget.describe(nearest.cost)}"
        middle = median(self._steps(list(self.candidates.values())))
        return (
            f"drawn, but not trained: too slow, a training step takes {min(self._steps(done)):.3f} s against "
            f"{middle:.3f} s of the one in the middle"
        )

    def _steps(self, candidates: Sequence[Candidate]) -> list[float]:
        """Seconds of a training step on one core of those that were drawn, but for the small ones."""
        found = [c for c in candidates if _phase(c) == "draw" and not c.proposal.recipe.get("small")]
        return [amount.value for c in found if (amount := c.cost.get("step_seconds")) is not None] or [0.0]

    def _judged(self, last: Candidate) -> str:
        """How a group's furthest network did against those that went on."""
        rung, value = last.proposal.rung, self._value(last)
        if _phase(last) in ("final", "views"):
            best = self.candidates.get(self.chosen)
            against = (
                f" against {self._value(best):.4g} of the chosen" if best and self._value(best) is not None else ""
            )
            return f"trained to the end: {value:.4g}{against}"
        peers = [c for c in self.candidates.values() if _phase(c) == "rung"]
        onward = [c for c in peers if c.id in self.continued and not c.proposal.recipe.get("small")]
        passed = [c for c in onward if c.proposal.rung == rung and self._value(c) is not None]
        if not passed or last.id in {c.id for c in passed}:
            return ""
        worst = min(passed, key=self._sign)
        return (
            f"rung {rung}, trained {self._seconds(last):.0f} s: {value:.4g} against {self._value(worst):.4g} of the "
            "last that went on"
        )

    def _seconds(self, candidate: Candidate) -> float:
        """The training time of a candidate with all it trained on from."""
        total, here = 0.0, candidate
        while True:
            amount = here.cost.get("train_seconds")
            total += amount.value if amount else 0.0
            parent = here.parent("rung")
            if parent is None or parent not in self.candidates:
                return total
            here = self.candidates[parent]

    def _value(self, candidate: Candidate) -> float | None:
        return None if candidate.quality is None else candidate.quality.values.get(self.metric.name)

    def _sign(self, candidate: Candidate) -> float:
        """A number that grows with the quality."""
        value = self._value(candidate)
        assert value is not None
        return value if self.metric.higher_is_better else -value
