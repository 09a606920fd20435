"""A run: a directory that holds a ledger and artifacts, and resumes when it is opened again."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sartor.core.errors import RunError
from sartor.core.files import clear_temporaries
from sartor.runs.ledger import Ledger

LEDGER = "ledger.sqlite"


class Run:
    """A run directory, opened for writing by one driver or for reading by anybody.

    ``artifacts/<id>`` hold what candidates serve, ``work/<id>`` what unfinished ones need to go on, ``best`` the
    exported winner. Opening for writing takes a lock that the system releases when the process dies.
    """

    def __init__(self, folder: Path | str, *, write: bool = False) -> None:
        self.folder = Path(folder)
        self._lock: IO[str] | None = None
        if write:
            self._make()
            self._lock = self._take_lock()
            for folder in (self.folder, *filter(Path.is_dir, self.folder.iterdir())):
                clear_temporaries(folder)
        elif not (self.folder / LEDGER).is_file():
            raise RunError(f"{self.folder} is not a run directory (it has no {LEDGER})")
        self.ledger = Ledger(self.folder / LEDGER, write=write)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger and give the lock back."""
        self.ledger.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remove(self) -> None:
        """Close the run and delete its directory."""
        self.close()
        shutil.rmtree(self.folder)

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run directory {self.folder} cannot be made: {error.strerror}; name another") from None
        if not (self.folder / LEDGER).exists() and any(p.name != "lock" for p in self.folder.iterdir()):
            raise RunError(f"{self.folder} exists and is not a run directory; name an empty or a new one")

    def _take_lock(self) -> IO[str]:
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            if isinstance(error, BlockingIOError):
                raise RunError(f"run {self.folder} is in use by {holder}; wait or use another --out") from None
            raise RunError(f"run directory {self.folder} cannot be locked: {error.strerror}") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}\n")
        lock.flush()
        return lock

    def bind(self, what: Mapping[str, Any]) -> bool:
        """Tie the run to its command and data; returns whether it is new.

        Raises RunError, naming the first difference, if the run was begun for something else.
        """
        known = self.ledger.fact("run")
        if known is None:
            self.ledger.keep(run=dict(what), versions=versions())
            return True
        for key, value in json.loads(json.dumps(dict(what))).items():
            if known.get(key) != value:
                raise RunError(
                    f"run {self.folder} was begun with {key} {_short(known.get(key))}, not {_short(value)}; "
                    "repeat that command or use another --out"
                )
        return False


def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("sartor", "torch", "numpy", "onnxruntime")},
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + "..."
