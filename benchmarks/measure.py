"""Interleaved timing, ratios with their spread, and what the machine can do at most."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

WARM = 2


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median over rounds of one's time over the other's, and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, base: list[float], other: list[float]) -> "Ratio":
        ratios = [a / b for a, b in zip(base, other, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(statistics.median(ratios), low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def race(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round; in a round each runs once, in turn, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-WARM, rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if number >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def limits(seconds: float = 0.5) -> dict[str, float]:
    """What this machine does at most with the present threads: GFLOP/s of matrix products, GB/s of a copy."""
    side = 1536
    found = {}
    for name, dtype in (("float32_gflops", torch.float32), ("bfloat16_gflops", torch.bfloat16)):
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        found[name] = 2 * side**3 / _best(lambda a=a, b=b: a @ b, seconds) / 1e9
    source = torch.ones(2**25)
    target = torch.empty_like(source)
    found["copy_gb_per_s"] = 2 * source.nbytes / _best(lambda: target.copy_(source), seconds) / 1e9
    return found


def _best(run: Callable[[], object], seconds: float) -> float:
    deadline, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
