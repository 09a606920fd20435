"""Image classification: from a recipe, a backbone and a task to a plan, and the call that trains it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from sartor.core.errors import TrainingError
from sartor.core.protocols import Role
from sartor.core.spec import Json, digest, to_json
from sartor.training.augment.pipeline import Augmenter
from sartor.training.checkpoint import read_facts
from sartor.training.devices import find_place
from sartor.training.loop import Progress, Trained, run
from sartor.training.losses.classification import Classify, CrossEntropy, LogitLoss
from sartor.training.losses.semantic import TreeLoss
from sartor.training.orders import Repeated, Shuffled
from sartor.training.plan import (
    FORMATS,
    Context,
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
    classes: Sequence[str]

    def split(self, name: str) -> Any:
        """``train`` gives the training examples."""


def spec_for(recipe: Recipe, spec: Any, classes: Sequence[str] = ()) -> Any:
    """The spec with the recipe's stochastic depth, dropout and factors; a network is built from it to be trained so.

    If the recipe's loss is over a tree above the task's ``classes``, it has an output for each class of the tree.
    Raises TrainingError if the recipe wants what this kind of network does not have, DataError for the hierarchy.
    """
    changes: dict[str, Any] = {}
    if classes and isinstance(recipe.loss, TreeLoss):
        changes["classes"] = len(recipe.loss.tree(classes).classes)
    for name in ("drop_path", "dropout"):
        value = getattr(recipe, name)
        if value and not hasattr(spec, name):
            raise TrainingError(
                f"{name}={value} of recipe {recipe.name}: a {spec.kind} network has none; set it to none"
            )
        if value is not None and hasattr(spec, name):
            changes[name] = value
    return recipe.parametrization.spec_for(spec.replace(**changes))


def plan_for(
    recipe: Recipe,
    backbone: nn.Module,
    examples: Examples,
    preprocess: Preprocess,
    *,
    seed: int = 0,
    numerics: Numerics | None = None,
    identity: Json | None = None,
    classes: Sequence[str] = (),
) -> Plan:
    """The plan that trains ``backbone`` on ``examples`` by a recipe.

    ``preprocess`` gives the side of the examples, the network's size and the constants of normalisation, if the recipe
    wants it. ``identity``
    says what the examples are, so that a checkpoint of others is refused. A loss over a tree needs the ``classes`` of
    the labels. Raises TrainingError if the backbone was not built from what ``spec_for`` gives.
    """
    spec, numerics = backbone.spec, numerics or Numerics()
    if spec_for(recipe, spec, classes) != spec:
        raise TrainingError(f"the recipe {recipe.name} asks for a network built from spec_for(recipe, spec, classes)")
    loss, tree = _placed_loss(recipe, classes)
    preprocess = recipe.pixels(preprocess)
    if recipe.masks is not None:
        raise TrainingError(f"the recipe {recipe.name} is for segmentation; take one of classification, such as quick")
    device = next(backbone.parameters()).device
    order = Repeated(recipe.repeats, recipe.repeat_block) if recipe.repeats > 1 else Shuffled()
    stream = Stream(examples, order, recipe.batch, 0 if device.type == "cpu" else GPU_WORKERS)
    if recipe.trains == "head":
        _train_head_alone(backbone)
    modules = {"model": Member(backbone)}
    if recipe.ema:
        modules["average"] = Member(copy.deepcopy(backbone), "follow", "model", recipe.ema)
    size = recipe.size or preprocess.size
    return Plan(
        modules=modules,
        streams={"train": stream},
        turns=[
            Turn(
                Classify(loss),
                groups_for(recipe),
                recipe.optimiser,
                clip=recipe.clip,
                clip_by=recipe.clip_by,
                accumulate=recipe.accumulate,
            )
        ],
        schedules={"lr": schedule_for(recipe, len(order.keys(len(examples), seed, 0, 1)) // recipe.batch)},
        until=Until(epochs=recipe.epochs),
        hooks=Hooks(
            transform=Augmenter(recipe.augment, preprocess, size, numerics.channels_last),
            configure=_still if recipe.trains == "head" else _moving,
        ),
        keep=Keep("averaged" if recipe.ema else "last"),
        numerics=numerics,
        identity={
            "network": to_json(spec), "recipe": recipe.lineage(), "preprocess": preprocess.to_json(),
            "data": {**(identity or {}), **tree},
        },
        seed=seed,
    )  # fmt: skip


def _train_head_alone(backbone: nn.Module) -> None:
    roles: Mapping[str, Role] = backbone.roles()  # type: ignore[operator]
    heads = {name.rpartition(".")[0] for name, role in roles.items() if role.kind == "readout"}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] in heads)


def _still(modules: Modules, context: Context) -> None:
    modules["model"].eval()


def _moving(modules: Modules, context: Context) -> None:
    pass


def _placed_loss(recipe: Recipe, classes: Sequence[str]) -> tuple[LogitLoss, Json]:
    """The recipe's loss for the task's classes, and what identifies the tree it is over, if it is over one."""
    loss = recipe.loss
    if not isinstance(loss, TreeLoss):
        return loss, {}
    if not classes:
        raise TrainingError(f"the loss {loss.kind} of recipe {recipe.name} needs the names of the classes")
    tree = loss.tree(classes)
    return loss.on(tree), {"tree": digest([tree.classes, tree.parents])}


_FREE = ("norm", "bias", "embedding")  # roles that weight decay spares


def groups_for(recipe: Recipe) -> Groups:
    """Groups of the parameters of ``model`` by their roles.

    Norms, biases and embeddings decay only with ``decay_all``. The parametrization's factors on the learning rate
    divide the decay, so that weights shrink at one rate. The classifier is spared from clipping unit by unit.
    """

    def groups(modules: Modules) -> Sequence[Group]:
        model = modules["model"]
        roles: Mapping[str, Role] = model.roles()  # type: ignore[operator]
        factors = recipe.parametrization.lr_factors(roles, recipe.optimiser)
        ends = _classifiers(roles) if recipe.clip_by == "unit" else ()
        found: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            free = roles[name].kind in _FREE and not recipe.decay_all
            found.setdefault((free, factors[name], name not in ends), []).append(parameter)
        return [
            Group(found[free, factor, clipped], factor, 0.0 if free else recipe.weight_decay / factor, clipped)
            for free, factor, clipped in sorted(found)
        ]

    return groups


def _classifiers(roles: Mapping[str, Role]) -> set[str]:
    """The weights and biases of the layers that give the logits."""
    ends = {name.removesuffix(".weight") for name, role in roles.items() if role.kind == "readout"}
    return {f"{end}.{kind}" for end in ends for kind in ("weight", "bias")}


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
    plan = plan_for(
        recipe, backbone, examples, task.preprocess, seed=seed, numerics=numerics, identity=identity,
        classes=task.classes,
    )  # fmt: skip
    return run(plan, folder, start=start, place=place, deadline=deadline, progress=progress)


def _numerics(
    recipe: Recipe, backbone: nn.Module, preprocess: Preprocess, folders: tuple[Path | None, ...]
) -> Numerics:
    for folder in folders:
        facts = read_facts(folder) if folder else None
        if facts:
            return Numerics(**facts["numerics"])
    from sartor.training.pace import choose_numerics

    if isinstance(recipe.loss, TreeLoss):
        recipe = recipe.replace(loss=CrossEntropy())  # noise has no tree, and losses are a small part of a step
    device = str(next(backbone.parameters()).device)
    return choose_numerics(recipe, backbone.spec, preprocess, device=device)
