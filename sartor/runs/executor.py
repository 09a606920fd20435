"""Workers on this machine: processes that each open the task once and evaluate proposals one after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from sartor.core.candidate import Candidate, Proposal
from sartor.core.files import clear_temporaries
from sartor.core.protocols import Interrupted, Method, Task
from sartor.runs.evaluation import ARTIFACTS, Job, evaluate

_TIDY = 3.0  # seconds an idle worker gets to end by itself
GRACE = 20.0  # seconds a worker may go past a deadline before it is ended
_SPAWN = multiprocessing.get_context("spawn")
OnProgress = Callable[[str, float, str], None]  # candidate id, share, text


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None

    def send(self, job: Job) -> None:
        self.job = job
        self.pipe.send(job)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass(slots=True)
class LocalExecutor:
    """Runs jobs in child processes, as many at a time as their threads fit into ``slots`` cores.

    A worker that dies fails its candidate only. Workers die with the driver, however it dies.
    """

    run_folder: Path
    open_task: Callable[[], Task]
    methods: Mapping[str, Method]
    slots: int
    on_progress: OnProgress
    _workers: list[_Worker] = field(default_factory=list)

    def run(
        self, proposals: Sequence[Proposal], *, finished: Callable[[Candidate], None], deadline: float
    ) -> list[Candidate]:
        """Evaluate all; ``finished`` is called as each ends. Jobs not begun by ``deadline`` are left out."""
        waiting = [Job(proposal, self.run_folder, deadline) for proposal in proposals]
        ended: dict[str, Candidate] = {}
        while waiting or any(worker.job for worker in self._workers):
            self._start(waiting, deadline)
            for candidate in self._collect(deadline):
                ended[candidate.id] = candidate
                finished(candidate)
        return [ended[id] for p in proposals if (id := Candidate.of(p).id) in ended]

    def close(self) -> None:
        """End the workers; what they have checkpointed stays. Idle ones end by themselves and tidy up."""
        idle = [worker for worker in self._workers if worker.job is None]
        for worker in idle:
            worker.pipe.close()
        for worker in idle:
            worker.process.join(_TIDY)
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def stop(self, seconds: float) -> None:
        """Ask the workers to checkpoint and stop, wait up to ``seconds``, then end them."""
        until = time.monotonic() + seconds
        busy = [worker for worker in self._workers if worker.job]
        for worker in busy:
            worker.pipe.send("stop")
        while busy and time.monotonic() < until:
            for pipe in wait([worker.pipe for worker in busy], timeout=0.2):
                worker = next(w for w in busy if w.pipe is pipe)
                message = _receive(worker)
                if not (isinstance(message, tuple) and message[0] == "progress"):
                    busy.remove(worker)
        self.close()

    def _start(self, waiting: list[Job], deadline: float) -> None:
        used = sum(worker.job.proposal.threads for worker in self._workers if worker.job)
        while waiting and (used == 0 or used + waiting[0].proposal.threads <= self.slots):
            if time.time() > deadline:
                waiting.clear()
                return
            idle = [worker for worker in self._workers if worker.job is None]
            if not idle:
                idle = [self._spawn()]
                self._workers += idle
            job = waiting.pop(0)
            used += job.proposal.threads
            idle[0].send(job)

    def _collect(self, deadline: float) -> list[Candidate]:
        """What ended within a second; progress is passed on, dead and overdue workers are replaced."""
        ended = []
        busy = {worker.pipe: worker for worker in self._workers if worker.job}
        for pipe in wait(list(busy), timeout=1.0):
            worker = busy[pipe]  # type: ignore[index]
            message = _receive(worker)
            if isinstance(message, tuple):
                self.on_progress(*message[1:])
            elif isinstance(message, Candidate):
                worker.job = None
                ended.append(message)
            else:
                worker.process.join()
                ended.append(self._bury(worker, f"its worker died ({_exit_text(worker.process.exitcode)})"))
        if time.time() > deadline + GRACE:
            ended += [self._bury(w, "it ran past the deadline") for w in self._workers if w.job]
        return ended

    def _bury(self, worker: _Worker, why: str) -> Candidate:
        assert worker.job is not None
        worker.end()
        self._workers.remove(worker)
        clear_temporaries(self.run_folder / ARTIFACTS, worker.job.candidate.id)
        return worker.job.candidate.having(state="failed", why=why)

    def _spawn(self) -> _Worker:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(there, self.open_task, dict(self.methods)), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)


def _receive(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        return None


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {code}"


def _work(pipe: Connection, open_task: Callable[[], Task], methods: Mapping[str, Method]) -> None:
    """The worker: one job after another until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what an interrupt means
    threading.Thread(target=_die_with_parent, daemon=True).start()
    task: Task | None = None
    import torch

    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        if job == "stop":
            continue
        task = task or open_task()
        torch.set_num_threads(job.proposal.threads)
        pipe.send(evaluate(job, task, methods, _Reporter(pipe, job.candidate.id)))


@dataclass(slots=True)
class _Reporter:
    """Passes progress to the driver, at most five times a second, and its wish to stop to the work."""

    pipe: Connection
    id: str
    last: float = 0.0

    def __call__(self, share: float, text: str) -> None:
        now = time.monotonic()
        if now - self.last < 0.2:
            return
        self.last = now
        if self.pipe.poll() and self.pipe.recv() == "stop":
            raise Interrupted("stopped by the user")
        self.pipe.send(("progress", self.id, share, text))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
