"""What a run found, for reading: its front, and models that answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Metric
from sartor.core.cost import Cost
from sartor.core.errors import RunError
from sartor.core.front import Front
from sartor.core.spec import Json
from sartor.runs.delivery import BEST, front_fields
from sartor.runs.fates import family_fates, recipe_fates
from sartor.runs.measuring import SERVED
from sartor.runs.run import Run
from sartor.runtime.opening import open_servable


@dataclass(frozen=True)
class Model:
    """A candidate of a run that can be served; ``folder`` holds its files."""

    candidate: Candidate
    folder: Path

    @property
    def cost(self) -> Cost:
        """What it costs, counted and measured."""
        return self.candidate.cost

    @property
    def quality(self) -> dict[str, float]:
        """Its qualities on the validation split."""
        return dict(self.candidate.quality.values) if self.candidate.quality else {}

    @cached_property
    def classifier(self) -> Any:
        """The opened model: an ``ImageClassifier`` or an ``ImageSegmenter``."""
        return open_servable(self.folder)

    def predict(self, raw: Any) -> Any:
        """The answer for one picture (path, bytes, Pillow image, uint8 array HWC), or a list of answers for a list.

        A classifier's answer has "label", "index", "probability" and "probabilities", a segmenter's "mask" and
        "shares". Raises DataError for what is no picture.
        """
        if isinstance(raw, Sequence) and not isinstance(raw, str | bytes):
            return self.classifier.predict(raw)
        return self.classifier.predict([raw])[0]


class Result:
    """A run, read: ``front``, ``best()`` and what else it holds. Raises RunError if the folder is no run."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        with Run(self.folder) as run:
            facts = {name: run.ledger.fact(name) for name in ("run", "task", "winner", "dropped", "finished")}
            self.facts: Json = {name: value for name, value in facts.items() if value is not None}
            self.candidates = run.ledger.candidates()

    @cached_property
    def budget(self) -> Budget:
        """The budget the run was given."""
        return Budget.parse(self.facts.get("run", {}).get("budget"))

    @cached_property
    def front(self) -> Front:
        """The measured candidates that none other is better and cheaper than; empty before they are measured."""
        task = self.facts.get("task", {})
        return Front.of(
            self.candidates, task=task.get("fingerprint", ""), metric=self.metric, fields=front_fields(self.budget)
        )

    @cached_property
    def families(self) -> dict[str, str]:
        """Every family the run knew and what became of it: "chosen", or at which rung it was dropped and why."""
        winner = self.facts.get("winner", {})
        return family_fates(
            self.candidates, self.facts.get("dropped", {}), self.metric, self.budget, winner.get("id", "")
        )

    @cached_property
    def recipes(self) -> dict[str, str]:
        """The recipes that were drawn, by what they have other than the default, and what became of each."""
        return recipe_fates(self.candidates, self.metric, self.budget, self.facts.get("winner", {}).get("id", ""))

    @property
    def metric(self) -> Metric:
        """What candidates are compared by."""
        task = self.facts.get("task", {})
        return Metric(task.get("metric", "accuracy"), task.get("higher_is_better", True))

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.folder / "report.html"

    def __iter__(self) -> Iterator[Model]:
        return (Model(c, self.folder / SERVED / c.id) for c in self.front.members)

    def model(self, id: str) -> Model:
        """A measured candidate by its id or the beginning of it; raises RunError if none or several fit."""
        found = [m for m in self if m.candidate.id.startswith(id)]
        if len(found) != 1:
            ids = ", ".join(m.candidate.id for m in self) or "none was measured"
            raise RunError(f"{len(found) or 'no'} candidates of the front begin with {id!r}; there are: {ids}")
        return found[0]

    def best(self, budget: Budget | str | None = None) -> Model:
        """The run's winner, or the best of the front inside another budget.

        Raises RunError if the run has not finished, ImpossibleBudget naming the nearest.
        """
        winner = self.facts.get("winner")
        if winner is None:
            raise RunError(f"run {self.folder} has not finished; repeat the command that began it")
        if budget is None:
            candidate = next(c for c in self.candidates if c.id == winner["id"])
            return Model(candidate.having(cost=Cost.from_json(winner["cost"])), self.folder / BEST)
        candidate = self.front.best(budget)
        return Model(candidate, self.folder / SERVED / candidate.id)
