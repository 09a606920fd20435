"""What a run tells of itself: losses added up and checked, and a line of history every so many steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sartor.core.errors import TrainingError
from sartor.core.files import write_atomic
from sartor.core.spec import Json
from sartor.training.devices import Place

HISTORY = "history.jsonl"
_UNREAD = 50  # losses left on a GPU before they are read


class History:
    """Lines of plain values by step, kept as JSON lines beside the checkpoint for learning curves.

    A line holds the step, the means of the losses since the line before, and what the loop adds. Lines after the
    checkpoint's step, and a torn last line, are dropped on resume, so that none comes twice.
    """

    def __init__(self, folder: Path | None, place: Place) -> None:
        self.place = place
        self.path = folder / HISTORY if folder and place.rank == 0 else None
        self.lines: list[Json] = []
        self.sums: dict[str, float] = {}
        self.logged = 0
        self._unread: list[tuple[int, Mapping[str, Tensor]]] = []
        self._clock: tuple[int, float] | None = None  # step and time from which the pace is taken

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Note the losses of a step; raises TrainingError if one, of this step or a few before, is not finite."""
        if self._clock is None:
            self._clock = step, time.perf_counter()
        self._unread.append((step, terms))
        if self.place.device.type == "cpu" or len(self._unread) == _UNREAD:
            self.read()

    def read(self) -> None:
        """Add up what is noted."""
        if not self._unread:
            return
        table = torch.stack([torch.stack(list(terms.values())) for _, terms in self._unread])
        for (step, terms), row in zip(self._unread, table.tolist(), strict=True):
            for name, value in zip(terms, row, strict=True):
                if not math.isfinite(value):
                    raise TrainingError(f"{name} is {value} at step {step}: lower the learning rate or clip gradients")
                self.sums[name] = self.sums.get(name, 0.0) + value
        self._unread = []

    def write(self, step: int, batch: int, **values: float) -> None:
        """A line for the ``step`` steps done so far, of ``batch`` examples each."""
        self.read()
        sums = self.place.mean(torch.tensor(list(self.sums.values()), dtype=torch.float64)).tolist()
        means = {name: value / (step - self.logged) for name, value in zip(self.sums, sums, strict=True)}
        line = {"step": step, "loss": sum(means.values()), **(means if len(means) > 1 else {}), **values}
        now = time.perf_counter()
        if self._clock is not None and self._clock[0] < step:
            line["images_per_second"] = round((step - self._clock[0]) * batch / (now - self._clock[1]), 1)
        self.sums, self.logged, self._clock = {}, step, (step, now)
        self.lines.append(line)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def begin(
        self, source: Path | None = None, step: int = 0, logged: int = 0, sums: Mapping[str, float] | None = None
    ) -> None:
        """Start empty, or take over the lines of ``source`` up to ``step`` and the sums since the last of them."""
        path = source / HISTORY if source else None
        lines = map(_parsed, path.read_text().splitlines() if path and path.exists() else [])
        self.lines = [line for line in lines if line is not None and line["step"] <= step]
        self.logged, self.sums = logged, dict(sums or {})
        if self.path:
            write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))


def _parsed(text: str) -> Json | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "step" in line else None
