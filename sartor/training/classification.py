"""Image classification: from a recipe, a backbone and a task to a plan, and the call that trains it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from sartor.core.errors import TrainingError
from sartor.core.spec import Json, to_json
from sartor.training.augment.pipeline import Augmenter
from sartor.training.checkpoint import read_facts
from sartor.training.devices import find_place
from sartor.training.loop import Progress, Trained, run
from sartor.training.losses.classification import Classify
from sartor.training.orders import Repeated, Shuffled
from sartor.training.plan import (
    FORMATS,
    Examples,
    Group,
    Groups,
    Hooks,
    Keep,
    Member,
    Modules,
    Numerics,
    Plan,
    Schedule,
    Stream,
    Turn,
    Until,
)  # fmt: skip
from sartor.training.recipe import Recipe
from sartor.training.schedules import Held, Scaled, Warmup

if TYPE_CHECKING:
    from sartor.data.preprocess import Preprocess

GPU_WORKERS = 8  # threads that prepare batches while a GPU trains


class ImageTask(Protocol):
    """What training needs to know of a task."""

    fingerprint: str
    preprocess: Preprocess

    def split(self, name: str) -> Any:
        """``train`` gives the training examples."""


def spec_for(recipe: Recipe, spec: Any) -> Any:
    """The spec with the recipe's stochastic depth and dropout; a network is built from it to be trained so.

    Raises TrainingError if the recipe wants what this kind of network does not have.
    """
    changes = {}
    for name in ("drop_path", "dropout"):
        value = getattr(recipe, name)
        if value and not hasattr(spec, name):
            raise TrainingError(
                f"{name}={value} of recipe {recipe.name}: a {spec.kind} network has none; set it to none"
            )
        if value is not None and hasattr(spec, name):
            changes[name] = value
    return spec.replace(**changes)


def plan_for(
    recipe: Recipe,
    backbone: nn.Module,
    examples: Examples,
    preprocess: Preprocess,
    *,
    seed: int = 0,
    numerics: Numerics | None = None,
    identity: Json | None = None,
) -> Plan:
    """The plan that trains ``backbone`` on ``examples`` by a recipe.

    ``preprocess`` gives the side of the examples, the network's size and the constants of normalisation. ``identity``
    says what the examples are, so that a checkpoint of others is refused. Raises TrainingError if the backbone was
    not built with the recipe's stochastic depth and dropout.
    """
    spec, numerics = backbone.spec, numerics or Numerics()
    if spec_for(recipe, spec) != spec:
        raise TrainingError(f"the recipe {recipe.name} asks for a network built from spec_for(recipe, spec)")
    device = next(backbone.parameters()).device
    order = Repeated(recipe.repeats) if recipe.repeats > 1 else Shuffled()
    stream = Stream(examples, order, recipe.batch, 0 if device.type == "cpu" else GPU_WORKERS)
    modules = {"model": Member(backbone)}
    if recipe.ema:
        modules["average"] = Member(copy.deepcopy(backbone), "follow", "model", recipe.ema)
    size = recipe.size or preprocess.size
    return Plan(
        modules=modules,
        streams={"train": stream},
        turns=[
            Turn(
                Classify(recipe.loss),
                decay_groups(recipe.weight_decay, recipe.decay_all),
                recipe.optimiser,
                clip=recipe.clip,
                accumulate=recipe.accumulate,
            )
        ],
        schedules={"lr": schedule_for(recipe, len(order.keys(len(examples), seed, 0, 1)) // recipe.batch)},
        until=Until(epochs=recipe.epochs),
        hooks=Hooks(transform=Augmenter(recipe.augment, preprocess, size, numerics.channels_last)),
        keep=Keep("averaged" if recipe.ema else "last"),
        numerics=numerics,
        identity={
            "network": to_json(spec), "recipe": recipe.lineage(), "preprocess": preprocess.to_json(),
            "data": identity or {},
        },
        seed=seed,
    )  # fmt: skip


_FREE = ("norm", "bias", "embedding")  # roles that weight decay spares


def decay_groups(weight_decay: float, everything: bool) -> Groups:
    """Groups of the parameters of ``model`` by role: norms, biases and embeddings decay only with ``everything``."""

    def groups(modules: Modules) -> Sequence[Group]:
        model = modules["model"]
        parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
        roles = model.roles()  # type: ignore[operator]
        kept: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, parameter in parameters.items():
            (free if roles[name].kind in _FREE and not everything else kept).append(parameter)
        return [Group(kept, weight_decay=weight_decay), Group(free)]

    return groups


def schedule_for(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The learning rate of a recipe, in steps."""
    schedule: Schedule = recipe.schedule
    if recipe.warmup:
        steps = round(recipe.warmup * steps_per_epoch)
        schedule = Warmup(schedule, steps, recipe.warmup_from, recipe.warmup_constant)
    if recipe.lr_per == "epoch":
        schedule = Held(schedule, max(1, steps_per_epoch))
    return Scaled(schedule, recipe.full_lr())


def train(
    backbone: nn.Module,
    task: ImageTask,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    seed: int = 0,
    start: Path | None = None,
    deadline: float | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a backbone on a task, on the device where its parameters are.

    ``folder`` keeps the checkpoint and the history; the same call resumes from it. ``start`` is the folder of a
    shorter training with the same recipe but for its length and schedule, which is continued. See ``loop.run`` for
    ``deadline`` and ``progress``. The number format is the recipe's, or what is fastest on this machine; a resumed
    training keeps its own. Raises TrainingError.
    """
    examples, identity = task.split("train"), {"task": task.fingerprint}
    place = find_place(str(next(backbone.parameters()).device))
    numerics = Numerics()
    if place.rank == 0:
        numerics = _numerics(recipe, backbone, task.preprocess, (folder, start))
    numerics = FORMATS[int(place.agreed(float(FORMATS.index(numerics))))]
    plan = plan_for(recipe, backbone, examples, task.preprocess, seed=seed, numerics=numerics, identity=identity)
    return run(plan, folder, start=start, place=place, deadline=deadline, progress=progress)


def _numerics(
    recipe: Recipe, backbone: nn.Module, preprocess: Preprocess, folders: tuple[Path | None, ...]
) -> Numerics:
    for folder in folders:
        facts = read_facts(folder) if folder else None
        if facts:
            return Numerics(**facts["numerics"])
    from sartor.training.pace import choose_numerics

    device = str(next(backbone.parameters()).device)
    return choose_numerics(recipe, backbone.spec, preprocess, device=device)
