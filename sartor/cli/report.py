"""``sartor report``."""

from __future__ import annotations

from pathlib import Path


def report(run: Path, /) -> None:
    """Write a run's report anew, of an unfinished run too, and say where it is.

    Parameters
    ----------
    run
        A run directory.
    """
    from sartor.report.page import write_report

    print(write_report(run))
