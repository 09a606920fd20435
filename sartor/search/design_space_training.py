"""The evaluator of sweeps: a network is trained briefly on a task, and its errors are what its record says.

A population trains on several processes with one thread each. What a network reaches is a function of its spec, the
recipe and the seed, whichever process trains it.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from json import dumps
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sartor.core.errors import SpecError, TrainingError
from sartor.core.rng import seed_of
from sartor.core.spec import Json, spec_id
from sartor.models.network import build
from sartor.tasks.image_classification import ImageClassification
from sartor.training.classification import plan_for, spec_for
from sartor.training.devices import default_device
from sartor.training.loop import run
from sartor.training.plan import Numerics
from sartor.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from sartor.data.preprocess import Preprocess
    from sartor.training.plan import Context, Modules

_BATCH = 256  # images judged at a time
_NEVER = 1 << 31  # steps between lines of history that do not end an epoch
# Settings under pycls's names, and the recipe's; what only its cluster or its GPUs read is left out (None).
_SETTINGS: Mapping[str, str | None] = {
    "batch_size": "batch", "warmup_epochs": "warmup", "warmup_factor": "warmup_from", "momentum": "optimiser.momentum",
    "nesterov": "optimiser.nesterov", "label_smoothing": "loss.smoothing", "mixup_alpha": "augment.mixup",
    "cutmix_alpha": "augment.cutmix", "mixed_precision": None,
}  # fmt: skip


class SmallTask(Protocol):
    """What a short training needs of a task; image classification has it."""

    @property
    def preprocess(self) -> Preprocess:
        """How its images become what a network takes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, by index."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal data and splits."""

    def split(self, name: str) -> Any:
        """A split with ``batch(indices)``, ``labels`` and a length."""


@dataclass(frozen=True)
class OpenImages:
    """Opens an image classification task, in whatever process it is called."""

    data: str
    seed: int = 0
    size: int | None = None

    def __call__(self) -> ImageClassification:
        """The task; raises DataError."""
        return ImageClassification.open(self.data, seed=self.seed, size=self.size)


@dataclass(frozen=True)
class TrainedError:
    """An ``Evaluator``: trains a spec on the task that ``opener`` opens, by ``recipe`` and a sweep's settings.

    ``opener`` compares by value, so that a process opens its task once. Settings are the recipe's values, also dotted
    (``augment.mixup``) or under pycls's names, and ``seed``. A training that diverges is recorded as failed.
    """

    opener: Callable[[], SmallTask]
    recipe: Recipe
    seed: int = 0
    split: str = "valid"

    def __call__(self, spec: Any, settings: Mapping[str, Any]) -> Json:
        """What ``train_and_test`` measures, ``error`` and ``curve`` among it; raises SpecError, DataError."""
        own = dict(settings)
        seed = int(own.pop("seed", self.seed))
        recipe = with_settings(self.recipe, own)
        try:
            return train_and_test(spec, opened(self.opener), recipe, seed=seed, split=self.split)
        except TrainingError as error:
            return {"failed": str(error)}


@lru_cache(maxsize=2)
def opened(opener: Callable[[], SmallTask]) -> SmallTask:
    """The task of an opener, opened once in a process."""
    return opener()


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with a sweep's settings; raises SpecError, naming the nearest, for one that no recipe has.

    A learning rate that is set is the rate itself, whatever the batch.
    """
    rest, plain = dict(settings), list[str]()
    if rest.pop("lr_policy", "cos") != "cos":
        raise SpecError(f"sweep: lr_policy {settings['lr_policy']!r} is not read; use cos")
    if "use_custom_weight_decay" in rest:
        plain.append(f"decay_all={dumps(not rest.pop('use_custom_weight_decay'))}")
    rest |= _averaging(rest, recipe)
    if "lr" in rest:
        plain.append('lr_scaling="none"')
    for name, value in rest.items():
        known = _SETTINGS.get(name, name)
        if known is not None:
            plain.append(f"{known}={dumps(value)}")
    return recipe.replace_from(plain)


def _averaging(settings: dict[str, Any], recipe: Recipe) -> dict[str, float]:
    """The decay per step of the average of weights that pycls's ``ema_alpha`` means, taken out of the settings."""
    alpha, period = settings.pop("ema_alpha", None), settings.pop("ema_update_period", 32)
    if alpha is None or not period:
        return {}
    batch, epochs = settings.get("batch_size", recipe.batch), settings.get("epochs", recipe.epochs)
    return {"ema": (1.0 - min(1.0, alpha * batch / epochs * period)) ** (1.0 / period)}


def train_and_test(spec: Any, task: SmallTask, recipe: Recipe, *, seed: int = 0, split: str = "test") -> Json:
    """Train a network of ``spec`` from random weights, and judge it on a split after each epoch and at the end.

    Gives the final ``error`` and the ``curve`` of errors by epoch as shares of the split, ``losses``, the mean
    training loss of each epoch, and ``seconds``, the time each epoch's training took. On a CPU the number format is
    float32 unless the recipe says otherwise. Raises TrainingError for a loss that is not finite.
    """
    import torch

    device = default_device()
    torch.manual_seed(seed_of(seed, "weights", spec_id(spec)))
    network = build(spec_for(recipe, spec), device=device)
    usual = "float32" if device == "cpu" else "bfloat16"
    numerics = Numerics(usual if recipe.precision == "auto" else recipe.precision, channels_last=True)  # type: ignore[arg-type]
    preprocess = recipe.pixels(task.preprocess)
    watch = _Watch(task, split, preprocess)
    plan = plan_for(
        recipe, network, task.split("train"), task.preprocess, seed=seed, numerics=numerics,
        identity={"task": task.fingerprint},
    )  # fmt: skip
    plan = dataclasses.replace(plan, hooks=dataclasses.replace(plan.hooks, at_epoch=watch), log_every=_NEVER)
    trained = run(plan)
    judged = watch.step == trained.steps
    return {
        "error": watch.curve[-1] if judged else error_of(trained.network, task, split, preprocess),
        "curve": watch.curve,
        "losses": [line["loss"] for line in trained.history],
        "seconds": watch.seconds,
    }


class _Watch:
    """Judges the network after each epoch, and takes the time between."""

    def __init__(self, task: SmallTask, split: str, preprocess: Preprocess) -> None:
        self.task, self.split, self.preprocess = task, split, preprocess
        self.curve: list[float] = []
        self.seconds: list[float] = []
        self.step = 0
        self.began = time.perf_counter()

    def __call__(self, modules: Modules, context: Context) -> Mapping[str, float]:
        self.step = context.step + 1
        self.seconds.append(time.perf_counter() - self.began)
        network = modules.get("average", modules["model"])
        self.curve.append(error_of(network, self.task, self.split, self.preprocess))
        self.began = time.perf_counter()
        return {"error": self.curve[-1]}


def error_of(network: nn.Module, task: SmallTask, split: str, preprocess: Preprocess) -> float:
    """The share of a split's images that the network, as it would be served, gives another class."""
    from sartor.runtime.classifier import ImageClassifier

    classifier, examples, wrong = ImageClassifier.of(network, preprocess, task.classes), task.split(split), 0
    for start in range(0, len(examples), _BATCH):
        chosen = np.arange(start, min(start + _BATCH, len(examples)))
        images = preprocess.crop(examples.batch(chosen)["image"].numpy())
        wrong += int((classifier.logits(np.ascontiguousarray(images)).argmax(1) != examples.labels[chosen]).sum())
    return wrong / len(examples)


@contextmanager
def training_workers(count: int) -> Iterator[Executor | None]:
    """Processes that train with one thread each, and end with this one however it ends; none for a count of 1.

    Without them this process trains, with one thread too, so that the results are the same. Raises TrainingError if
    a worker dies.
    """
    if count < 2:
        with _one_thread():
            yield None
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool:
        raise TrainingError("a worker died, perhaps for want of memory; the same command goes on from here") from None
    finally:
        for process in multiprocessing.active_children():  # the pool's, if something was raised: else they have ended
            if process not in others:
                process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare() -> None:
    """Set a worker up."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, without a traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
