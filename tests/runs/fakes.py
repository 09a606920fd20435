"""A task and a method small enough to run through the whole machinery in a blink."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Metric, Parent, Proposal, Quality
from sartor.core.cost import Cost, counted
from sartor.core.errors import SartorError
from sartor.core.protocols import Servable, Tools
from sartor.core.seams import Signature
from sartor.core.spec import spec_kind


@spec_kind
@dataclass(frozen=True)
class Number:
    kind: ClassVar[str] = "test-number"
    value: int


class NumberTask:
    """Guess 10: quality is closeness."""

    name = kind = "guess"
    inputs = outputs = Signature({})
    metric = Metric("closeness")
    per, fingerprint = "guess", "guess-1"

    def split(self, name: str) -> Any:
        return []

    def given(self) -> Mapping[str, Any]:
        return {}

    def loss(self, output: Any, batch: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, servable: Servable, split: str) -> Quality:
        (answer,) = servable.predict([None])
        return Quality({"closeness": -abs(answer["value"] - 10.0)}, split, 1)

    def serving(self, n: int, seed: int) -> Sequence[Any]:
        return [None] * n


@dataclass
class NumberServable:
    value: float

    def predict(self, raw: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"value": self.value} for _ in raw]

    def save(self, folder: Path) -> None:
        (folder / "value.json").write_text(json.dumps(self.value))


@dataclass
class CountingMethod:
    """Two waves: numbers, then the better half again, each adding its parent's value."""

    name: str = "count"
    slow: float = 0.0

    def applies(self, task: Any, parents: Sequence[Candidate]) -> str | None:
        return None

    def propose(self, task: Any, budget: Budget, seen: Sequence[Candidate], seed: int) -> list[Proposal]:
        if not seen:
            return [self.proposal(task, value, seed) for value in range(1, 7)]
        if any(c.proposal.rung for c in seen):
            return []
        done = sorted((c for c in seen if c.quality), key=lambda c: (-c.quality.values["closeness"], c.id))  # type: ignore[union-attr]
        return [self.proposal(task, 1, seed, (Parent(c.id, "rung"),), 1) for c in done[:2]]

    def proposal(self, task: Any, value: int, seed: int, parents: tuple[Parent, ...] = (), rung: int = 0) -> Proposal:
        recipe = {"slow": self.slow}
        return Proposal(
            self.name, Number(value), recipe, task.fingerprint, seed, rung, parents, counted=counted(params=value)
        )

    def evaluate(self, proposal: Proposal, task: Any, tools: Tools) -> tuple[Servable | None, Cost]:
        value = proposal.spec.value
        if value == 4:
            raise SartorError("four cannot be made")
        if value == 5:
            os.kill(os.getpid(), 9)
        if value == 6:
            raise ZeroDivisionError("six")
        until = time.monotonic() + proposal.recipe["slow"]
        while time.monotonic() < until:
            tools.progress(0.5, "counting")
            time.sleep(0.01)
        base = json.loads((tools.parents["rung"] / "value.json").read_text()) if tools.parents else 0
        servable = NumberServable(base + value)
        servable.save(tools.artifact)
        return servable, Cost()
