"""Pretraining for small pathological benchmarks (MILLanD at MICCAI 2023): few labels, with and without it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sartor.core.errors import DataError
from sartor.core.files import write_json
from sartor.core.rng import seed_of
from sartor.core.spec import Json, digest, to_json
from sartor.data.decode import decode
from sartor.data.preprocess import Preprocess
from sartor.data.source import Pixels
from sartor.data.splits import carve
from sartor.data.tiles import Tiling
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build
from sartor.models.vision.resnet import Basic
from sartor.pretraining.plan import pretraining_plan
from sartor.pretraining.recipe import Pretraining, pretraining
from sartor.reproduce.cifar import DATA, Examples, PooledImages
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result
from sartor.reproduce.statistics import Estimate, difference
from sartor.search.design_space_training import error_of, opened, training_workers
from sartor.training.classification import plan_for
from sartor.training.loop import run
from sartor.training.optimisers import AdamW
from sartor.training.plan import Numerics
from sartor.training.recipe import Recipe, read_recipe

SCRATCH = "from scratch"
METHODS = ("simclr", "moco-v2", "byol")
SHARES = {"1 %": 0.01, "10 %": 0.1}
EPOCHS = 12
UPDATES = 300  # of every fine-tuning
LABELLED = (5, 10, 20)  # patches of each class
TISSUE_SEEDS = 5
_SMALL = {  # heads and averages for a small network on a few thousand images
    "simclr": ("method.temperature=0.2",),
    "moco-v2": ("method.momentum=0.99", "method.queue=2048"),
    "byol": ("method.hidden=512", "method.out=128", "method.tau=0.97", "method.own_start=false"),
}
_PHOTOS = ("views.scale=[0.2,1.0]", "views.vertical=0.0", "views.blur=0.0", "views.interpolation=bilinear")
_TISSUE = Path("images", "histology-tiles")
_NUMERICS = Numerics("float32", channels_last=True)


def network(side: int, classes: int) -> Any:
    """A residual network of 0.3 million parameters, every stage of which halves the size."""
    stages = tuple(Stage(Basic(), 1, 32 * 2**s, 2) for s in range(3))
    return AnyNet(Stem(32), stages, classes=classes, size=(side, side))


def small(method: str, settings: Sequence[str], epochs: float) -> Pretraining:
    """A method for a small network: AdamW, which needs fewer epochs than LARS."""
    recipe = pretraining(method).replace(
        epochs=epochs, batch=128, lr_batch=128, optimiser=AdamW(), lr=2e-3, weight_decay=0.01, warmup=0.1,
        decay_all=False, clip=0.0,
    )  # fmt: skip
    return recipe.replace_from([*_SMALL[method], *settings])


def tuning(examples: int, updates: int) -> Recipe:
    """Fine-tuning and training from scratch alike, so many updates however few the examples are."""
    batch = min(50, examples)
    augment = {"crop": "pad", "pad": 2, "border": "reflect", "flip": 0.5}
    return read_recipe(
        {
            "epochs": updates / (examples // batch), "batch": batch, "lr_batch": batch, "lr": 1e-3,
            "weight_decay": 0.05, "optimiser": {"kind": "adamw"}, "augment": augment,
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A pretraining, or none, and what is fine-tuned after it; ``unlabelled`` is the task it is pretrained on."""

    name: str
    opener: Callable[[], PooledImages]
    unlabelled: Callable[[], PooledImages]
    recipe: Pretraining | None
    counts: Mapping[str, float]
    updates: int

    def file(self, seed: int) -> str:
        """A file name that says the variant and seed, and differs for whatever else differs."""
        recipe = to_json(self.recipe) if self.recipe else None
        values = [recipe, repr(self.opener), repr(self.unlabelled), dict(self.counts), self.updates]
        return f"{self.name.replace(' ', '-')}-{seed}-{digest(values, 8)}.json"


def measured(variant: Variant, seed: int) -> Json:
    """Pretrain if the variant says so, then fine-tune on each number of labels; the errors on the test split."""
    began = time.perf_counter()
    task = opened(variant.opener)
    spec = network(task.preprocess.size, len(task.classes))
    torch.manual_seed(seed_of(seed, "weights"))
    start, losses = build(spec).state_dict(), list[float]()
    if variant.recipe is not None:
        images = opened(variant.unlabelled).split("train")
        torch.manual_seed(seed_of(seed, "weights"))
        plan = pretraining_plan(variant.recipe, build(spec), images, task.preprocess, seed=seed, numerics=_NUMERICS)
        trained = run(plan)
        start = {**start, **variant.recipe.method.backbone_of(trained.network).state_dict()}
        losses = [float(line["loss"]) for line in trained.history]
    seconds = time.perf_counter() - began
    errors = {
        name: _tuned_error(spec, start, task, count, variant.updates, seed) for name, count in variant.counts.items()
    }
    return {
        "variant": variant.name, "seed": seed, "errors": errors, "losses": losses[:1] + losses[-1:],
        "pretraining_seconds": round(seconds, 1), "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def _tuned_error(spec: Any, start: Mapping[str, Any], task: Any, count: float, updates: int, seed: int) -> float:
    """Fine-tune all weights on a share of the labels (below 1) or on so many of each class."""
    train = task.split("train")
    if count < 1:
        chosen = carve(train.labels, count, seed_of(seed, "labels"))[1]
    else:
        shuffled = np.random.default_rng(seed).permutation(len(train))
        by_class = [shuffled[train.labels[shuffled] == c][: int(count)] for c in range(spec.classes)]
        chosen = np.sort(np.concatenate(by_class))
    few = Examples(train.images[chosen], train.labels[chosen])
    tuned = build(spec)
    tuned.load_state_dict(start)
    trained = run(plan_for(tuning(len(few), updates), tuned, few, task.preprocess, seed=seed, numerics=_NUMERICS))
    return error_of(trained.network, task, "test", task.preprocess)


def run_all(variants: Sequence[Variant], seeds: int, conditions: Conditions) -> dict[str, list[Json]]:
    """The records of each variant by seed; each is kept as it ends, and read by a later run."""
    jobs = [(variant, seed) for seed in range(seeds) for variant in variants]
    paths = {(v.name, seed): conditions.folder / "trials" / v.file(seed) for v, seed in jobs}
    records: dict[tuple[str, int], Json] = {k: json.loads(p.read_text()) for k, p in paths.items() if p.exists()}
    waiting = [(v, seed) for v, seed in jobs if (v.name, seed) not in records]
    if waiting:
        opened(variants[0].opener)  # says what is wrong with the data before workers are started
    with training_workers(min(conditions.workers, len(waiting))) as pool:
        if pool:
            ended = (f.result() for f in as_completed([pool.submit(measured, *job) for job in waiting]))
        else:
            ended = (measured(*job) for job in waiting)
        for record in ended:
            key = record["variant"], record["seed"]
            write_json(paths[key], record)
            records[key] = record
            said = ", ".join(f"{100 * error:.1f} % with {name}" for name, error in record["errors"].items())
            took = f"{record['seconds']:.0f} s"
            conditions.say(f"{len(records)} of {len(jobs)}: {key[0]}, seed {key[1]}: error {said}, {took}")
    return {v.name: [records[v.name, seed] for seed in range(seeds)] for v in variants}


def _errors(records: Mapping[str, Sequence[Json]], variant: str, labels: str) -> list[float]:
    return [record["errors"][labels] for record in records[variant]]


def _table(records: Mapping[str, Sequence[Json]], labels: Sequence[str]) -> list[dict[str, str]]:
    return [
        {
            "start": name,
            **{f"test error %, {n} labels": Estimate.of(_errors(records, name, n)).text(1, 100) for n in labels},
            "pretraining": f"{np.median([r['pretraining_seconds'] for r in own]):.0f} s" if own[0]["losses"] else "–",
        }
        for name, own in records.items()
    ]


def photographs(conditions: Conditions) -> Result:
    """CIFAR-10: three methods without labels, then 1 % and 10 % of the labels."""
    data = conditions.data
    epochs, updates = (1.0, 4) if conditions.quick else (EPOCHS, UPDATES)
    shares = {"1 %": 0.2, "10 %": 0.5} if conditions.quick else SHARES
    variants = [Variant(SCRATCH, data, data, None, shares, updates)]
    for method in METHODS:
        recipe = small(method, _PHOTOS, epochs)
        if conditions.quick:
            recipe = recipe.replace(batch=40)
        variants.append(Variant(method, data, data, recipe, shares, updates))
    records = run_all(variants, 1 if conditions.quick else conditions.seeds, conditions)
    gaps = {(m, n): difference(_errors(records, m, n), _errors(records, SCRATCH, n)) for m in METHODS for n in shares}
    said = "; ".join(f"{m} with {n} {gap.text(1, 100)}" for (m, n), gap in gaps.items())
    return Result(
        f"Test error less that of training from scratch, in points (n = {gaps[METHODS[0], '1 %'].n}: mean ± deviation "
        f"and 95 % interval): {said}. The rule is that every mean is below 0.",
        passed=all(gap.mean < 0 for gap in gaps.values()),
        tables={"Test error after fine-tuning": _table(records, list(shares))},
        data={"trials": [r for own in records.values() for r in own]},
    )


@dataclass(frozen=True)
class Tissue:
    """Patches of real tiles, ``side`` pixels wide when given to a network, cut ``edge`` pixels wide every 32.

    Classes are bile duct, colon and normal colon. Train and test patches come from different tiles; of normal colon
    there is one tile, whose halves are taken.
    """

    edge: int
    side: int = 32

    def __call__(self) -> PooledImages:
        """The task; raises DataError if the tiles are not there."""
        root = os.environ.get(DATA)
        folder = Path(root or "").expanduser() / _TISSUE
        if not root or not folder.exists():
            raise DataError(f"this reproduction reads {_TISSUE}: set {DATA} to the folder that holds it")
        liver, colon = sorted(folder.glob("0_0_*.jpg")), sorted(folder.glob("Tile_*.jpg"))
        whole = np.asarray(decode(next(folder.glob("CRC-*.tif"))))
        parts = {
            "train": [[_pixels(p) for p in liver[:4]], [_pixels(p) for p in colon[:2]], [whole[:, :112]]],
            "test": [[_pixels(p) for p in liver[4:6]], [_pixels(p) for p in colon[2:3]], [whole[:, 112:]]],
        }
        splits = {name: self._cut(classes) for name, classes in parts.items()}
        seen = splits["train"].images.reshape(len(splits["train"]), 3, -1) / 255.0
        mean, std = (tuple(v.tolist()) for v in (seen.mean((0, 2)), seen.std((0, 2))))
        contents = digest([self.edge, self.side, len(splits["train"]), len(splits["test"])], 24)
        return PooledImages(
            ("bile duct", "colon", "normal colon"), splits, contents, Preprocess(3, self.side, mean=mean, std=std)
        )

    def _cut(self, classes: Sequence[Sequence[Pixels]]) -> Examples:
        from PIL import Image

        tiling = Tiling(edge=self.edge, side=self.side, mpp=1.0, stride=32 / self.edge)
        images, labels = [], []
        for label, tiles in enumerate(classes):
            for tile in tiles:
                picture = Image.fromarray(tile)
                for box in tiling.boxes(picture.size, 1.0):
                    patch = picture.resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)
                    images.append(np.asarray(patch).transpose(2, 0, 1))
                    labels.append(label)
        return Examples(np.stack(images), np.array(labels, np.int64))


@lru_cache(maxsize=16)
def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(decode(path))


def tissue(conditions: Conditions) -> Result:
    """Histology: BYOL at the same and at half the magnification, then few labelled patches."""
    same, half = Tissue(64), Tissue(128)
    epochs, updates = (1.0, 4) if conditions.quick else (10.0, 100)
    counts = {str(n): float(n) for n in LABELLED}
    recipe = small("byol", ("views.blur=0.0", "views.interpolation=bilinear", "batch=64", "lr_batch=64"), epochs)
    if conditions.quick:
        recipe = recipe.replace(batch=4)
    near, far = "BYOL, same scale", "BYOL, half scale"
    variants = [
        Variant(SCRATCH, same, same, None, counts, updates),
        Variant(near, same, same, recipe, counts, updates),
        Variant(far, same, half, recipe, counts, updates),
    ]
    records = run_all(variants, 1 if conditions.quick else max(TISSUE_SEEDS, conditions.seeds), conditions)
    gaps = {n: difference(_errors(records, near, n), _errors(records, SCRATCH, n)) for n in counts}
    scale = difference(_errors(records, near, "5"), _errors(records, far, "5"))
    said = "; ".join(f"{n} labels {gap.text(1, 100)}" for n, gap in gaps.items())
    return Result(
        f"Test error of BYOL less that of training from scratch, in points (n = {scale.n}: mean ± deviation and 95 % "
        f"interval), by labelled patches of each class: {said}. The rule is that the mean with 5 is below 0; 3 points "
        f"were expected. At the same scale the error with 5 differs from that after half the scale by "
        f"{scale.text(1, 100)} points. Ten tiles of few slides show a direction only.",
        passed=gaps["5"].mean < 0,
        tables={"Test error after fine-tuning, by labelled patches of each class": _table(records, list(counts))},
        data={"trials": [r for own in records.values() for r in own]},
    )


REPRODUCTION = Reproduction(
    "pathology-pretraining",
    "Large-scale pretraining on pathological images",
    {
        "photographs": Part("1 % and 10 % of the labels of CIFAR-10", photographs),
        "tissue": Part("Few labelled patches of tissue", tissue),
    },
)
