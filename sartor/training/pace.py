"""How fast networks train on this machine, measured once and kept, so that equal commands decide alike."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from sartor.core.files import cache_dir, recall, write_json
from sartor.core.machine import machine
from sartor.core.spec import digest, to_json
from sartor.models.network import build
from sartor.training.classification import plan_for, spec_for
from sartor.training.devices import Place
from sartor.training.loop import run
from sartor.training.plan import FORMATS, Hooks, Keys, Numerics
from sartor.training.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sartor.data.preprocess import Preprocess

GAIN = 1.15  # a lower precision must be so much faster to be taken
_ROUNDS, _STEPS, _SECONDS = 2, 2, 0.2  # each format is timed so often, for so many steps and so long at least
_PROBE_MACS = 1e9  # multiply-adds of one timed forward pass: larger batches are timed in part


def choose_numerics(
    recipe: Recipe, spec: Any, preprocess: Preprocess, *, device: str = "cpu", threads: int | None = None
) -> Numerics:
    """The fastest number format and layout for a training step; float32 unless another gains more than 15 %.

    What the recipe fixes is kept. Takes one to two seconds the first time.
    """
    kinds = ("float32", _half(device)) if recipe.precision == "auto" else (recipe.precision,)
    formats = [numerics for numerics in FORMATS if numerics.dtype in kinds]
    times = _paces(recipe, spec, preprocess, formats, device, threads)
    full = min(range(2), key=times.__getitem__)
    best = min(range(len(times)), key=times.__getitem__)
    return formats[best if times[full] > GAIN * times[best] else full]


def pace(
    recipe: Recipe,
    spec: Any,
    preprocess: Preprocess,
    numerics: Numerics,
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> float:
    """Seconds per training step with everything that belongs to it: batch, augmentation, update, average."""
    return _paces(recipe, spec, preprocess, [numerics], device, threads)[0]


def _paces(
    recipe: Recipe, spec: Any, preprocess: Preprocess, formats: Sequence[Numerics], device: str, threads: int | None
) -> list[float]:
    """Seconds per step in each format: as kept, or measured side by side and kept, each under its own name."""
    values = recipe.replace(name="custom", epochs=1.0).to_json()
    place = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    common = [machine(), place, threads or torch.get_num_threads(), values, to_json(spec), preprocess.to_json()]
    paths = [cache_dir("pace") / f"{digest([*common, repr(numerics)], 24)}.json" for numerics in formats]
    known = [recall(path) for path in paths]
    missing = [i for i, seconds in enumerate(known) if seconds is None]
    if missing:
        measured = _measured(recipe, spec, preprocess, [formats[i] for i in missing], device, threads)
        for i, seconds in zip(missing, measured, strict=True):
            known[i] = seconds
            write_json(paths[i], seconds)
    return known


def _measured(
    recipe: Recipe, spec: Any, preprocess: Preprocess, formats: Sequence[Numerics], device: str, threads: int | None
) -> list[float]:
    """Seconds per step in each format: formats take turns, and the best round counts, as noise only adds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            rounds = [[_timed(recipe, spec, preprocess, f, device) for f in formats] for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(before)
    return [min(times) for times in zip(*rounds, strict=True)]


def _timed(recipe: Recipe, spec: Any, preprocess: Preprocess, numerics: Numerics, device: str) -> float:
    """The median step of a short training on noise, scaled up if the batch is too large to time whole."""
    side = recipe.size or preprocess.size
    even = 2 * recipe.accumulate
    whole = max(even, int(_PROBE_MACS / max(1, spec.tally((side, side)).macs)) // even * even)
    batch = min(recipe.batch, whole)
    probe = recipe.replace(batch=batch, repeats=1, epochs=1000.0)
    network = build(spec_for(recipe, spec), device=device)
    examples = _Noise(preprocess, network.spec.classes, batch)
    stamps: list[float] = []

    def stamp(*_: Any) -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        if len(stamps) > _STEPS and stamps[-1] - stamps[0] > _SECONDS:
            raise _EnoughError

    plan = plan_for(probe, network, examples, preprocess, numerics=numerics)
    plan = dataclasses.replace(plan, hooks=Hooks(transform=plan.hooks.transform, after_step=stamp))
    with suppress(_EnoughError):
        run(plan, place=Place(torch.device(device)))
    return median(b - a for a, b in pairwise(stamps)) * recipe.batch / batch  # the first step warms up


def _half(device: str) -> str:
    """The 16-bit format of a device: bfloat16 where it is computed natively, else float16 on a GPU."""
    return "float16" if device.startswith("cuda") and not torch.cuda.is_bf16_supported() else "bfloat16"


class _EnoughError(Exception):
    """Ends a timed training."""


class _Noise:
    """Random images of a task's shape."""

    def __init__(self, preprocess: Preprocess, classes: int, count: int) -> None:
        shape = (count, preprocess.channels, preprocess.side, preprocess.side)
        self.images = torch.randint(256, shape, dtype=torch.uint8)
        self.labels = torch.randint(classes, (count,))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Keys) -> Mapping[str, Tensor]:
        """The images at these positions."""
        return {"image": self.images[indices], "label": self.labels[indices]}
