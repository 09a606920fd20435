"""``sartor export``."""

from __future__ import annotations

import shutil
from pathlib import Path


def export(run: Path, /, *, to: Path, budget: str = "", candidate: str = "") -> None:
    """Write a run's winner, or another measured candidate, to a folder: weights, config, ONNX graph.

    Parameters
    ----------
    run
        A run directory.
    to
        The folder to write; it must not exist yet.
    budget
        Take the best candidate inside this budget instead of the run's winner.
    candidate
        Take the candidate with this id, or one that begins so (`sartor front RUN` shows them).
    """
    from sartor.core.errors import RunError
    from sartor.core.files import replacing_folder
    from sartor.runs.results import Result

    if to.exists():
        raise RunError(f"{to} exists; name a new folder")
    model = Result(run).model(candidate) if candidate else Result(run).best(budget or None)
    with replacing_folder(to) as new:
        shutil.copytree(model.folder, new, dirs_exist_ok=True)
    print(to)
