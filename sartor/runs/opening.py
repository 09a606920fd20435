"""Opening a run's data: the same as when the run began, and described in its ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sartor.core.errors import RunError, SartorError
from sartor.core.files import write_atomic
from sartor.core.machine import machine
from sartor.core.spec import Json
from sartor.runs.run import Run

SKIPPED = "skipped.jsonl"
T = TypeVar("T")


@contextmanager
def opened_run(folder: Path, what: Json) -> Iterator[Run]:
    """A run bound to a command, locked; one that fails before it has a candidate leaves nothing behind.

    Raises RunError if the folder is in use, is no run, or was begun by another command.
    """
    with Run(folder, write=True) as run:
        run.bind(what)
        try:
            yield run
        except SartorError:
            if not run.ledger.candidates():
                run.remove()
            raise


def open_task(run: Run, opener: Callable[[], T]) -> T:
    """The task; what was skipped and what the data are is kept in the run when it is new.

    Raises RunError if the data are not those the run was begun with.
    """
    opened = opener()
    task: Any = opened
    known = run.ledger.fact("task")
    if known and known["fingerprint"] != task.fingerprint:
        raise RunError(f"the data of run {run.folder} have changed since it began; use another --out")
    if known is None:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in task.skipped)
        write_atomic(run.folder / SKIPPED, lines.encode("utf-8", "surrogateescape"))
        run.ledger.keep(task=_described(task), machine=machine())
    return opened


def _described(task: Any) -> Json:
    """What a report says of the task."""
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.metric.name,
        "higher_is_better": task.metric.higher_is_better,
        "classes": list(task.classes),
        "size": list(task.inputs.fields["image"].shape),
        "splits": {name: len(task.split(name)) for name in ("train", "valid", "test")},
        "fingerprint": task.fingerprint,
        "notices": list(task.notices),
    }
