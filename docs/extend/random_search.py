"""Random search: networks of one family near the budget, each trained by the same recipe."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Proposal
from sartor.core.cost import Cost
from sartor.core.front import Front
from sartor.core.protocols import Servable, Task, Tools
from sartor.core.rng import generator
from sartor.models.network import count
from sartor.runs.executor import LocalExecutor
from sartor.runs.run import Run
from sartor.search.spaces import family_space
from sartor.search.spaces_near import near
from sartor.search.train import train_network
from sartor.tasks.image_classification import ImageClassification
from sartor.training.quick import quick
from sartor.training.recipe import Recipe


@dataclass(frozen=True)
class RandomSearch:
    """Draws ``number`` networks of a family once."""

    family: str
    number: int
    recipe: Recipe
    name: ClassVar[str] = "random"

    def applies(self, task: Task, parents: Sequence[Candidate]) -> str | None:
        """Image classification only."""
        return None if task.kind == "image-classification" else f"random trains image classifiers, not {task.kind}"

    def propose(self, task: Task, budget: Budget, seen: Sequence[Candidate], seed: int) -> Sequence[Proposal]:
        """All networks in one wave, then nothing."""
        if any(c.proposal.method == self.name for c in seen):
            return []
        space = family_space(self.family, task.inputs.fields["image"].shape, len(task.given()["classes"]))
        values = {"family": self.family, "recipe": self.recipe.to_json()}
        specs = [
            space.spec(near(space, budget, 1.0, generator(seed, self.name, number))) for number in range(self.number)
        ]
        return [
            Proposal(self.name, spec, values, task.fingerprint, seed, counted=count(spec))
            for spec in dict.fromkeys(specs)
        ]

    def evaluate(self, proposal: Proposal, task: Any, tools: Tools) -> tuple[Servable | None, Cost]:
        """Train, save into ``tools.artifact``, and say what it took."""
        return train_network(proposal, task, tools)


def main() -> None:
    """Search on digits, within ten thousand parameters."""
    folder, budget = Path("runs/random"), Budget.parse("params<10k")
    open_task = partial(ImageClassification.open, "digits")
    task = open_task()
    recipe = quick(len(task.split("train")), task.preprocess.size, flip=False).replace(epochs=5.0)
    method = RandomSearch("resnet", 4, recipe)
    executor = LocalExecutor(folder, open_task, {method.name: method}, 2, lambda id, share, text: None)
    with Run(folder, write=True) as run:
        try:
            while wave := method.propose(task, budget, run.ledger.candidates(), seed=0):
                run.ledger.ask([Candidate.of(proposal) for proposal in wave])
                executor.run(wave, finished=run.ledger.put, deadline=time.time() + 60)
        finally:
            executor.close()
        front = Front.of(run.ledger.candidates(), task=task.fingerprint, metric=task.metric, fields=["params"])
    for c in front.members:
        print(c.id, round(front.quality(c), 3), int(c.cost.value("params")))


if __name__ == "__main__":
    main()
