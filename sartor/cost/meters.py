"""Measured cost: latency, peak memory and storage of anything that predicts.

A servable is given as an opener: a picklable function of no arguments that returns it, such as
``functools.partial(ImageClassifier.open, folder)``. Everything but storage is measured in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sartor.core.cost import Amount, Cost, Quantity
from sartor.core.machine import cores, machine
from sartor.cost import probes
from sartor.cost.child import MeterError, in_child

if TYPE_CHECKING:
    from sartor.core.protocols import Raw, Servable

GROUPS = 8  # of consecutive calls, among which the slowest says how far a later process may be off
# statistic -> quantile, and the upper end over the slowest group and over the value at the least: on a machine with
# other work going on, fresh processes' medians differed by up to a fifth and their p95 by up to a half
STATISTICS = {"": (0.5, 1.10, 1.15), "p95": (0.95, 1.25, 1.40)}
SLACK = 2 * 2**20  # bytes that a later process may use more than this one, beside a share
Opener = Callable[[], "Servable"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter found; or nothing, and in one line ``why``."""

    cost: Cost = field(default_factory=Cost)
    why: str = ""


def latency(
    openers: Sequence[Opener],
    raw: Sequence[Raw],
    *,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 2.0,
    timeout: float = 300.0,
) -> list[Reading]:
    """Milliseconds per example from raw examples in memory to their answers, in calls of ``batch``: median and p95.

    The servables are opened together in one process with ``threads`` threads (None: one for each core) and timed
    in turn for ``seconds`` each, so that whatever the machine does meanwhile hits all alike; warm-up is not counted.
    If that process fails, each is tried in one of its own. Opening them all must be done before ``timeout`` seconds
    less the timing. The upper end of an amount is where ``interval`` puts it.
    """
    threads = threads or cores()
    limit = timeout + 2 * seconds * len(openers)
    try:
        found = in_child(probes.time_predict, openers, raw, batch, seconds, threads=threads, timeout=limit)
    except MeterError as error:
        if len(openers) == 1:
            return [Reading(why=str(error))]
        one = partial(latency, raw=raw, batch=batch, threads=threads, seconds=seconds, timeout=timeout)
        return [one([opener])[0] for opener in openers]
    return [_latency(result, batch, threads) for result in found]


def peak_memory(
    opener: Opener, raw: Sequence[Raw], *, batch: int = 1, threads: int | None = None, timeout: float = 120.0
) -> Reading:
    """Bytes of resident memory that opening the servable and answering ``batch`` examples adds at its peak.

    Counted from a process that has loaded the examples and the module of the opener. Libraries that opening imports
    are included: whoever serves the model has to hold them too.
    """
    return _memory("peak_memory", 0.03, batch, threads, timeout, probes.memory_of_predict, opener, raw, batch)


def train_memory(
    make_step: Callable[[], Callable[[], object]], *, threads: int | None = None, timeout: float = 120.0
) -> Reading:
    """Bytes of resident memory that a training adds at its peak, from a process that has imported torch.

    ``make_step`` is picklable, takes nothing, and returns a function that takes one step; three are taken, after
    which gradients and optimiser state are there.
    """
    return _memory("train_memory", 0.1, 1, threads, timeout, probes.memory_of_steps, make_step, 3)


def storage(folder: str | Path, files: Sequence[str]) -> Reading:
    """Bytes of the named files of an exported folder: those that serving with its engine reads, and no others.

    ``ImageClassifier.files`` names them. Libraries are not counted. ``why`` tells a file that is missing.
    """
    try:
        total = sum((Path(folder) / name).stat().st_size for name in files)
    except OSError as error:
        return Reading(why=f"cannot read {error.filename} ({error.strerror})")
    return Reading(Cost({"storage": Amount(total, "B", "measured", "files that serving reads")}))


def on_machine(threads: int | None = None) -> str:
    """What an amount is measured on: the machine, and how many threads were used (None: one for each core)."""
    threads = threads or cores()
    return f"{machine()}, {threads} thread{'s' if threads > 1 else ''}"


def interval(calls: Sequence[float], statistic: str = "") -> tuple[float, float]:
    """The median ("") or "p95" of the times of consecutive calls, and the upper end of its interval.

    The end is above the slowest of ``GROUPS`` runs of calls and above the value, each by a factor: so far that the
    same statistic of a fresh process stays below it. ``python -m benchmarks promise`` measures how often it does.
    """
    quantile, over_slowest, over_value = STATISTICS[statistic]
    times = np.asarray(calls, dtype=np.float64)
    groups = [float(np.quantile(group, quantile)) for group in np.array_split(times, min(GROUPS, len(times)))]
    value = float(np.quantile(times, quantile))
    return value, max(over_slowest * max(groups), over_value * value)


def _latency(result: Mapping[str, Any], batch: int, threads: int) -> Reading:
    if "error" in result:
        return Reading(why=result["error"])
    amounts, on = {}, on_machine(threads)
    for statistic in STATISTICS:
        value, end = (1e3 * seconds / batch for seconds in interval(result["calls"], statistic))
        amounts[str(Quantity("latency", statistic, batch))] = Amount(value, "ms", "measured", on, end - value)
    return Reading(Cost(amounts))


def _memory(
    name: str, share: float, batch: int, threads: int | None, timeout: float, probe: Callable[..., int], *given: Any
) -> Reading:
    threads = threads or cores()
    try:
        value = in_child(probe, *given, threads=threads, timeout=timeout)
    except MeterError as error:
        return Reading(why=str(error))
    spread = share * value + SLACK
    return Reading(Cost({str(Quantity(name, "", batch)): Amount(value, "B", "measured", on_machine(threads), spread)}))
