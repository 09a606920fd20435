"""The main job: from data, a budget and a time to a front, its best member exported, and a run that resumes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.core.errors import ImpossibleBudget
from sartor.runs.clock import Clock
from sartor.runs.delivery import deliver
from sartor.runs.executor import LocalExecutor
from sartor.runs.listener import Listener
from sartor.runs.measuring import measure, measured_quantities
from sartor.runs.opening import open_task, opened_run
from sartor.runs.planning import make_plan, method_of
from sartor.runs.run import Run
from sartor.search.halving import SuccessiveHalving
from sartor.tasks.image_classification import ImageClassification

RESERVE, RESERVED = 18.0, 0.3  # seconds kept for measuring and export, but at most this share of the time
EXPORTING = 0.03  # share of the time kept for that beyond the reserve when final trainings are planned
MEASURING = 0.25  # share of the time that measuring drawn networks may take
LEAST = 5.0  # seconds that the first trainings get even if the time is up: without them there is no answer
STOPPING = 10.0  # seconds workers get to write their checkpoints when the user interrupts


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks of ``fit``: plain values, which tie a run directory to its command."""

    data: str
    budget: str
    time: float
    seed: int
    families: tuple[str, ...]
    strict: bool


def run_fit(request: Request, folder: Path, listener: Listener) -> Run:
    """Do the job in ``folder``, or go on with it there; returns the run, opened for reading.

    Raises ImpossibleBudget naming the nearest possible, DataError for the data, RunError for the folder, and
    KeyboardInterrupt after the workers have stopped in good order.
    """
    with opened_run(folder, asdict(request)) as run:
        if run.ledger.fact("finished") is None:
            _Job(run, request, listener).work()
    return Run(folder)


class _Job:
    """One process's part in a run."""

    def __init__(self, run: Run, request: Request, listener: Listener) -> None:
        self.run, self.ledger, self.request, self.listener = run, run.ledger, request, listener
        self.budget = Budget.parse(request.budget)
        self.clock = Clock(request.time, run.ledger.used())
        self.measuring = 0.0  # seconds spent on measuring drawn networks
        self.reserve = min(RESERVE, RESERVED * request.time)
        listener.clock(self.clock)

    def work(self) -> None:
        """Open the data, plan, evaluate waves, deliver."""
        self.stage("opening the data")
        self.task = open_task(self.run, partial(self.opener(), progress=self.decoding))
        if self.clock.before:
            self.clock.restart()  # a run that was cut off is not charged for opening its data again
        self.stage("planning")
        plan = self.plan()
        method = method_of(plan)
        with self.executor(method) as executor:
            self.evaluate_waves(method, executor)
        self.stage("measuring and exporting")
        deliver(self.run, self.task, self.budget, self.clock)
        self.ledger.event("finished", self.clock.used())
        self.ledger.keep(finished=self.clock.used())

    def stage(self, text: str) -> None:
        self.ledger.event(text, self.clock.used())
        self.listener.stage(text)

    def opener(self) -> partial[ImageClassification]:
        """What opens the data, here and in workers."""
        request = self.request
        return partial(ImageClassification.open, request.data, seed=request.seed, strict=request.strict)

    def decoding(self, done: int, of: int) -> None:
        self.listener.progress("data", done / max(1, of), "decoding images")

    def plan(self) -> dict[str, object]:
        """The plan, made once in a run."""
        plan = self.ledger.fact("plan")
        if plan is None:
            request = self.request
            plan = make_plan(self.task, self.budget, request.time, request.seed, request.families)
            self.ledger.keep(plan=plan, dropped=plan["dropped"])
        return plan  # type: ignore[no-any-return]

    @contextmanager
    def executor(self, method: SuccessiveHalving) -> Iterator[LocalExecutor]:
        """Workers that are ended with the job; an interrupt lets them write their checkpoints first."""
        methods = {method.name: method}
        executor = LocalExecutor(self.run.folder, self.opener(), methods, method.share.slots, self.listener.progress)
        try:
            yield executor
        except KeyboardInterrupt:
            executor.stop(STOPPING)
            raise
        finally:
            executor.close()

    def evaluate_waves(self, method: SuccessiveHalving, executor: LocalExecutor) -> None:
        """Evaluate what was asked for and not done yet, then ask for more, until there is no more or the time is up."""
        while self.deadline() > time.time():
            seen = self.ledger.candidates()
            waiting = [c for c in seen if c.state in ("waiting", "running")]
            if not waiting:
                self.measure_draws(seen)
                seen = self.ledger.candidates()
                method = self.told_what_is_left(method, seen)
                proposals = method.propose(self.task, self.budget, seen, self.request.seed)
                if not proposals:
                    break
                waiting = [Candidate.of(proposal) for proposal in proposals]
                self.ledger.ask(waiting)
            self.listener.wave(waiting)
            executor.run([c.proposal for c in waiting], finished=self.record, deadline=self.deadline())
        self.check_possible()

    def told_what_is_left(self, method: SuccessiveHalving, seen: Sequence[Candidate]) -> SuccessiveHalving:
        """The method with the seconds left for its final trainings, written down once when the search has ended."""
        left = self.ledger.fact("left")
        if left is None and method.searched(seen):
            left = max(0.0, self.clock.left() - self.reserve - EXPORTING * self.request.time)
            self.ledger.keep(left=left)
        return method if left is None else replace(method, left=float(left))

    def deadline(self) -> float:
        """When training must end; later while no candidate was judged, for there must be one."""
        end = self.clock.deadline(self.reserve)
        judged = any(c.quality for c in self.ledger.candidates())
        return end if judged else max(end, time.time() + LEAST)

    def record(self, candidate: Candidate) -> None:
        self.ledger.put(candidate, self.clock.used())
        self.listener.ended(candidate)

    def measure_draws(self, seen: Sequence[Candidate]) -> None:
        """Measure drawn networks where the budget bounds what must be measured: two, and more while there is time."""
        wanted = measured_quantities(self.budget, ())
        if not wanted or any(c.quality for c in seen):
            return
        self.stage(f"measuring {', '.join(map(str, wanted))} of drawn networks")
        todo = [c for c in seen if c.artifact and all(c.cost.get(quantity) is None for quantity in wanted)]
        for number, c in enumerate(todo):
            begun = time.monotonic()
            if number >= 2 and self.measuring > MEASURING * self.request.time:
                break
            (found,) = measure(self.run.folder, [c], wanted, self.task)
            self.ledger.put(found, self.clock.used())
            self.measuring += time.monotonic() - begun

    def check_possible(self) -> None:
        """Raise ImpossibleBudget if no drawn network was measured to be inside the budget, so that none was trained."""
        seen = self.ledger.candidates()
        measured = [c for c in seen if c.artifact and self.budget.distance(c.cost) > 0]
        if measured and not any(c.quality or self.budget.verdict(c.cost) == "in" for c in seen):
            near = min(measured, key=lambda c: self.budget.distance(c.cost))
            raise ImpossibleBudget(
                f"no network here is within {self.budget}; the nearest found has {self.budget.describe(near.cost)}"
            )
