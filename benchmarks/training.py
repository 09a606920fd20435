"""A training step: the loop with the number format it chooses on this machine, against timm in eager float32."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import WARM, Ratio
from benchmarks.peers import MODELS, pair
from benchmarks.table import Table
from sartor.data.preprocess import Preprocess
from sartor.models.network import count
from sartor.training.classification import plan_for
from sartor.training.loop import run
from sartor.training.pace import choose_numerics
from sartor.training.plan import Hooks
from sartor.training.recipe import Recipe

SIZE, BATCH = 224, 16
PREPROCESS = Preprocess(3, SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
RECIPE = Recipe(epochs=1000.0, batch=BATCH, lr=1e-4)


def bench(options: Any, limits: dict[str, float]) -> Table:
    """Equal weights, batch and optimiser. Ours starts from uint8 images, timm's from a normalised float32 batch."""
    table = Table("training", f"Training step at {SIZE}, batch {BATCH}, against eager timm in float32", "")
    for name in options.models or MODELS:
        theirs, ours = pair(name)
        numerics = choose_numerics(RECIPE, ours.spec, PREPROCESS)
        step = _their_step(theirs.train())
        mine, other = _race(ours.train(), numerics, step, max(3, options.rounds // 2))
        layout = ", channels last" if numerics.channels_last else ""
        flops = 3 * 2 * BATCH * count(ours.spec).value("macs")
        table.rows.append(
            {
                "model": name,
                "timm ms": 1e3 * statistics.median(other),
                "ours ms": 1e3 * statistics.median(mine),
                "faster": Ratio.of(other, mine),
                "format": f"{numerics.dtype}{layout}",
                "of limit": flops / min(mine) / 1e9 / limits[f"{numerics.dtype}_gflops"],
            }
        )
    table.summary = {"median": statistics.median(row["faster"].median for row in table.rows)}
    return table


class _Noise:
    """Random pictures and labels."""

    def __init__(self) -> None:
        self.images = torch.randint(256, (4 * BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
        self.labels = torch.randint(1000, (4 * BATCH,))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Any) -> dict[str, torch.Tensor]:
        return {"image": self.images[indices], "label": self.labels[indices]}


class _EnoughError(Exception):
    """Ends the race."""


def _race(ours: nn.Module, numerics: Any, step: Callable[[], None], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the loop's steps and of the other's, which runs between them."""
    mine, other, began = list[float](), list[float](), [time.perf_counter()]

    def between(*_: Any) -> None:
        mine.append(time.perf_counter() - began[0])
        start = time.perf_counter()
        step()
        other.append(time.perf_counter() - start)
        if len(mine) == WARM + rounds:
            raise _EnoughError
        began[0] = time.perf_counter()

    plan = plan_for(RECIPE, ours, _Noise(), PREPROCESS, numerics=numerics)
    plan = dataclasses.replace(plan, hooks=Hooks(transform=plan.hooks.transform, after_step=between))
    with suppress(_EnoughError):
        run(plan)
    return mine[WARM:], other[WARM:]


def _their_step(network: nn.Module) -> Callable[[], None]:
    optimiser = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9, nesterov=True)
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(1000, (BATCH,))

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return step
