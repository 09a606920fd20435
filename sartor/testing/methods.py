"""The laws of methods, for ours and third parties'."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Proposal, Quality
from sartor.core.protocols import Method, Task
from sartor.core.rng import generator
from sartor.runs.evaluation import Job, evaluate

_MOST_WAVES = 100


class MethodConformance:
    """Subclass in a test module as ``Test…`` and give ``method``, ``task`` and ``budget``."""

    seeds = (0, 1)

    def method(self) -> Method:
        """The method under test."""
        raise NotImplementedError

    def task(self) -> Task:
        """A task it applies to."""
        raise NotImplementedError

    def budget(self) -> Budget:
        """A budget it can meet."""
        raise NotImplementedError

    def outcome(self, proposal: Proposal, task: Task) -> Candidate:
        """What a worker might have made of a proposal: done, with a made-up quality. Override to add amounts."""
        value = float(generator("made up", Candidate.of(proposal).id).random())
        quality = None if proposal.kind == "estimate" else Quality({task.metric.name: value}, "valid", 100)
        return Candidate.of(proposal).having(state="done", quality=quality)

    def test_applies_says_why_not(self) -> None:
        """None for the task; else one line."""
        assert self.method().applies(self.task(), []) is None

    def test_proposals_are_a_function_of_the_arguments(self) -> None:
        """Asked again, a fresh method proposes the same; another seed gives others or the same, never an error."""
        for seed in self.seeds:
            waves = self.played(seed)
            for number in range(len(waves)):
                seen = [c for wave in waves[:number] for c in wave]
                again = self.method().propose(self.task(), self.budget(), seen, seed)
                assert [Candidate.of(p).id for p in again] == [c.id for c in waves[number]]

    def test_waves_end_and_are_in_order(self) -> None:
        """No proposal comes twice; parents were seen and done; nothing counting rules out is trained."""
        for seed in self.seeds:
            known: dict[str, Candidate] = {}
            for wave in self.played(seed):
                for c in wave:
                    check_proposal(c.proposal, self.method(), self.task(), seed)
                    assert c.id not in known, f"{c.id} was proposed twice"
                    assert all(p.id in known for p in c.proposal.parents), f"{c.id} has a parent nobody has seen"
                    assert self.budget().of("counted").verdict(c.proposal.counted) != "out"
                known |= {c.id: c for c in wave}

    def test_failures_do_not_stop_it(self) -> None:
        """With every candidate failed, it ends."""
        seen: list[Candidate] = []
        for _ in range(_MOST_WAVES):
            wave = self.method().propose(self.task(), self.budget(), seen, 0)
            if not wave:
                return
            seen += [Candidate.of(p).having(state="failed", why="made up") for p in wave]
        raise AssertionError(f"it still proposes after {_MOST_WAVES} waves of failures")

    def test_evaluation_leaves_an_artifact_that_answers(self, tmp_path: Path) -> None:
        """The first proposals end as done; what serves answers the task's examples, and nothing else was written."""
        method, task = self.method(), self.task()
        wave = list(method.propose(task, self.budget(), [], 0))[:2]
        for proposal in wave:
            ended = evaluate(Job(proposal, tmp_path, math.inf), task, {method.name: method}, lambda share, text: None)
            assert ended.state == "done", ended.why
            if proposal.kind != "estimate":
                assert ended.quality is not None
                assert ended.artifact is not None
        assert {path.name for path in tmp_path.iterdir()} <= {"artifacts", "work"}

    def test_it_can_be_stopped_in_time(self, tmp_path: Path) -> None:
        """A deadline that is over ends an evaluation in good order, not in an error."""
        method, task = self.method(), self.task()
        proposal = next(iter(method.propose(task, self.budget(), [], 0)))
        job = Job(proposal, tmp_path, time.time() - 1.0)
        assert evaluate(job, task, {method.name: method}, lambda share, text: None).state in ("done", "stopped")

    def played(self, seed: int) -> Sequence[Sequence[Candidate]]:
        """All waves, with made-up outcomes."""
        waves: list[list[Candidate]] = []
        for _ in range(_MOST_WAVES):
            seen = [c for wave in waves for c in wave]
            wave = self.method().propose(self.task(), self.budget(), seen, seed)
            if not wave:
                return waves
            waves.append([self.outcome(p, self.task()) for p in wave])
        raise AssertionError(f"it still proposes after {_MOST_WAVES} waves")


def check_proposal(proposal: Proposal, method: Method, task: Task, seed: int) -> None:
    """It names its method, task and seed, and survives the ledger."""
    assert proposal.method == method.name
    assert proposal.task == task.fingerprint
    assert proposal.seed == seed
    assert proposal.threads >= 1
    assert Candidate.of(Proposal.from_json(proposal.to_json())).id == Candidate.of(proposal).id
