"""Trials: the same training for several networks and several seeds, each kept as it ends."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from sartor.core.errors import TrainingError
from sartor.core.files import write_json
from sartor.core.spec import Json, digest, to_json
from sartor.models.network import count
from sartor.reproduce.cifar import CifarSubset
from sartor.reproduce.reproduction import Conditions, Rows
from sartor.reproduce.statistics import Estimate
from sartor.search.design_space_training import opened, train_and_test, training_workers
from sartor.training.recipe import Recipe
from sartor.training.recipe import recipe as named_recipe
from sartor.training.schedules import Cosine

J = TypeVar("J")


@dataclass(frozen=True)
class Trial:
    """One training of one variant."""

    variant: str
    spec: Any
    recipe: Recipe
    data: CifarSubset
    seed: int

    @property
    def name(self) -> str:
        """Says the variant and seed, and differs for whatever else differs."""
        values = [to_json(self.spec), self.recipe.to_json(), self.data.train, self.data.test]
        return f"{re.sub(r'[^a-z0-9]+', '-', self.variant.lower()).strip('-')}-{self.seed}-{digest(values, 8)}"


class Trials:
    """The records of variants, in the order of their seeds. A record that ``diverged`` has no error."""

    def __init__(self, specs: Mapping[str, Any], records: Sequence[Json]) -> None:
        self.specs = specs
        self.records: dict[str, list[Json]] = defaultdict(list)
        for record in sorted(records, key=lambda r: r["seed"]):
            self.records[record["variant"]].append(record)

    def errors(self, variant: str) -> list[float]:
        """The test errors of the seeds that did not diverge, as shares."""
        return [record["error"] for record in self.records[variant] if "error" in record]

    def losses(self, variant: str) -> list[float]:
        """The mean training losses of the last epoch; infinite where a training diverged."""
        return [record["losses"][-1] if "losses" in record else float("inf") for record in self.records[variant]]

    def seconds(self, variant: str) -> float | None:
        """The median time of an epoch's training, if any was finished."""
        times = [s for record in self.records[variant] for s in record.get("seconds", ())]
        return statistics.median(times) if times else None

    def rows(self) -> Rows:
        """A table: mean over the seeds, standard deviation and 95 % interval."""
        return [self._row(variant, spec) for variant, spec in self.specs.items()]

    def to_json(self) -> Json:
        """All records and estimates as plain values."""
        estimates = {v: Estimate.of(self.errors(v)).to_json() for v in self.specs if self.errors(v)}
        return {"errors": estimates, "trials": [r for records in self.records.values() for r in records]}

    def _row(self, variant: str, spec: Any) -> dict[str, str]:
        cost, errors, seconds = count(spec), self.errors(variant), self.seconds(variant)
        losses = [loss for loss in self.losses(variant) if loss != float("inf")]
        diverged = len(self.records[variant]) - len(errors)
        outcome = [Estimate.of(errors).text(1, 100)] if errors else []
        outcome += [f"{diverged} of {len(self.records[variant])} diverged"] if diverged else []
        return {
            "network": variant,
            "parameters": f"{cost.value('params'):,.0f}",
            "multiply-adds": f"{cost.value('macs') / 1e6:.1f} M",
            "test error %": "; ".join(outcome),
            "last epoch's loss": Estimate.of(losses).text(3) if losses else "–",
            "seconds per epoch": f"{seconds:.1f}" if seconds else "–",
        }


def run_trials(
    specs: Mapping[str, Any],
    recipe: Recipe | Mapping[str, Recipe],
    conditions: Conditions,
    data: CifarSubset | None = None,
) -> Trials:
    """Train every variant with every seed by the recipe, or its own; what an earlier run has measured is read.

    ``data`` is another subset than that of the conditions, but for a quick run.
    Raises DataError without the data, TrainingError if a worker dies.
    """
    recipes = dict.fromkeys(specs, recipe) if isinstance(recipe, Recipe) else recipe
    subset = conditions.data if data is None or conditions.quick else data
    trials = [
        Trial(variant, spec, conditions.trained_by(recipes[variant]), subset, seed)
        for seed in range(1 if conditions.quick else conditions.seeds)
        for variant, spec in specs.items()
    ]
    opened(subset)  # says what is wrong with the data before workers are started
    records = gathered({trial.name: trial for trial in trials}, measured, conditions, _line)
    return Trials(specs, [records[trial.name] for trial in trials])


def gathered(
    jobs: Mapping[str, J], measure: Callable[[J], Json], conditions: Conditions, line: Callable[[Json], str]
) -> dict[str, Json]:
    """The records of jobs by name, each kept in the conditions' folder as it ends; those kept there are read.

    ``measure`` runs on the conditions' workers, ``line`` says what is told of a record. Raises TrainingError if a
    worker dies.
    """
    paths = {name: conditions.folder / "trials" / f"{name}.json" for name in jobs}
    records = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    waiting = [name for name in jobs if name not in records]
    with training_workers(min(conditions.workers, len(waiting))) as pool:
        for name, record in _ended(pool, {name: jobs[name] for name in waiting}, measure):
            write_json(paths[name], record)
            records[name] = record
            conditions.say(f"{len(records)} of {len(jobs)}: {line(record)}")
    return records


def _ended(pool: Executor | None, jobs: Mapping[str, J], measure: Callable[[J], Json]) -> Iterator[tuple[str, Json]]:
    """The jobs' records by name, as they end."""
    if pool is None:
        yield from ((name, measure(job)) for name, job in jobs.items())
        return
    names = {pool.submit(measure, job): name for name, job in jobs.items()}
    yield from ((names[future], future.result()) for future in as_completed(names))


def small(name: str, epochs: float, batch: int = 64) -> Recipe:
    """A paper's CIFAR recipe for the subset: a learning rate of 0.1 that falls along a cosine, shifts by two pixels."""
    base = named_recipe(name)
    augment = dataclasses.replace(base.augment, pad=2)
    return base.replace(
        epochs=epochs, batch=batch, lr=0.1, lr_batch=batch, schedule=Cosine(), warmup=0.0, augment=augment
    )


def measured(trial: Trial) -> Json:
    """The record of a trial."""
    record: Json = {"variant": trial.variant, "seed": trial.seed}
    try:
        record |= train_and_test(trial.spec, opened(trial.data), trial.recipe, seed=trial.seed)
    except TrainingError as error:
        record["diverged"] = str(error)
    return record


def _line(record: Json) -> str:
    if "diverged" in record:
        return f"{record['variant']}, seed {record['seed']}: diverged ({record['diverged']})"
    return (
        f"{record['variant']}, seed {record['seed']}: error {100 * record['error']:.1f} %, "
        f"loss {record['losses'][-1]:.3f}, {sum(record['seconds']):.0f} s"
    )
