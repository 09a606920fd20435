"""The end of a run: the front measured, its best member exported, checked again, and judged on the test split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.core.errors import RunError
from sartor.core.files import replacing_folder, write_json
from sartor.core.front import Front
from sartor.core.spec import Json
from sartor.runs.clock import Clock
from sartor.runs.measuring import measure, measured_quantities, served
from sartor.runs.run import Run
from sartor.runtime.opening import open_servable

BEST, JUDGED, WORST = "best", "judged.json", "worst"
MOST_MEASURED = 4  # members of the counted front that are measured
_WORST_SHOWN = 12
_COUNTED = ("params", "macs")


def deliver(run: Run, task: Any, budget: Budget, clock: Clock) -> Candidate:
    """Export the best candidate that is measured to be inside the budget, twice: as candidate and as exported.

    Writes ``best``, ``judged.json`` and the fact ``winner``. Repeating it after a kill does no harm. Raises
    ImpossibleBudget naming the nearest, RunError if nothing could be judged.
    """
    quantities = measured_quantities(budget, ("latency",))
    for c in measure(run.folder, _worth_measuring(run.ledger.candidates(), budget, task), quantities, task):
        run.ledger.put(c, clock.used())
    front = measured_front(run, task, budget)
    best, *refused = confirmed(front, budget, lambda c: measure(run.folder, [c], quantities, task)[0])
    for c in refused:
        run.ledger.event(f"{c.id} measured again was outside the budget: {budget.describe(c.cost)}", clock.used())
    (source,) = served(run.folder, [best], task)
    with replacing_folder(run.folder / BEST) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
    run.ledger.keep(winner=_judge(run, best, task))
    return best


def confirmed(front: Front, budget: Budget, again: Callable[[Candidate], Candidate]) -> list[Candidate]:
    """The best member that is inside the budget also when measured ``again``, then those that no longer were.

    Raises ImpossibleBudget naming the nearest, by its last measurement.
    """
    refused: list[Candidate] = []
    while True:
        found = again(front.best(budget))
        if budget.verdict(found.cost) == "in":
            return [found, *refused]
        refused.append(found)
        front = replace(front, members=tuple(found if c.id == found.id else c for c in front.members))


def measured_front(run: Run, task: Any, budget: Budget) -> Front:
    """The front over what was measured."""
    return Front.of(run.ledger.candidates(), task=task.fingerprint, metric=task.metric, fields=front_fields(budget))


def front_fields(budget: Budget) -> list[str]:
    """The costs a front is drawn over: parameters, latency and what the budget bounds."""
    return list(dict.fromkeys(["params", "latency", *(str(b.quantity) for b in budget.bounds)]))


def _worth_measuring(candidates: Sequence[Candidate], budget: Budget, task: Any) -> list[Candidate]:
    """The best of the front of quality against counted cost, without those counting rules out."""
    front = Front.of(candidates, task=task.fingerprint, metric=task.metric, fields=_COUNTED)
    inside = [c for c in front.members if budget.of("counted").verdict(c.cost) == "in"]
    if not inside:
        raise RunError("no candidate inside the budget could be trained and judged in the time; give more --time")
    return inside[:MOST_MEASURED]


def _judge(run: Run, winner: Candidate, task: Any) -> Json:
    """Answer the test split with the exported model, once; returns the winner's record."""
    folder = run.folder / BEST
    servable = open_servable(folder)
    found = task.predictions(servable, "test")
    values = dict(found.values())
    shutil.rmtree(run.folder / WORST, ignore_errors=True)
    masks = task.kind == "segmentation"
    write_json(run.folder / JUDGED, _judged_masks(task, found) if masks else _judged_classes(run, task, found, values))
    return {
        "id": winner.id,
        "engine": servable.description.engine,
        "valid": dict(winner.quality.values) if winner.quality else {},
        "test": values,
        "n_test": found.count if masks else len(found.labels),
        "checks": servable.description.checks,
        "cost": winner.cost.to_json(),
    }


def _judged_masks(task: Any, found: Any) -> Json:
    """Pixels of the test split by true and predicted class."""
    return {"classes": list(task.classes), "pixels": found.confusion.tolist()}


def _judged_classes(run: Run, task: Any, found: Any, values: Json) -> Json:
    """What the report shows of a classifier's answers to the test split."""
    return {
        "classes": list(task.classes),
        "confusion": found.confusion.tolist(),
        "accuracy": values["accuracy"],
        "macro_accuracy": values["balanced_accuracy"],
        "calibration": found.reliability(),
        "worst": [_picture(run, task, int(i), found, n) for n, i in enumerate(found.worst(_WORST_SHOWN))],
    }


def _picture(run: Run, task: Any, index: int, found: Any, number: int) -> Json:
    """Save a wrongly answered test image; returns what is to be said of it."""
    from PIL import Image

    examples = task.split("test")
    pixels = examples.item(index)
    path = run.folder / WORST / f"{number:02}.png"
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(np.squeeze(pixels))
    picture.thumbnail((256, 256))
    picture.save(path)
    return {
        "where": examples.where(index),
        "label": int(found.labels[index]),
        "predicted": int(found.predicted[index]),
        "probability": float(found.confidence[index]),
        "image": f"{WORST}/{path.name}",
    }
