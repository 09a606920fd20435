"""From a pretraining recipe, a backbone and images to a plan for the one training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sartor.core.spec import Json, to_json
from sartor.data.preprocess import Preprocess
from sartor.pretraining.recipe import Pretraining, values_of
from sartor.training.augment.draws import Draws
from sartor.training.augment.views import Views
from sartor.training.checkpoint import read_facts
from sartor.training.devices import find_place
from sartor.training.loop import Progress, Trained, run
from sartor.training.orders import Shuffled
from sartor.training.pace import choose_numerics
from sartor.training.plan import Batch, Context, Examples, Group, Hooks, Modules, Numerics, Plan, Stream, Turn, Until
from sartor.training.recipe import Recipe

GPU_WORKERS = 8  # threads that prepare batches while a GPU trains


@dataclass(frozen=True)
class ViewMaker:
    """The transform of a plan: uint8 ``image`` (n, C, side, side) to ``view0``, ``view1`` … as networks take them.

    Every image's draws are functions of (seed, epoch, key, view).
    """

    views: Views
    count: int
    preprocess: Preprocess
    size: int
    channels_last: bool = False

    def __call__(self, batch: Batch, context: Context) -> Batch:
        """The batch with views in place of ``image``, on the context's device."""
        draw, images = Draws(context.seed, context.epoch, batch["key"].numpy()), batch["image"].numpy()
        made = {"label": batch["label"].to(context.device)}
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        for number in range(self.count):
            view = self.views.of(images, draw, number, self.preprocess, self.size)
            made[f"view{number}"] = view.to(context.device).contiguous(memory_format=layout)
        return made


def pretraining_plan(
    recipe: Pretraining,
    backbone: Any,
    examples: Examples,
    preprocess: Preprocess,
    *,
    classes: int = 0,
    seed: int = 0,
    numerics: Numerics | None = None,
    identity: Json | None = None,
) -> Plan:
    """The plan that pretrains ``backbone``, whose classifier is taken out unless the method trains it.

    Heads are drawn from torch's generator. ``identity`` says what the examples are, so that a checkpoint of others is
    refused. Raises TrainingError if the method cannot train this network on these data.
    """
    spec, numerics, method = backbone.spec, numerics or Numerics(), recipe.method
    device = next(backbone.parameters()).device
    with torch.device(device):
        members = method.members(backbone, classes)
    steps = Until(epochs=recipe.epochs).total(len(examples) // recipe.batch, recipe.batch) or 1
    size = recipe.size or preprocess.size
    return Plan(
        modules=members,
        streams={"train": Stream(examples, Shuffled(), recipe.batch, 0 if device.type == "cpu" else GPU_WORKERS)},
        turns=[Turn(method.terms, _groups(recipe), recipe.optimiser, clip=recipe.clip)],
        schedules={"lr": recipe.rate(steps), **method.schedules()},
        until=Until(epochs=recipe.epochs),
        hooks=Hooks(
            transform=ViewMaker(recipe.views, method.views, preprocess, size, numerics.channels_last),
            after_backward=method.after_backward,
        ),
        numerics=numerics,
        identity={
            "network": to_json(spec), "pretraining": values_of(recipe), "preprocess": preprocess.to_json(),
            "data": identity or {},
        },
        seed=seed,
        log_every=10,
    )  # fmt: skip


def pretrain(
    backbone: Any,
    examples: Examples,
    preprocess: Preprocess,
    recipe: Pretraining,
    *,
    classes: int = 0,
    folder: Path | None = None,
    seed: int = 0,
    identity: Json | None = None,
    progress: Progress | None = None,
) -> tuple[Any, Trained]:
    """Pretrain a backbone where its parameters are; returns it, and what became of the training.

    It comes back without its classifier unless the method trains that. ``folder`` keeps the checkpoint: the same call
    goes on from there, in mid-epoch too. Raises TrainingError.
    """
    spec, place = backbone.spec, find_place(str(next(backbone.parameters()).device))
    facts = read_facts(folder) if folder else None
    if facts:
        numerics = Numerics(**facts["numerics"])
    else:
        probe = Recipe(batch=recipe.batch, precision=recipe.precision)
        numerics = choose_numerics(probe, spec.replace(classes=2), preprocess, device=str(place.device))
    plan = pretraining_plan(
        recipe, backbone, examples, preprocess, classes=classes, seed=seed, numerics=numerics, identity=identity
    )
    trained = run(plan, folder, place=place, progress=progress)
    return recipe.method.backbone_of(trained.network), trained


def _groups(recipe: Pretraining) -> Any:
    def groups(modules: Modules) -> Sequence[Group]:
        """All that is trained, in two groups: what decays and what does not."""
        free: list[Any] = []
        rest: list[Any] = []
        for module in modules.values():
            spared = _embeddings(module)
            for parameter in module.parameters():
                if parameter.requires_grad:
                    bare = not recipe.decay_all and (parameter.ndim == 1 or id(parameter) in spared)
                    (free if bare else rest).append(parameter)
        return [Group(rest, 1.0, recipe.weight_decay), Group(free, 1.0, 0.0)]

    return groups


def _embeddings(module: Any) -> set[int]:
    """The parameters of a backbone inside a module that are embeddings."""
    found = set()
    for inner in module.modules():
        if hasattr(inner, "roles"):
            kinds = {name: role.kind for name, role in inner.roles().items()}
            found |= {id(p) for name, p in inner.named_parameters() if kinds[name] == "embedding"}
    return found
