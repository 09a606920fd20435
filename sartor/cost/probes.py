"""What runs inside a measuring process: open, warm up, time, or read the process's memory. Returns plain values."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.cost.child import one_line

if TYPE_CHECKING:
    from sartor.core.protocols import Raw, Servable

WARM_SECONDS = 0.3
TURN_SECONDS = 0.02  # long enough to have the caches to oneself, short enough that drift hits all alike
LEAST_TURNS = 16


def time_predict(
    openers: Sequence[Callable[[], Servable]], raw: Sequence[Raw], batch: int, seconds: float
) -> list[dict[str, Any]]:
    """``time_in_turns`` of the ``predict`` of servables; one that cannot be opened has its error."""
    errors: dict[int, dict[str, Any]] = {}
    predicts: dict[int, Callable[[Sequence[Raw]], object]] = {}
    for number, opener in enumerate(openers):
        try:
            predicts[number] = opener().predict
        except Exception as error:
            errors[number] = {"error": one_line(error)}
    timed = dict(zip(predicts, time_in_turns(list(predicts.values()), raw, batch, seconds), strict=True))
    return [errors.get(number) or timed[number] for number in range(len(openers))]


def time_in_turns(
    functions: Sequence[Callable[[Sequence[Any]], object]], examples: Sequence[Any], batch: int, seconds: float
) -> list[dict[str, Any]]:
    """The seconds of each call of each function on ``batch`` examples, in order: {"calls": […]}.

    The functions take turns, for ``seconds`` each and at least ``LEAST_TURNS`` turns. Warm-up is not timed, nor the
    first call of a turn: until it is over, threads of the function before may still be waiting for work. One that
    fails gets {"error": reason}, and the others go on.
    """
    results: list[dict[str, Any]] = [{"calls": []} for _ in functions]
    running: dict[int, _Timed] = {}
    for number, function in enumerate(functions):
        with _caught(results, number):
            running[number] = _Timed(function, examples, batch)
    deadline, turns = time.perf_counter() + seconds * len(running), 0
    while running and (turns < LEAST_TURNS or time.perf_counter() < deadline):
        for number, timed in list(running.items()):
            with _caught(results, number):
                results[number]["calls"] += timed.turn()
        running = {number: timed for number, timed in running.items() if "calls" in results[number]}
        turns += 1
    return results


@contextmanager
def _caught(results: list[dict[str, Any]], number: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        results[number] = {"error": one_line(error)}


class _Timed:
    """A warm function and the examples it is given in turn."""

    def __init__(self, function: Callable[[Sequence[Any]], object], examples: Sequence[Any], batch: int) -> None:
        self.function, self.examples, self.batch, self.position = function, examples, batch, 0
        began, calls = time.perf_counter(), 0
        while calls < 3 or time.perf_counter() - began < WARM_SECONDS:
            self.call()
            calls += 1
        self.calls = max(1, round(TURN_SECONDS * calls / (time.perf_counter() - began)))

    def turn(self) -> list[float]:
        """The seconds of some calls, after one that is not timed."""
        return [self.call() for _ in range(1 + self.calls)][1:]

    def call(self) -> float:
        """The seconds of one call on the next examples."""
        examples = [self.examples[(self.position + i) % len(self.examples)] for i in range(self.batch)]
        self.position += self.batch
        began = time.perf_counter()
        self.function(examples)
        return time.perf_counter() - began


def memory_of_predict(opener: Callable[[], Servable], raw: Sequence[Raw], batch: int) -> int:
    """Bytes of resident memory that opening a servable and answering ``batch`` examples twice adds at its peak."""

    def use() -> None:
        servable = opener()
        for _ in range(2):
            servable.predict([raw[i % len(raw)] for i in range(batch)])

    return _added_memory(use)


def memory_of_steps(make_step: Callable[[], Callable[[], object]], steps: int) -> int:
    """Bytes that making a training step and taking it ``steps`` times adds at its peak, torch being there."""
    import torch  # noqa: F401

    def use() -> None:
        step = make_step()
        for _ in range(steps):
            step()

    return _added_memory(use)


def _added_memory(use: Callable[[], None]) -> int:
    before = _reset_peak()
    use()
    return max(0, _peak() - before)


def _reset_peak() -> int:
    """Set the process's peak of resident memory to what it is now, where the system can; the peak as it then is."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
