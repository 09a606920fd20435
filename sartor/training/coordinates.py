"""The coordinate check of a parametrization, and how much the layers of a network differ (arXiv 2310.02244).

In a parametrization that carries over, the coordinates of the residual stream, and how far training moves them, do
not depend on depth and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.rng import seed_of
from sartor.models.network import build
from sartor.models.scaling import deeper, wider
from sartor.training.classification import groups_for, spec_for
from sartor.training.recipe import Recipe

BATCH = 32
APART = (1 / 16, 1 / 8, 1 / 4)  # shares of the depth over which features are compared
Coordinates = dict[str, list[float]]


def coordinates(spec: Any, recipe: Recipe, *, steps: int = 4, seed: int = 0) -> Coordinates:
    """Mean absolute coordinates before and after each of ``steps`` steps on one batch of noise, labelled at random.

    ``stream`` is what the last residual block gives, ``moved`` how far that is from where it began, ``answer`` the
    logits: each a list of ``steps`` + 1. The learning rate is the recipe's, constant. Raises TrainingError for a
    network the recipe's parametrization does not fit, SpecError for one without residual blocks.
    """
    torch.manual_seed(seed_of(seed, "coordinates"))
    (field,) = spec.inputs.fields.values()
    images, labels = torch.randn(BATCH, *field.shape), torch.randint(spec.classes, (BATCH,))
    network = build(spec_for(recipe, spec)).train()
    last = _residual(network)[-1]
    optimiser = recipe.optimiser(
        [
            {"params": [*group.parameters], "lr": recipe.lr * group.lr_factor, "weight_decay": group.weight_decay}
            for group in groups_for(recipe)({"model": network})
        ]
    )
    first: Tensor | None = None
    found: Coordinates = {"stream": [], "moved": [], "answer": []}
    for step in range(steps + 1):
        stream = network.run(images, stop=last)
        logits = network.run(stream, start=last)
        first = stream.detach().clone() if first is None else first
        for name, value in (("stream", stream), ("moved", stream - first), ("answer", logits)):
            found[name].append(float(value.detach().abs().mean()))
        if step < steps:
            network.zero_grad()
            F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return found


def coordinate_check(
    spec: Any, recipe: Recipe, depths: Sequence[int], widths: Sequence[int], *, steps: int = 4, seeds: int = 3
) -> dict[str, dict[int, Coordinates]]:
    """``coordinates`` of networks so many times as deep (``depth``) or as wide (``width``), means over the seeds."""
    scaled = {"depth": {k: deeper(spec, k) for k in depths}, "width": {k: wider(spec, k) for k in widths}}
    return {
        axis: {
            factor: _mean([coordinates(network, recipe, steps=steps, seed=seed) for seed in range(seeds)])
            for factor, network in networks.items()
        }
        for axis, networks in scaled.items()
    }


def slope(networks: Mapping[int, Coordinates], name: str) -> float:
    """The power of depth or width with which a coordinate of the last step grows; nan where that cannot be said."""
    factors = [factor for factor, found in networks.items() if found[name][-1] > 0.0]
    if len(factors) < 2:
        return float("nan")
    return float(np.polyfit(np.log(factors), np.log([networks[f][name][-1] for f in factors]), 1)[0])


@torch.no_grad()
def diversity(network: Any, images: Tensor) -> float:
    """Feature diversity exponent kappa: over a share e of the depth, features change by e^(1 - kappa).

    Measured over the longest run of blocks between which the stream keeps its shape: 1/2 where layers differ like
    the steps of a random walk, 0 where the stream is smooth along the depth. Raises SpecError for a network of fewer
    than 16 such blocks.
    """
    seams = {seam.name: seam.ports for seam in network.seams}
    runs = [list(names) for _, names in groupby(_residual(network), lambda name: seams[name])]
    names = max(runs, key=len)
    if len(names) < 1 / min(APART):
        raise SpecError(f"diversity needs {1 / min(APART):.0f} blocks of one shape, the network has {len(names)}")
    stream = torch.stack([x.flatten() for x in network.features(images, names).values()])
    gaps = [round(share * len(names)) for share in APART]
    changes = [float((stream[gap:] - stream[:-gap]).square().mean().sqrt()) for gap in gaps]
    return 1.0 - float(np.polyfit(np.log(APART), np.log(changes), 1)[0])


def _residual(network: Any) -> list[str]:
    """The seams after residual blocks."""
    names = list(dict.fromkeys(tap.rpartition(".")[0] for tap in network.taps))
    if not names:
        raise SpecError("a coordinate check needs a network with residual blocks")
    return names


def _mean(found: Sequence[Coordinates]) -> Coordinates:
    return {name: np.mean([one[name] for one in found], axis=0).tolist() for name in found[0]}
