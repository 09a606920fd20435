"""Training steps timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from sartor.models.network import build, count
from sartor.reproduce.reproduction import Rows
from sartor.training.optimisers import SGD

_WARM = 2  # rounds before the first that counts


Times = Mapping[str, Sequence[float]]


def step_times(specs: Mapping[str, Any], batch: int, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Seconds of a training step of each network in every round, by number of threads: one, and all there are.

    In a round each takes a step in turn, so that whatever else the machine does falls on all alike. A step is forward,
    loss, backward and an update in float32, on a fixed random batch in channels-last layout.
    """
    steppers = {name: _stepper(spec, batch) for name, spec in specs.items()}
    most = torch.get_num_threads()
    try:
        return {threads: _raced(steppers, threads, rounds) for threads in sorted({1, most})}
    finally:
        torch.set_num_threads(most)


def _raced(steppers: Mapping[str, Callable[[], None]], threads: int, rounds: int) -> dict[str, list[float]]:
    torch.set_num_threads(threads)
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(-_WARM, rounds):
        for name, step in steppers.items():
            began = time.perf_counter()
            step()
            if number >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def time_ratio(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """The median over rounds of one's time over the other's, with the quartiles."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return median, low, high


def ratio_text(times: Sequence[float], base: Sequence[float]) -> str:
    """``1.36 (1.31 to 1.40)``."""
    median, low, high = time_ratio(times, base)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def threads_text(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def time_rows(specs: Mapping[str, Any], times: Times) -> Rows:
    """A table: time beside multiply-adds, both also as multiples of the first network's."""
    first = next(iter(specs))
    macs = {name: count(spec).value("macs") for name, spec in specs.items()}
    return [
        {
            "network": name,
            "multiply-adds": f"{macs[name] / 1e6:,.1f} M",
            "ms per step": f"{1e3 * statistics.median(times[name]):,.1f}",
            f"multiply-adds / {first}": f"{macs[name] / macs[first]:.2f}",
            f"time / {first} (quartiles)": ratio_text(times[name], times[first]),
        }
        for name in specs
    ]


def _stepper(spec: Any, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    network = build(spec).train().to(memory_format=torch.channels_last)
    optimiser = SGD()([{"params": list(network.parameters()), "lr": 1e-4}])
    images = torch.randn(batch, spec.channels, *spec.size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(spec.classes, (batch,))

    def step() -> None:
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        for parameter in network.parameters():
            parameter.grad = None

    return step
