"""Evaluating one proposal on a worker, the same way here and on a cluster."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor.core.candidate import Artifact, Candidate, Proposal
from sartor.core.errors import SartorError
from sartor.core.files import replacing_folder, sha256_folder, size_of, write_atomic
from sartor.core.protocols import Interrupted, Method, Task, Tools

ARTIFACTS, WORK = "artifacts", "work"


@dataclass(frozen=True, slots=True)
class Job:
    """A proposal with the places it may read and write: all below the run's folder."""

    proposal: Proposal
    run: Path
    deadline: float

    @property
    def candidate(self) -> Candidate:
        """The waiting candidate."""
        return Candidate.of(self.proposal)


def evaluate(job: Job, task: Task, methods: Mapping[str, Method], progress: Callable[[float, str], None]) -> Candidate:
    """The candidate with its state, quality on ``valid``, amounts and artifact; never raises for a bad candidate.

    What a user can cause ends it as ``failed`` with the reason; anything else does too, and the traceback is left
    in its workspace. ``Interrupted`` ends it as ``stopped``.
    """
    candidate, proposal = job.candidate, job.proposal
    workspace = job.run / WORK / candidate.id
    workspace.mkdir(parents=True, exist_ok=True)
    parents, states = ({str(p.role): job.run / where / p.id for p in proposal.parents} for where in (ARTIFACTS, WORK))
    try:
        with replacing_folder(job.run / ARTIFACTS / candidate.id) as folder:
            tools = Tools(parents, states, workspace, folder, job.deadline, progress)
            servable, cost = methods[proposal.method].evaluate(proposal, task, tools)
            quality = None
            if servable is not None:
                progress(1.0, "judging")
                quality = task.evaluate(servable, "valid")
                if not all(math.isfinite(value) for value in quality.values.values()):
                    raise SartorError("its quality is not a number")
            artifact = _describe(folder, f"{ARTIFACTS}/{candidate.id}")
    except Interrupted as reason:
        return candidate.having(state="stopped", why=str(reason))
    except SartorError as error:
        return candidate.having(state="failed", why=str(error))
    except Exception as error:
        write_atomic(workspace / "traceback.txt", traceback.format_exc())
        return candidate.having(state="failed", why=f"{type(error).__name__}: {error}".splitlines()[0])
    why = "cut off at the deadline" if time.time() > job.deadline else ""
    return candidate.having(state="done", why=why, quality=quality, cost=candidate.cost | cost, artifact=artifact)


def _describe(folder: Path, path: str) -> Artifact | None:
    """The record of a filled folder; its hash is known before the folder takes its place."""
    if not any(folder.iterdir()):
        return None
    return Artifact(path, size_of(folder), sha256_folder(folder))
