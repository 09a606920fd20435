"""Training one segmentation network by a recipe, as a run like that of a classifier."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.core.errors import TrainingError
from sartor.core.protocols import Tools
from sartor.core.spec import Json
from sartor.runs.clock import Clock
from sartor.runs.delivery import deliver
from sartor.runs.evaluation import WORK, Job, evaluate
from sartor.runs.listener import Listener
from sartor.runs.opening import open_task, opened_run
from sartor.runs.run import Run
from sartor.search.segmentation import TrainSegmenter, segmenter_spec
from sartor.tasks.segmentation import Segmentation
from sartor.training.recipe import read_recipe
from sartor.training.segmentation import quick_segmentation


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """What a user asks of ``train`` for segmentation: as ``TrainRequest``, with the mask values to ``ignore``."""

    data: str
    model: Any
    recipe: Json | None
    settings: tuple[str, ...]
    epochs: float
    weights: str
    size: int
    ignore: tuple[int, ...]
    seed: int
    strict: bool
    task: str = "segmentation"


def run_segmentation(request: SegmentRequest, folder: Path, listener: Listener) -> None:
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


def _work(run: Run, request: SegmentRequest, listener: Listener) -> None:
    clock = Clock(math.inf, run.ledger.used())
    listener.stage("opening the data")
    task = open_task(run, _opener(request, lambda done, of: listener.progress("data", done / max(1, of), "decoding")))
    method = _method(request, task)
    run.ledger.ask([Candidate.of(p) for p in method.propose(task, Budget(), run.ledger.candidates(), request.seed)])
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


def _assist(request: SegmentRequest, folder: Path) -> None:
    """Another process of a training on several: it computes, and writes nothing that is kept."""
    task = _opener(request)()
    method = _method(request, task)
    (proposal,) = method.propose(task, Budget(), [], request.seed)
    with tempfile.TemporaryDirectory() as unused:
        workspace = folder / WORK / Candidate.of(proposal).id
        method.evaluate(proposal, task, Tools({}, {}, workspace, Path(unused), math.inf, lambda share, text: None))


def _opener(request: SegmentRequest, progress: Any = None) -> partial[Segmentation]:
    return partial(
        Segmentation.open, request.data, seed=request.seed, size=request.size or None, ignore=request.ignore,
        strict=request.strict, progress=progress,
    )  # fmt: skip


def _method(request: SegmentRequest, task: Segmentation) -> TrainSegmenter:
    preprocess = task.preprocess
    spec = segmenter_spec(request.model, len(task.classes), preprocess.channels, preprocess.size)
    if request.recipe is None:
        recipe = quick_segmentation(len(task.split("train")), preprocess.size)
    else:
        recipe = read_recipe(request.recipe)
    recipe = recipe.replace_from(request.settings)
    if request.epochs:
        recipe = recipe.replace(epochs=request.epochs)
    return TrainSegmenter(spec, recipe, request.weights)
