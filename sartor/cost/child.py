"""A process of its own for each measurement, so that a crash, a lack of memory or a hang harms nothing.

``in_child`` runs a function of ``sartor.cost.probes`` in a fresh interpreter. It is started with ``python -m``, not
forked and not by multiprocessing: it shares no state with the caller and never imports the caller's script.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sartor.core.errors import SartorError
from sartor.core.files import write_json

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class MeterError(SartorError):
    """A measurement that gave no result; the message is the reason, in one line."""


def in_child(probe: Callable[..., Any], *arguments: Any, threads: int, timeout: float) -> Any:
    """What ``probe(*arguments)`` returns (plain values), run in a fresh process that may use ``threads`` threads.

    Functions and arguments must be picklable. Raises MeterError if the process fails, is killed or is not done
    after ``timeout`` seconds, after which it is killed.
    """
    with tempfile.TemporaryDirectory(prefix="sartor-meter-") as folder:
        job, result, log = (Path(folder) / name for name in ("job", "result.json", "log"))
        try:
            job.write_bytes(pickle.dumps((probe, arguments)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            what = "cannot be sent to a process of its own"
            raise MeterError(f"{what} ({error}); open it by a module's function") from None
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        with log.open("wb") as output:
            command = [sys.executable, "-m", __name__, str(job), str(result)]
            try:
                done = subprocess.run(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout,
                    start_new_session=True,  # Ctrl-C is for the caller, which ends the child if it ends itself
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise MeterError(f"was not done after {timeout:g} s") from None
        if done.returncode or not result.exists():
            raise MeterError(_reason(done.returncode, log.read_text(errors="replace")))
        content = json.loads(result.read_text())
        if "error" in content:
            raise MeterError(content["error"])
        return content["value"]


def one_line(error: BaseException) -> str:
    """An error as a reason: its first line, with its type unless it is one of ours."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, SartorError):
        return text
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def _reason(code: int, log: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", perhaps for lack of memory" if code == -signal.SIGKILL else "")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"ended with code {code}" + (f" ({lines[-1][:160]})" if lines else "")


def _main(job: str, result: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    content: dict[str, Any]
    try:
        probe, arguments = pickle.loads(Path(job).read_bytes())  # written a moment ago by our own parent
        content = {"value": probe(*arguments)}
    except (Exception, SystemExit) as error:
        content = {"error": one_line(error)}
    write_json(Path(result), content)


if __name__ == "__main__":
    _main(*sys.argv[1:])
