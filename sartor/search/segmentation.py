"""The method ``train`` for segmentation: one network, one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Proposal
from sartor.core.cost import Amount, Cost
from sartor.core.protocols import Servable, Task, Tools
from sartor.core.rng import seed_of
from sartor.core.spec import spec_id
from sartor.models.image_spec import MaskSpec
from sartor.models.network import as_spec, build, count
from sartor.models.vision.fcn import FCN
from sartor.runtime.segmenter import ImageSegmenter
from sartor.training.classification import spec_for
from sartor.training.devices import default_device
from sartor.training.recipe import Recipe, read_recipe
from sartor.training.segmentation import train


def segmenter_spec(model: Any, classes: int, channels: int, size: tuple[int, int]) -> Any:
    """The spec of a name, a spec or its JSON form for a task; a classifier's becomes the backbone of an ``FCN``.

    Raises SpecError for a network that gives no maps.
    """
    spec = as_spec(model)
    if not isinstance(spec, MaskSpec):
        spec = FCN(spec)
    return spec.replace(classes=classes, channels=channels, size=size)


@dataclass(frozen=True)
class TrainSegmenter:
    """Proposes one network once; ``weights`` is a checkpoint it starts from (a file or a hub name), if any."""

    spec: Any
    recipe: Recipe
    weights: str = ""
    name: ClassVar[str] = "train"

    def applies(self, task: Task, parents: Sequence[Candidate]) -> str | None:
        """Segmentation only."""
        return None if task.kind == "segmentation" else f"this takes segmentation, not {task.kind}"

    def propose(self, task: Task, budget: Budget, seen: Sequence[Candidate], seed: int) -> list[Proposal]:
        """The network, or nothing once it was seen."""
        if any(c.proposal.method == self.name for c in seen):
            return []
        recipe = {"phase": "train", "family": self.spec.kind, "recipe": self.recipe.to_json(), "weights": self.weights}
        return [Proposal(self.name, self.spec, recipe, task.fingerprint, seed, counted=count(self.spec))]

    def evaluate(self, proposal: Proposal, task: Any, tools: Tools) -> tuple[Servable | None, Cost]:
        """Train, continuing what the workspace holds, and save the segmenter. Raises TrainingError, WeightsError."""
        import torch

        from sartor.weights.load import load_weights

        recipe: Recipe = read_recipe(proposal.recipe["recipe"])
        weights, device = proposal.recipe.get("weights"), default_device()
        torch.manual_seed(seed_of(proposal.seed, "weights", spec_id(proposal.spec)))
        network = build(spec_for(recipe, proposal.spec), device="meta" if weights else device)
        if weights:
            network = load_weights(network, weights, device=device)
        trained = train(
            network, task, recipe, folder=tools.workspace, seed=proposal.seed, deadline=tools.deadline,
            progress=tools.progress,
        )  # fmt: skip
        segmenter = ImageSegmenter.of(trained.network, task.preprocess, task.classes)
        segmenter.write(tools.artifact)
        return segmenter, Cost({"train_seconds": Amount(trained.seconds, "s", "measured")})
