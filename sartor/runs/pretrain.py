"""Pretraining as a run: it resumes, and leaves a backbone that ``train`` starts from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartor.core.errors import DataError, RunError
from sartor.core.files import write_json
from sartor.core.machine import machine
from sartor.core.rng import seed_of
from sartor.core.spec import Json, spec_id, to_json
from sartor.data.unlabelled import ImagePool, open_pool
from sartor.models.network import as_spec, build
from sartor.pretraining.plan import pretrain
from sartor.pretraining.recipe import Pretraining, read_pretraining
from sartor.pretraining.supervised import Supervised
from sartor.runs.listener import Listener
from sartor.runs.opening import opened_run
from sartor.runs.run import Run
from sartor.training.devices import default_device
from sartor.training.loop import Trained
from sartor.weights.config import named, read_config
from sartor.weights.load import load_weights
from sartor.weights.pretrained import save_pretrained

BACKBONE, WORK, RESULT = "backbone", "work/pretraining", "pretrained.json"


@dataclass(frozen=True, slots=True)
class PretrainRequest:
    """What a user asks of ``pretrain``.

    ``model`` is a name or a spec's JSON form; ``recipe`` a pretraining recipe's JSON form, fitted to the number of
    images; ``settings`` and ``epochs`` (0: the recipe's) change it; ``size`` 0 means what suits the data.
    """

    data: str
    model: Any
    method: str
    recipe: Json
    settings: tuple[str, ...]
    epochs: float
    weights: str
    size: int
    seed: int


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining: the folder of its run, and what ``pretrained.json`` there says."""

    folder: Path
    facts: Json

    @classmethod
    def read(cls, folder: Path) -> Pretrained:
        """Of a run directory; raises RunError if it holds no finished pretraining."""
        try:
            return cls(folder, json.loads((folder / RESULT).read_text()))
        except (OSError, ValueError):
            raise RunError(f"{folder} holds no finished pretraining; name the run directory of one") from None

    @property
    def backbone(self) -> Path:
        """The folder of the network: ``model.safetensors`` and ``config.json`` with the spec."""
        return self.folder / BACKBONE

    def line(self) -> str:
        """What was done, in a sentence."""
        f = self.facts
        return (
            f"{f['method']}: {f['network']} on {f['images']:,} images of {f['data']}, {f['steps']:,} steps, "
            f"loss {f['first_loss']:.3f} to {f['loss']:.3f}, {f['seconds']:.0f} s"
        )


@dataclass(frozen=True)
class PoolExamples:
    """The images of a pool as the loop reads them."""

    pool: ImagePool
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """``image`` uint8 [n, channels, side, side] and ``label`` [n], -1 where there is none."""
        chosen = self.places[np.asarray(indices)]
        images = self.pool.pixels.gather(self.pool.rows[chosen])
        return {"image": torch.from_numpy(images), "label": torch.from_numpy(self.pool.labels[chosen])}

    def prefetch(self, indices: NDArray[np.int64]) -> None:
        """Begin to decode a batch, where images are decoded on demand."""
        self.pool.pixels.prefetch(self.pool.rows[self.places[np.asarray(indices)]])


def run_pretrain(request: PretrainRequest, folder: Path, listener: Listener) -> None:
    """Pretrain in ``folder``, or go on there; the backbone is left in ``backbone``.

    Under ``torchrun`` every process calls this; the first writes the run. Raises SpecError for the model or method,
    DataError for the data, RunError for the folder, TrainingError for a loss that is not finite.
    """
    if int(os.environ.get("RANK", "0")):
        _train(request, folder, Listener())
        return
    with opened_run(folder, asdict(request)) as run:
        if not (folder / RESULT).exists():
            _work(run, request, listener)


def _work(run: Run, request: PretrainRequest, listener: Listener) -> None:
    network, trained, pool, recipe = _train(request, run.folder, listener, run)
    listener.stage("saving the backbone")
    save_pretrained(network, run.folder / BACKBONE)
    losses = [line["loss"] for line in trained.history]
    facts = {
        "method": recipe.method.kind, "network": request.model if isinstance(request.model, str) else network.spec.kind,
        "data": pool.name, "images": len(pool.rows), "held": pool.held, "skipped": pool.skipped,
        "steps": trained.steps, "first_loss": losses[0], "loss": losses[-1], "seconds": round(trained.seconds, 1),
        "recipe": to_json(recipe), "machine": machine(),
    }  # fmt: skip
    write_json(run.folder / RESULT, facts)


def _train(
    request: PretrainRequest, folder: Path, listener: Listener, run: Run | None = None
) -> tuple[Any, Trained, ImagePool, Pretraining]:
    listener.stage("opening the data")
    pool = open_pool(
        request.data, seed=request.seed, size=request.size or None,
        progress=lambda done, of: listener.progress("data", done / max(1, of), "decoding"),
    )  # fmt: skip
    if run is not None:
        _same_data(run, pool)
    recipe, places = _recipe(request, pool)
    network = _network(request, pool, recipe)
    listener.stage(f"pretraining on {len(places):,} images")
    spec = network.spec
    backbone, trained = pretrain(
        network, PoolExamples(pool, places), pool.preprocess, recipe, classes=len(pool.classes),
        folder=folder / WORK, seed=request.seed, identity={"images": pool.fingerprint},
        progress=lambda share, text: listener.progress(recipe.method.kind, share, text),
    )  # fmt: skip
    return _whole(spec, backbone, request.seed), trained, pool, recipe


def _recipe(request: PretrainRequest, pool: ImagePool) -> tuple[Pretraining, NDArray[np.int64]]:
    """The recipe, and the places in the pool it learns from: where the method needs labels, those that have one."""
    recipe = read_pretraining(request.recipe, request.method)
    places = np.arange(len(pool.rows))
    if isinstance(recipe.method, Supervised):
        places = np.flatnonzero(pool.labels >= 0)
        if not len(places):
            raise DataError(f"{pool.name}: the images have no labels; method supervised needs them")
    recipe = recipe.fitted(len(places))
    recipe = recipe.replace_from(request.settings)
    return (recipe.replace(epochs=request.epochs) if request.epochs else recipe), places


def _network(request: PretrainRequest, pool: ImagePool, recipe: Pretraining) -> Any:
    """The network to train; with one class where labels are not used, so that a classifier for others starts anew."""
    size = recipe.size or pool.preprocess.size
    classes = len(pool.classes) if isinstance(recipe.method, Supervised) else 1
    spec = as_spec(request.model, classes=classes, channels=pool.preprocess.channels, size=(size, size))
    device = default_device()
    torch.manual_seed(seed_of(request.seed, "weights", spec_id(spec)))
    if request.weights:
        return load_weights(build(spec, device="meta"), request.weights, device=device)
    return build(spec, device=device)


def _whole(spec: Any, backbone: Any, seed: int) -> Any:
    """The network with its trained weights and, where the classifier was taken out, a fresh one."""
    torch.manual_seed(seed_of(seed, "classifier"))
    network = build(spec)
    state: Mapping[str, Tensor] = backbone.state_dict()
    heads = {name.rpartition(".")[0] for name in named(network, "readout")}
    fresh = {name: tensor for name, tensor in network.state_dict().items() if name.rpartition(".")[0] in heads}
    network.load_state_dict({**fresh, **state})
    return network.eval()


def _same_data(run: Run, pool: ImagePool) -> None:
    known = run.ledger.fact("images")
    if known and known != pool.fingerprint:
        raise RunError(f"the data of run {run.folder} have changed since it began; use another --out")
    run.ledger.keep(images=pool.fingerprint)


def started(folder: Path, model: Any, weights: str) -> tuple[Any, str]:
    """The spec as JSON and the weights of a finished run, of ``pretrain`` or ``train``, for another training.

    A ``model`` that is named beside it is taken instead of the run's, and must fit its weights. Raises RunError.
    """
    from sartor.runs.delivery import BEST

    if weights:
        raise RunError("name a run or weights to start from, not both")
    found = next((folder / name for name in (BACKBONE, BEST) if (folder / name / "config.json").is_file()), None)
    if found is None:
        raise RunError(f"{folder} is no finished run of pretrain or train; name the directory of one")
    return to_json(read_config(found / "config.json")) if model is None else model, str(found)
