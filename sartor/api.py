"""What ``import sartor`` offers beside the words: the main job and its parts as functions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget
from sartor.core.cost import Cost
from sartor.core.errors import SpecError, unknown
from sartor.core.seams import Signature
from sartor.core.spec import to_json
from sartor.core.units import parse_duration
from sartor.data import masks
from sartor.models.image_spec import MaskSpec
from sartor.models.network import as_spec, count
from sartor.pretraining.recipe import Pretraining, pretraining, values_of
from sartor.report.card import write_model_card
from sartor.report.page import write_report
from sartor.runs.fit import Request, run_fit
from sartor.runs.listener import Listener
from sartor.runs.pretrain import Pretrained, PretrainRequest, run_pretrain, started
from sartor.runs.results import Result
from sartor.runs.segment import SegmentRequest, run_segmentation
from sartor.runs.train import TrainRequest, run_train
from sartor.search.spaces import check_families
from sartor.training.recipe import Recipe
from sartor.training.recipe import recipe as find_recipe
from sartor.training.segmentation import QUICK

RUNS = Path("runs")
CLASSIFICATION, SEGMENTATION = "image-classification", "segmentation"
TASKS = ("auto", CLASSIFICATION, SEGMENTATION)


def fit(
    data: str | PathLike[str],
    *,
    budget: Budget | str = "",
    time: str | float = "10m",
    out: str | PathLike[str] | None = None,
    families: Sequence[str] = (),
    seed: int = 0,
    strict: bool = False,
    listener: Listener | None = None,
) -> Result:
    """The best model for data within a budget and a time: the run, with its front and report.

    ``data`` is a folder of class folders, a Parquet, Arrow or CSV file, IDX or CIFAR files, a hub data set or
    ``digits``; ``budget`` such as ``latency<2ms, params<1M``; ``time`` seconds or ``"10m"``. The run directory
    ``out`` (default ``runs/NAME``) resumes if it was cut off. Raises SartorError with one line for what is wrong.
    """
    name = fspath(data)
    folder = Path(out) if out is not None else RUNS / run_name(name)
    request = Request(
        name, str(Budget.parse(budget)), parse_duration(time), seed, check_families(families), strict
    )  # fmt: skip
    run_fit(request, folder, listener or Listener()).close()
    return _reported(folder)


def train(
    model: Any,
    data: str | PathLike[str],
    *,
    recipe: str | Recipe = "quick",
    epochs: float | None = None,
    settings: Sequence[str] = (),
    weights: str = "",
    start: str | PathLike[str] | None = None,
    reset_norms: bool = False,
    labels: float = 1.0,
    size: int = 0,
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    task: str = "auto",
    ignore: Sequence[int] = (),
    listener: Listener | None = None,
) -> Result | None:
    """Train a named network, spec or JSON form on data by a recipe: a run with one candidate.

    ``settings`` such as ``lr=0.004`` change the recipe, ``weights`` is a checkpoint to start from. ``start`` is the
    run directory of a ``pretrain`` or ``train`` whose network and weights are taken; ``model`` then may be None.
    ``reset_norms`` makes their batch norms begin anew, ``labels`` is the share of the training labels to use.
    ``task`` is "image-classification" or "segmentation", by default what the data look like (``sartor.data.masks``); a
    network for classes then gets a fully convolutional head, and pixels whose value is in ``ignore`` (default 255)
    have no class. Under ``torchrun`` all processes call this and all but the first get None. Raises SartorError with
    one line for what is wrong.
    """
    if start is not None:
        model, weights = started(Path(start), model, weights)
    if model is None:
        raise SpecError("train: name a model, or a run to start from")
    if reset_norms and not weights:
        raise SpecError("train: without weights to start from there are no batch norms to reset")
    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    kind = _task_of(task, data)
    if kind == SEGMENTATION and recipe == "quick":
        chosen = find_recipe(QUICK)
    chosen.replace_from(settings).check()  # a wrong setting is said before data are read
    fitted = None if recipe == "quick" else chosen.to_json()
    name = fspath(data)
    plain = model if isinstance(model, str | Mapping) else to_json(model)
    label = model if isinstance(model, str) else as_spec(model).kind
    folder = Path(out) if out is not None else RUNS / f"{label}-{run_name(name)}"
    if isinstance(as_spec(plain), MaskSpec) and kind != SEGMENTATION:  # likewise a wrong name
        raise SpecError(f"{label} gives masks, and {name} has none; take a network for classes (sartor models)")
    common = name, plain, fitted, tuple(settings), epochs or 0.0, weights, size
    if kind == SEGMENTATION:
        if reset_norms or labels != 1.0:
            raise SpecError("train: a share of the labels and new batch norms are for classification, not segmentation")
        wanted = SegmentRequest(*common, tuple(ignore) or (255,), seed, strict)
        run_segmentation(wanted, folder, listener or Listener())
    else:
        run_train(TrainRequest(*common, seed, strict, labels, reset_norms), folder, listener or Listener())
    if int(os.environ.get("RANK", "0")):
        return None
    return _reported(folder)


def _task_of(task: str, data: str | PathLike[str]) -> str:
    """The kind of task that is asked for, or that the data look like."""
    if task not in TASKS:
        raise SpecError(unknown("task", task, TASKS))
    if task != "auto":
        return task
    return SEGMENTATION if masks.matches(Path(data).expanduser()) else CLASSIFICATION


def pretrain(
    model: Any,
    data: str | PathLike[str],
    *,
    method: str | Pretraining = "simclr",
    epochs: float | None = None,
    settings: Sequence[str] = (),
    weights: str = "",
    size: int = 0,
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    listener: Listener | None = None,
) -> Pretrained | None:
    """Train a network on images without looking at labels, for ``train(..., start=RUN)`` to go on from.

    ``method`` is one of ``sartor.pretraining.recipe.list_methods()``, ``data`` what ``fit`` takes or a folder of
    image files. The run directory ``out`` (default ``runs/METHOD-MODEL-DATA``) resumes if it was cut off. Raises
    SartorError with one line for what is wrong.
    """
    recipe = pretraining(method) if isinstance(method, str) else method
    recipe.replace_from(settings).method.check(as_spec(model))  # what is wrong is said before data are read
    name = fspath(data)
    plain = model if isinstance(model, str | Mapping) else to_json(model)
    label = model if isinstance(model, str) else as_spec(model).kind
    folder = Path(out) if out is not None else RUNS / f"{recipe.name}-{label}-{run_name(name)}"
    request = PretrainRequest(
        name, plain, recipe.name, values_of(recipe), tuple(settings), epochs or 0.0, weights, size, seed
    )
    run_pretrain(request, folder, listener or Listener())
    return None if int(os.environ.get("RANK", "0")) else Pretrained.read(folder)


def _reported(folder: Path) -> Result:
    write_model_card(folder)
    write_report(folder)
    return Result(folder)


def cost_of(model: Any, size: tuple[int, int, int] | None = None) -> Cost:
    """Counted cost of a named network, spec or JSON form for one image (channels, height, width)."""
    spec = as_spec(model, **({"channels": size[0]} if size else {}))
    return count(spec, Signature.image(*size) if size else None)


def run_name(data: str) -> str:
    """The default name of a run on some data: its last path component, without what a file name should not have."""
    stem = re.sub(r"[^\w.-]+", "-", Path(data).name or "data").strip("-.")
    return stem or "data"
