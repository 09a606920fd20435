"""Segmentation: from a recipe, a backbone and a task to a plan, and the call that trains it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.spec import to_json
from sartor.training.augment.masks import MaskAugment, MaskAugmenter
from sartor.training.checkpoint import read_facts
from sartor.training.classification import GPU_WORKERS, groups_for, schedule_for, spec_for
from sartor.training.devices import find_place
from sartor.training.loop import Progress, Trained, run
from sartor.training.losses.segmentation import Bootstrapped, PixelCrossEntropy
from sartor.training.orders import Shuffled
from sartor.training.plan import Batch, Context, Hooks, Keep, Member, Modules, Numerics, Plan, Stream, Turn, Until
from sartor.training.recipe import Recipe, recipe

if TYPE_CHECKING:
    from sartor.tasks.segmentation import Segmentation

QUICK = "quick-segmentation"
_STEPS = 20  # an epoch of the quick recipe has at least about so many


@dataclass(frozen=True)
class Segment:
    """The loss of a plan: the logits of the module ``model`` on ``image``, against ``mask``."""

    loss: PixelCrossEntropy | Bootstrapped

    def __call__(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The one term ``loss``."""
        return {"loss": self.loss(modules["model"](batch["image"]), batch)}


def quick_segmentation(examples: int, size: tuple[int, int]) -> Recipe:
    """``quick-segmentation`` for so many training pictures of a size (height, width).

    The batch is the power of two, from 2 to 16, that leaves about 20 steps an epoch; boxes of three quarters of each
    side are cut out, a multiple of 32 where the pictures are larger than that.
    """
    base = recipe(QUICK)
    batch = 2
    while batch < 16 and 2 * batch * _STEPS <= examples:
        batch *= 2
    height, width = (side if side <= 64 else max(64, side * 3 // 4 // 32 * 32) for side in size)
    masks = replace(base.masks or MaskAugment(), crop=(height, width))
    return base.replace(batch=min(batch, examples), masks=masks)


def plan_for(
    recipe: Recipe, backbone: nn.Module, task: Segmentation, *, seed: int = 0, numerics: Numerics | None = None
) -> Plan:
    """The plan that trains ``backbone`` on the task's ``train`` by a recipe.

    Raises TrainingError if the recipe is none of segmentation or the backbone was not built from what ``spec_for``
    of classification gives for it.
    """
    masks, loss, spec = recipe.masks, recipe.loss, backbone.spec
    if masks is None or not isinstance(loss, PixelCrossEntropy | Bootstrapped):
        raise TrainingError(
            f"the recipe {recipe.name} is for classification; take one of segmentation, such as {QUICK}"
        )
    if spec_for(recipe, spec) != spec:
        raise TrainingError(f"the recipe {recipe.name} asks for a network built from spec_for(recipe, spec)")
    examples = task.split("train")
    device = next(backbone.parameters()).device
    order = Shuffled()
    modules = {"model": Member(backbone)}
    if recipe.ema:
        modules["average"] = Member(copy.deepcopy(backbone), "follow", "model", recipe.ema)
    turn = Turn(Segment(loss), groups_for(recipe), recipe.optimiser, clip=recipe.clip, accumulate=recipe.accumulate)
    return Plan(
        modules=modules,
        streams={"train": Stream(examples, order, recipe.batch, 0 if device.type == "cpu" else GPU_WORKERS)},
        turns=[turn],
        schedules={"lr": schedule_for(recipe, len(order.keys(len(examples), seed, 0, 1)) // recipe.batch)},
        until=Until(epochs=recipe.epochs),
        hooks=Hooks(transform=MaskAugmenter(masks, task.preprocess)),
        keep=Keep("averaged" if recipe.ema else "last"),
        numerics=numerics or Numerics(),
        identity={
            "network": to_json(spec), "recipe": recipe.lineage(), "preprocess": task.preprocess.to_json(),
            "data": {"task": task.fingerprint},
        },
        seed=seed,
    )  # fmt: skip


def train(
    backbone: nn.Module,
    task: Segmentation,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    seed: int = 0,
    deadline: float | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a backbone on a task, on the device where its parameters are; see ``sartor.training.classification.train``.

    The number format is the recipe's; "auto" is float32 on a CPU and bfloat16 elsewhere. Raises TrainingError.
    """
    device = next(backbone.parameters()).device
    facts = read_facts(folder) if folder else None
    if facts:
        numerics = Numerics(**facts["numerics"])
    elif recipe.precision == "auto":
        numerics = Numerics("float32" if device.type == "cpu" else "bfloat16")
    else:
        numerics = Numerics(recipe.precision)
    plan = plan_for(recipe, backbone, task, seed=seed, numerics=numerics)
    return run(plan, folder, place=find_place(str(device)), deadline=deadline, progress=progress)
