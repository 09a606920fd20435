"""``sartor fit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def fit(
    data: str,
    /,
    *,
    budget: str = "",
    time: str = "10m",
    out: Path | None = None,
    families: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    seed: int = 0,
    strict: bool = False,
) -> None:
    """Find the best model for DATA within a budget and a time.

    The run directory resumes: after an interrupt or a kill, the same command goes on where it was.

    Parameters
    ----------
    data
        A folder of class folders, a Parquet, Arrow or CSV file, IDX or CIFAR files, a hub data set, or `digits`.
    budget
        Upper bounds such as "latency<2ms, params<=1.5M, macs<300M, storage<200MB, memory<1GB".
    time
        How long it may take: 90s, 10m, 1h30m.
    out
        The run directory (default: runs/NAME).
    families
        Families of networks to choose among (default: all that suit the images).
    seed
        The seed of all random choices.
    strict
        Stop at the first unreadable image instead of skipping it.
    """
    from sartor.api import fit as run
    from sartor.cli.live import LiveDisplay

    with LiveDisplay(sys.stderr) as display:
        result = run(
            data, budget=budget, time=time, out=out, families=families or (), seed=seed, strict=strict,
            listener=display,
        )  # fmt: skip
    display.summarise(result)
