"""What a run directory holds, read for its report. Whatever is missing or torn is empty here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Metric
from sartor.core.cost import Amount, Cost, Quantity
from sartor.core.errors import RunError
from sartor.core.front import Front
from sartor.core.spec import Json
from sartor.runs.evaluation import ARTIFACTS, WORK
from sartor.runs.run import Run

FACTS = ("run", "versions", "machine", "task", "plan", "dropped", "winner", "finished")
BEST, JUDGED, SKIPPED, HISTORY = "best", "judged.json", "skipped.jsonl", "history.jsonl"
_AXES = ("params", "macs", "latency", "peak_memory", "storage")  # after those the budget bounds
_MOST_AXES = 6


@dataclass(frozen=True)
class Findings:
    """A run as it stands: facts, candidates in the order asked, the run's story, the winner's test evaluation."""

    folder: Path
    facts: Mapping[str, Any]
    candidates: Sequence[Candidate]
    events: Sequence[tuple[float, str | None, str]]
    judged: Json
    skipped: Sequence[Json]
    skipped_count: int
    _fronts: dict[tuple[str, ...], Sequence[Candidate]] = field(default_factory=dict)
    _histories: dict[str, Sequence[Json]] = field(default_factory=dict)

    @cached_property
    def run(self) -> Json:
        """The command's values: data, budget, time, seed, families, strict."""
        return self.facts["run"] or {}

    @cached_property
    def task(self) -> Json:
        """Name, metric, classes, sizes of splits, fingerprint, notices."""
        return self.facts["task"] or {}

    @cached_property
    def winner(self) -> Json:
        """The exported candidate with its test quality, checks and cost, or empty."""
        return self.facts["winner"] or {}

    @cached_property
    def metric(self) -> Metric:
        """What candidates are compared by."""
        return Metric(self.task.get("metric", "accuracy"), self.task.get("higher_is_better", True))

    @cached_property
    def budget(self) -> Budget:
        """The bounds that were asked for."""
        return Budget.parse(self.run.get("budget"))

    @cached_property
    def by_id(self) -> Mapping[str, Candidate]:
        """Candidates by id."""
        return {c.id: c for c in self.candidates}

    @cached_property
    def continued(self) -> frozenset[str]:
        """Ids of candidates that trained on as another."""
        return frozenset(p for c in self.candidates if c.state == "done" and (p := c.parent("rung")))

    @cached_property
    def leaves(self) -> Sequence[Candidate]:
        """Those that were judged and did not train on as another."""
        return [c for c in self.candidates if c.id not in self.continued and self.quality(c) is not None]

    @cached_property
    def chosen(self) -> Candidate | None:
        """The candidate that was exported."""
        return self.by_id.get(self.winner.get("id", ""))

    @cached_property
    def last_rung(self) -> int:
        """The highest rung any candidate was proposed for."""
        return max((c.proposal.rung for c in self.candidates), default=0)

    @cached_property
    def winner_cost(self) -> Cost:
        """Measured again after export; before that, what the ledger has."""
        if self.winner.get("cost"):
            return Cost.from_json(self.winner["cost"])
        return self.chosen.cost if self.chosen else Cost()

    @cached_property
    def axes(self) -> Sequence[str]:
        """Written quantities to draw quality against: those bounded first, each known of some leaf."""
        known = {name for c in self.leaves for name in c.cost}
        wanted = [*(str(b.quantity) for b in self.budget.bounds), *_AXES]
        return [name for name in dict.fromkeys(wanted) if name in known and self.front((name,))][:_MOST_AXES]

    @cached_property
    def members(self) -> Sequence[Candidate]:
        """The front, from the best quality to the worst: over all that the budget bounds, and over each of it alone.

        The second, because only the survivors of a search are measured. Without a budget, over parameters.
        """
        bounded = [name for b in self.budget.bounds if (name := str(b.quantity)) in self.axes]
        fronts = [self.front(fields) for fields in (tuple(bounded), *((n,) for n in bounded or self.axes[:1]))]
        sign = -1.0 if self.metric.higher_is_better else 1.0
        found = {c.id: c for front in fronts for c in front}
        return sorted(found.values(), key=lambda c: (sign * (self.quality(c) or 0.0), c.id))

    def front(self, fields: tuple[str, ...]) -> Sequence[Candidate]:
        """The front over these quantities; empty if they cannot be compared (measured on several machines)."""
        if fields and fields not in self._fronts:
            task = self.candidates[0].proposal.task if self.candidates else ""
            try:
                self._fronts[fields] = Front.of(self.candidates, task=task, metric=self.metric, fields=fields).members
            except RunError:
                self._fronts[fields] = ()
        return self._fronts.get(fields, ())

    def quality(self, candidate: Candidate) -> float | None:
        """The metric's value on ``valid``, if it was judged."""
        return None if candidate.quality is None else candidate.quality.values.get(self.metric.name)

    def bound(self, quantity: str) -> float | None:
        """The budget's limit on a written quantity."""
        return next((b.limit for b in self.budget.bounds if str(b.quantity) == quantity), None)

    def lineage(self, candidate: Candidate) -> list[Candidate]:
        """A candidate after those whose weights it goes on with, the first rung first."""
        chain = [candidate]
        while (parent := chain[-1].parent("rung") or chain[-1].parent("init")) is not None and parent in self.by_id:
            chain.append(self.by_id[parent])
        return chain[::-1]

    def history(self, id: str) -> Sequence[Json]:
        """The learning curve of a candidate: lines with ``step``, ``loss`` and more, or nothing."""
        if id not in self._histories:
            rooms = (list(_lines(self.folder / room / id / HISTORY)) for room in (WORK, ARTIFACTS))
            self._histories[id] = next(filter(None, rooms), [])
        return self._histories[id]


def gather(folder: Path | str) -> Findings:
    """Read a run directory; raises RunError if it is none."""
    with Run(folder) as run:
        facts = {key: run.ledger.fact(key) for key in FACTS}
        candidates, events = run.ledger.candidates(), run.ledger.events()
    skipped = _lines(run.folder / SKIPPED)
    first = list(islice(skipped, 50))
    judged = _json(run.folder / JUDGED)
    return Findings(run.folder, facts, candidates, events, judged, first, len(first) + sum(1 for _ in skipped))


def family_of(candidate: Candidate) -> str:
    """The design space a candidate comes from: the recipe's ``family``, else its method."""
    return str(candidate.proposal.recipe.get("family", candidate.proposal.method))


def seconds_of(chain: Iterable[Candidate]) -> float:
    """The training time of a candidate with all it trained on from."""
    chain = list(chain)
    whole = chain[-1].cost.get("lineage_seconds")
    return whole.value if whole else sum(a.value for c in chain if (a := c.cost.get("train_seconds")))


def known(cost: Cost, order: Sequence[str]) -> list[tuple[str, Amount]]:
    """The amounts of a cost, those named in ``order`` first, the others by name."""
    names = [*(name for name in order if name in cost.amounts), *sorted(set(cost) - set(order))]
    return [(name, cost.amounts[name]) for name in names if Quantity.parse(name)]


def _lines(path: Path) -> Iterator[Json]:
    """The objects of a JSON-lines file; lines that are none, such as a torn last one, are left out."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict):
                    yield line
    except OSError:
        return


def _json(path: Path) -> Json:
    """The object in a JSON file, or nothing."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
