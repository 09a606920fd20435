"""Training one network by a recipe, as a run: it resumes, and is exported and judged like the main job's winner."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.core.errors import TrainingError
from sartor.core.protocols import Tools
from sartor.core.spec import Json
from sartor.models.network import as_spec
from sartor.runs.clock import Clock
from sartor.runs.delivery import deliver
from sartor.runs.evaluation import WORK, Job, evaluate
from sartor.runs.listener import Listener
from sartor.runs.opening import open_task, opened_run
from sartor.runs.run import Run
from sartor.search.mirror import mirror_safe
from sartor.search.train import Train
from sartor.tasks.image_classification import ImageClassification
from sartor.training.quick import quick
from sartor.training.recipe import Recipe, read_recipe


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What a user asks of ``train``.

    ``model`` is a name or a spec's JSON form; ``recipe`` a recipe's JSON form, or None for ``quick`` fitted to the
    data; ``settings`` and ``epochs`` (0: the recipe's) change it; ``size`` 0 means what suits the data. ``labels`` is
    the share of the training labels to use, ``reset_norms`` makes the batch norms of ``weights`` begin anew.
    """

    data: str
    model: Any
    recipe: Json | None
    settings: tuple[str, ...]
    epochs: float
    weights: str
    size: int
    seed: int
    strict: bool
    labels: float = 1.0
    reset_norms: bool = False


def run_train(request: TrainRequest, folder: Path, listener: Listener) -> None:
    """Train in ``folder``, or go on there; the trained model is exported to ``best`` and judged on ``test``.

    Under ``torchrun`` every process calls this; the first writes the run. Raises SpecError for the model or recipe,
    DataError for the data, RunError for the folder, TrainingError for a loss that is not finite.
    """
    if int(os.environ.get("RANK", "0")):
        return _assist(request, folder)
    with opened_run(folder, asdict(request)) as run:
        if run.ledger.fact("finished") is None:
            _work(run, request, listener)
    return None


def _work(run: Run, request: TrainRequest, listener: Listener) -> None:
    clock = Clock(math.inf, run.ledger.used())
    listener.stage("opening the data")
    task = open_task(run, _opener(request, lambda done, of: listener.progress("data", done / max(1, of), "decoding")))
    method = _method(request, task)
    proposals = method.propose(task, Budget(), run.ledger.candidates(), request.seed)
    run.ledger.ask([Candidate.of(proposal) for proposal in proposals])
    for candidate in run.ledger.candidates():
        if candidate.state != "done":
            listener.wave([candidate])
            job = Job(candidate.proposal, run.folder, math.inf)
            ended = evaluate(job, task, {method.name: method}, partial(listener.progress, candidate.id))
            if ended.state != "done":
                raise TrainingError(ended.why)
            run.ledger.put(ended, clock.used())
            listener.ended(ended)
    listener.stage("measuring and exporting")
    deliver(run, task, Budget(), clock)
    run.ledger.keep(finished=clock.used())


def _assist(request: TrainRequest, folder: Path) -> None:
    """Another process of a training on several: it computes, and writes nothing that is kept."""
    task = _opener(request)()
    method = _method(request, task)
    (proposal,) = method.propose(task, Budget(), [], request.seed)
    with tempfile.TemporaryDirectory() as unused:
        workspace = folder / WORK / Candidate.of(proposal).id
        method.evaluate(proposal, task, Tools({}, {}, workspace, Path(unused), math.inf, lambda share, text: None))


def _opener(request: TrainRequest, progress: Any = None) -> Callable[[], ImageClassification]:
    def opener() -> ImageClassification:
        task = ImageClassification.open(
            request.data, seed=request.seed, size=request.size or None, squash=_asked(request).resize == "squash",
            strict=request.strict, progress=progress,
        )  # fmt: skip
        return task.with_labels(request.labels, request.seed)

    return opener


def _method(request: TrainRequest, task: ImageClassification) -> Train:
    channels, height, width = task.inputs.fields["image"].shape
    spec = as_spec(request.model, classes=len(task.classes), channels=channels, size=(height, width))
    return Train(spec, _recipe(request, task, spec), request.weights, request.reset_norms)


def _asked(request: TrainRequest) -> Recipe:
    """The recipe with its settings, before it is fitted to the data."""
    return read_recipe(request.recipe or {}).replace_from(request.settings)


def _recipe(request: TrainRequest, task: ImageClassification, spec: Any) -> Recipe:
    if request.recipe is None:
        suited = quick(len(task.split("train")), task.preprocess.size, flip=mirror_safe(task, request.seed), spec=spec)
        recipe = suited.replace_from(request.settings)
    else:
        recipe = _asked(request)
    return recipe.replace(epochs=request.epochs) if request.epochs else recipe
