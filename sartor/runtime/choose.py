"""Which engine serves a saved classifier fastest here, with the classes of plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sartor.core.errors import DataError
from sartor.cost.meters import on_machine
from sartor.cost.probes import time_in_turns
from sartor.runtime.description import Description, Guard
from sartor.runtime.engines import PREFERRED, REDUCED, Engine, EngineUnavailable, open_engine, run
from sartor.runtime.engines.guard import Guarded, calibrate, margins
from sartor.runtime.networks import backbone_of

if TYPE_CHECKING:
    from sartor.runtime.engines import Images, Logits

SECONDS = 0.5  # of timing for each engine


def choose_engine(
    folder: str | Path,
    images: Images,
    batch: int = 1,
    threads: int | None = None,
    engines: Sequence[str] = PREFERRED,
) -> Description:
    """Record in a saved folder the engine that answers ``batch`` images soonest, and return the description.

    Each engine that runs here first gives the classes of all ``images`` (uint8, N, C, H, W); only those that agree
    with eager float32 on every one are timed, in turn and on changing images. A reduced-precision engine gets a
    guard calibrated on these images (``Guard``), and is judged and timed with it. ``checks["engines"]`` keeps what
    was found of each: ``milliseconds`` per call (the mean without the slowest twentieth), or the ``reason`` it was
    left out. Where none of ``engines`` will do, eager is recorded. Raises DataError if no images are given,
    WeightsError for a damaged folder.
    """
    if len(images) == 0:
        raise DataError("choosing an engine compares classes on images and was given none; give at least one")
    folder = Path(folder)
    description = Description.read(folder)
    backbone = backbone_of(description, folder)
    expected = run(open_engine("eager", description, backbone, threads), images)
    found: dict[str, dict[str, Any]] = {}
    ready: dict[str, Engine] = {}
    guard = None
    for name in engines:
        try:
            engine = open_engine(name, description, folder if name == "onnx" else backbone, threads)
            if name in REDUCED:
                exact = open_engine("packed", description, backbone, threads)
                engine, guard = _guarded(engine, exact, images, expected)
        except EngineUnavailable as error:
            found[name] = {"reason": str(error)}
            continue
        different = int((run(engine, images).argmax(1) != expected.argmax(1)).sum())
        if different:
            found[name] = {"reason": f"another class on {different} of {len(images)} images"}
        else:
            ready[name] = engine
    timed = time_in_turns([_caller(engine) for engine in ready.values()], list(images), batch, SECONDS)
    for name, result in zip(ready, timed, strict=True):
        found[name] = {"reason": result["error"]} if "error" in result else {"milliseconds": _mean(result["calls"])}
    runs = [name for name in ready if "milliseconds" in found[name]]
    best = min(runs, key=lambda name: found[name]["milliseconds"], default="eager")
    checks = {**found, "batch": batch, "images": len(images), "on": on_machine(threads)}
    usable = guard if any(name in runs for name in REDUCED) else None
    description = description.having(engine=best, guard=usable, checks={**description.checks, "engines": checks})
    description.write(folder)
    return description


def _mean(calls: Sequence[float]) -> float:
    """Milliseconds, from seconds, without the slowest twentieth."""
    return 1e3 * float(np.sort(calls)[: -(-len(calls) * 19 // 20)].mean())


def _caller(engine: Engine) -> Callable[[Sequence[Any]], Logits]:
    return lambda images: run(engine, np.stack(images))


def _guarded(fast: Engine, exact: Engine, images: Images, expected: Logits) -> tuple[Guarded, Guard]:
    logits = run(fast, images)
    tolerance = calibrate(logits, expected)
    recomputed = float((margins(logits) <= tolerance).mean())
    return Guarded(fast, exact, tolerance), Guard(tolerance, len(images), recomputed)
