from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sartor.core.candidate import Artifact, Candidate, Parent, Proposal, Quality
from sartor.core.cost import Amount, Cost, counted
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.resnet import Basic, Bottleneck
from sartor.runs.evaluation import WORK
from sartor.runs.run import Run

MACHINE = "2 cores of a test machine"


@dataclass
class RunWriter:
    """Writes the directory of a made-up run: three rungs of successive halving over three families."""

    folder: Path
    classes: tuple[str, ...] = tuple(map(str, range(10)))
    families: tuple[str, ...] = ("regnetx", "resnext", "wide_resnet")
    first: int = 18
    budget: str | None = "params<10k, latency<2ms"
    finished: bool = True
    chosen: bool = True
    tested: bool = True
    failed: int = 2
    facts: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"

    def write(self) -> Path:
        self.rng = np.random.default_rng(7)
        self.used = 4.0
        with Run(self.folder, write=True) as run:
            self.run = run
            run.ledger._db.execute("PRAGMA synchronous=OFF")  # no power cut matters here
            run.ledger.keep(**{**self._facts(), **self.facts})
            run.ledger.event("opened 1797 images of 10 classes", 1.2)
            best = self._rungs()
            if self.chosen and best is not None:
                self._choose(best)
            if self.finished:
                run.ledger.keep(finished=self.used)
                run.ledger.event("report written", self.used)
        if self.tested:
            self._judge()
        lines = [{"where": f"train/{i}.jpg", "why": "truncated"} for i in range(3)]
        (self.folder / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return self.folder

    def _facts(self) -> dict[str, Any]:
        return {
            "run": {
                "data": self.data,
                "budget": self.budget,
                "time": 90.0,
                "seed": 0,
                "families": list(self.families),
                "strict": False,
            },
            "versions": {"python": "3.11.2", "sartor": "0.1.0", "torch": "2.13.0"},
            "machine": MACHINE,
            "task": {
                "name": self.data,
                "kind": "classification",
                "metric": "accuracy",
                "higher_is_better": True,
                "classes": list(self.classes),
                "size": [1, 8, 8],
                "splits": {"train": 1150, "valid": 287, "test": 360},
                "fingerprint": "5f1c2d3e4a5b6c7d",
                "notices": ["split 64 : 16 : 20 per class by seed, for the data has no splits"],
            },
            "plan": {"rungs": 3, "seconds per rung": [30.0, 25.0, 20.0]},
            "dropped": {"preact_resnet": "its smallest network has 11.2k parameters, outside params<10k"},
        }

    def _rungs(self) -> Candidate | None:
        wave = [self._candidate(i) for i in range(self.first)]
        for rung in range(3):
            self.run.ledger.ask(wave)
            self.run.ledger.event(f"rung {rung}: {len(wave)} candidates", self.used)
            ended = [self._train(c, failed=rung == 0 and i < self.failed) for i, c in enumerate(wave)]
            judged = [c for c in ended if c.quality]
            judged.sort(key=lambda c: -c.quality.values["accuracy"])  # type: ignore[union-attr]
            if rung == 2 or not judged:
                return judged[0] if judged else None
            wave = [self._child(c) for c in judged[: max(1, len(judged) * 2 // 5)]]
        raise AssertionError

    def _candidate(self, i: int) -> Candidate:
        family = self.families[i % len(self.families)]
        width = 4 + 2 * (i % 7) + i // 50
        block = Bottleneck(width // 2 or 1) if family == "resnext" else Basic()
        stages = (Stage(block, 1 + i % 3, width, 1), Stage(block, 1, 2 * width, 2))
        spec = AnyNet(Stem(width), stages, classes=len(self.classes), channels=1, size=(8, 8))
        params = 36.0 * width**2 * (1 + i % 3) / 3 + 7 * i
        cost = counted(params=params, macs=params * 40 * (1 + 0.2 * (i % 4)))
        recipe = {"family": family, "name": "quick", "lr": 0.2}
        return Candidate.of(Proposal("halving", spec, recipe, "task", i, counted=cost))

    def _child(self, c: Candidate) -> Candidate:
        p = c.proposal
        child = Proposal(
            p.method, p.spec, p.recipe, p.task, p.seed, p.rung + 1, (Parent(c.id, "rung"),), counted=p.counted
        )
        return Candidate.of(child)

    def _train(self, c: Candidate, failed: bool) -> Candidate:
        params, rung = c.cost.value("params"), c.proposal.rung
        seconds = (0.6 + params / 9e3) * 2**rung
        self.used += seconds / 2
        if failed:
            why = "loss is nan at step 120: lower the learning rate or clip gradients"
            c = c.having(state="failed", why=why)
            self.run.ledger.put(c, self.used)
            return c
        error = 0.3 * (params / 500) ** -0.55 / (1 + rung) * float(np.exp(self.rng.normal(0, 0.4)))
        error = min(0.9, round(error * 287) / 287)
        measured = {"train_seconds": Amount(seconds, "s", "measured")}
        if rung == 2:
            measured["latency"] = Amount(0.3 + params / 2e4, "ms", "measured", MACHINE, 0.05)
            measured["peak_memory"] = Amount(2.1e7 + 40 * params, "B", "measured", MACHINE)
        artifact = Artifact(f"artifacts/{c.id}", 4 * int(params), "ab" * 32)
        quality = Quality({"accuracy": 1 - error, "loss": 2 * error}, "valid", 287)
        c = c.having(state="done", quality=quality, cost=c.cost | Cost(measured), artifact=artifact)
        self._history(c, error)
        self.run.ledger.put(c, self.used)
        return c

    def _history(self, c: Candidate, error: float) -> None:
        steps = 40 * 2**c.proposal.rung
        lines = [
            {
                "step": 10 * k,
                "epoch": round(10 * k / 9, 4),
                "loss": 2.3 * math.exp(-k / 9) + error * (1 + 0.1 * math.sin(k)),
                "lr": 0.2,
                "images_per_second": 5000.0,
            }
            for k in range(1, steps // 10 + 1)
        ]
        workspace = self.run.folder / WORK / c.id
        workspace.mkdir(parents=True)
        (workspace / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _choose(self, c: Candidate) -> None:
        accuracy = c.quality.values["accuracy"] if c.quality else 0.0
        again = c.cost | Cost(
            {
                "latency": Amount(0.41, "ms", "measured", f"{MACHINE}, onnxruntime, 1 thread", 0.03),
                "storage": Amount(41_200.0, "B", "measured"),
            }
        )
        self.used += 6.0
        self.run.ledger.keep(
            winner={
                "id": c.id,
                "engine": "onnxruntime",
                "valid": {"accuracy": accuracy},
                "test": {"accuracy": 0.9806, "loss": 0.07},
                "n_test": 360,
                "checks": {"onnx": {"max_abs_difference": 2.4e-6, "classes_equal": True, "images": 360}},
                "cost": again.to_json(),
            }
        )
        best = self.folder / "best"
        best.mkdir()
        for name in ("model.safetensors", "config.json", "model.onnx"):
            (best / name).write_bytes(name.encode())

    def _judge(self) -> None:
        k = len(self.classes)
        counts = np.diag(self.rng.integers(30, 40, k))
        for _ in range(max(7, k // 2)):
            i, j = self.rng.integers(0, k, 2)
            counts[i, j] += 1
        worst = self.folder / "worst"
        worst.mkdir()
        examples = []
        for i in range(12):
            yy, xx = np.mgrid[:8, :8]
            ring = np.exp(-((np.hypot(yy - 3.5, xx - 3.5 + i % 3 - 1) - 1.5 - i % 2) ** 2))
            pixels = np.clip(255 * ring + self.rng.normal(0, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(worst / f"{i:02d}.png")
            examples.append(
                {
                    "where": f"test/{i}.png",
                    "label": i % k,
                    "predicted": (i + 3) % k,
                    "probability": 0.99 - 0.03 * i,
                    "image": f"worst/{i:02d}.png",
                }
            )
        bins = [{"confidence": 0.05 + 0.1 * b, "accuracy": 0.08 + 0.09 * b, "n": 2 + b**3} for b in range(10)]
        judged = {
            "confusion": counts.tolist(),
            "classes": list(self.classes),
            "accuracy": 0.9806,
            "macro_accuracy": 0.9799,
            "calibration": {"ece": 0.021, "bins": bins},
            "worst": examples,
        }
        (self.folder / "judged.json").write_text(json.dumps(judged))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a made-up run below ``tmp_path``; its arguments are the writer's fields."""

    def make(name: str = "run", **changes: Any) -> Path:
        return RunWriter(tmp_path / name, **changes).write()

    return make
