"""The method ``train``: one network, one recipe. Other methods train their candidates with ``train_network``."""

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
from sartor.models.network import build, count
from sartor.runtime.classifier import ImageClassifier
from sartor.training.classification import spec_for, train
from sartor.training.devices import default_device
from sartor.training.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Train:
    """Proposes one network once; ``weights`` is a checkpoint it starts from (a file or a hub name), if any.

    ``reset_norms`` begins with fresh statistics and factors in the batch norms of that checkpoint.
    """

    spec: Any
    recipe: Recipe
    weights: str = ""
    reset_norms: bool = False
    name: ClassVar[str] = "train"

    def applies(self, task: Task, parents: Sequence[Candidate]) -> str | None:
        """Image classification only."""
        return None if task.kind == "image-classification" else f"train takes image classification, not {task.kind}"

    def propose(self, task: Task, budget: Budget, seen: Sequence[Candidate], seed: int) -> list[Proposal]:
        """The network, or nothing once it was seen."""
        if any(c.proposal.method == self.name for c in seen):
            return []
        recipe = {"phase": "train", "family": self.spec.kind, "recipe": self.recipe.to_json(), "weights": self.weights}
        if self.reset_norms:
            recipe["reset_norms"] = True
        return [Proposal(self.name, self.spec, recipe, task.fingerprint, seed, counted=count(self.spec))]

    def evaluate(self, proposal: Proposal, task: Any, tools: Tools) -> tuple[Servable | None, Cost]:
        """Train and save."""
        return train_network(proposal, task, tools)


def train_network(proposal: Proposal, task: Any, tools: Tools) -> tuple[ImageClassifier, Cost]:
    """Train a proposal's network by its recipe, continuing what the workspace or the parent ``rung`` holds.

    Initial weights are a function of the proposal's seed and spec, or come from ``recipe["weights"]``. The artifact
    is the classifier with the weights the recipe keeps; of a network that was trained on a tree of classes, it has the
    outputs of the task's own. Raises TrainingError, WeightsError.
    """
    import torch

    from sartor.weights.load import first_outputs, load_weights, reset_batch_norms

    recipe: Recipe = read_recipe(proposal.recipe["recipe"])
    weights, device = proposal.recipe.get("weights"), default_device()
    torch.manual_seed(seed_of(proposal.seed, "weights", spec_id(proposal.spec)))
    network = build(spec_for(recipe, proposal.spec, task.classes), device="meta" if weights else device)
    if weights:
        network = load_weights(network, weights, device=device)
    if proposal.recipe.get("reset_norms"):
        reset_batch_norms(network)
    trained = train(
        network, task, recipe, folder=tools.workspace, seed=proposal.seed, start=tools.states.get("rung"),
        deadline=tools.deadline, progress=tools.progress,
    )  # fmt: skip
    network = first_outputs(trained.network, len(task.classes))
    classifier = ImageClassifier.of(network, recipe.pixels(task.preprocess), task.classes)
    classifier.write(tools.artifact)
    return classifier.faster(), Cost({"train_seconds": Amount(trained.seconds, "s", "measured")})
