"""Answering pictures at 224: what ``predict`` does, and our plain forward pass, against timm's eager float32."""

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Ratio, race
from benchmarks.peers import MODELS, pair
from benchmarks.table import Table
from sartor.data.preprocess import Preprocess
from sartor.models.network import count
from sartor.runtime import ImageClassifier
from sartor.runtime.choose import choose_engine
from sartor.runtime.export import export
from sartor.runtime.networks import affine

SIZE, BATCHES = 224, (1, 16)
IMAGES = 32  # on which engines are compared with plain PyTorch before one is chosen
PREPROCESS = Preprocess(3, SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def bench(options: Any, limits: dict[str, float]) -> Table:
    """timm gets normalised float32 images; ``predict`` gets uint8 pictures in memory and does all the rest."""
    table = Table("inference", f"Inference at {SIZE} against eager timm in float32, equal weights", "")
    ratios: dict[str, list[float]] = {f"{what}@{batch}": [] for what in ("plain", "predict") for batch in BATCHES}
    for name in options.models or MODELS:
        for row in _rows(name, options.rounds, limits):
            table.rows.append(row)
            print(f"  {name}@{row['batch']}: plain {row['plain']}, predict {row['predict']}", flush=True)
            for what in ("plain", "predict"):
                ratios[f"{what}@{row['batch']}"].append(row[what].median)
    table.summary = {f"median {what}": statistics.median(values) for what, values in ratios.items()}
    table.summary["same classes everywhere"] = all(row["same classes"] for row in table.rows)
    return table


def _rows(name: str, rounds: int, limits: dict[str, float]) -> Iterator[dict[str, Any]]:
    theirs, ours = pair(name)
    raw = list(_pictures(IMAGES))
    images = np.ascontiguousarray(np.stack(raw).transpose(0, 3, 1, 2))
    scale, shift = (values.view(1, -1, 1, 1) for values in affine(PREPROCESS))
    x = torch.from_numpy(images).float() * scale + shift
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary, "model")
        export(ImageClassifier.of(ours, PREPROCESS, [str(n) for n in range(1000)]), folder, images)
        expected = torch.cat([theirs(part) for part in x.split(8)]).argmax(1).tolist()
        for batch in BATCHES:
            description = choose_engine(folder, images, batch)
            classifier = ImageClassifier.open(folder)
            contestants = {
                "timm": partial(theirs, x[:batch]),
                "plain": partial(ours, x[:batch]),
                "predict": partial(classifier.predict, raw[:batch]),
            }
            times = race(contestants, rounds if batch == 1 else max(3, rounds // 2))
            precision = "bfloat16" if "bf16" in description.engine else "float32"
            flops = 2 * batch * count(ours.spec).value("macs")
            yield {
                "model": name,
                "batch": batch,
                "timm ms": 1e3 * statistics.median(times["timm"]),
                "plain": Ratio.of(times["timm"], times["plain"]),
                "predict": Ratio.of(times["timm"], times["predict"]),
                "engine": description.engine,
                "of limit": flops / min(times["predict"]) / 1e9 / limits[f"{precision}_gflops"],
                "recomputed": description.guard.recomputed if description.guard else None,
                "same classes": [answer["index"] for answer in classifier.predict(raw)] == expected,
            }


def _pictures(count_: int) -> np.ndarray:
    """Smooth coloured noise: more like photographs than white noise, and the same in every run."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count_, 3, 7, 7))).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    return smooth.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
