"""A task, a network and plans so small that a step takes milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from sartor.data.preprocess import Preprocess
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build
from sartor.models.vision.resnet import Basic
from sartor.training.classification import plan_for, spec_for
from sartor.training.plan import Keys, Plan
from sartor.training.recipe import Recipe, read_recipe

SPEC = AnyNet(
    Stem(4), (Stage(Basic(), 1, 4), Stage(Basic(), 1, 8, 2)), classes=3, size=(8, 8), dropout=0.1, drop_path=0.1
)
PREPROCESS = Preprocess(3, 8, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.25))
RECIPE = read_recipe(
    {
        "epochs": 3,
        "batch": 8,
        "lr_batch": 8,
        "lr": 0.05,
        "warmup": 0.5,
        "weight_decay": 1e-3,
        "ema": 0.9,
        "schedule": {"kind": "stable-decay", "decay": 0.5},
        "augment": {"crop": "pad", "pad": 1, "flip": 0.5, "mixup": 0.2, "cutmix": 1.0, "erase": 0.3},
    }
)


class Images:
    """Noise with a class-dependent brightness, so that there is something to learn."""

    def __init__(self, count: int = 40, classes: int = 3, side: int = 8, channels: int = 3) -> None:
        rng = np.random.default_rng(7)
        self.labels = rng.integers(0, classes, count)
        noise = rng.integers(0, 100, (count, channels, side, side))
        self.images = (noise + 50 * self.labels[:, None, None, None]).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Keys) -> Mapping[str, Tensor]:
        return {"image": torch.from_numpy(self.images[indices]), "label": torch.from_numpy(self.labels[indices])}


class TinyTask:
    """What ``train`` reads of a task."""

    fingerprint = "tiny"
    preprocess = PREPROCESS
    classes = ("a", "b", "c")

    def split(self, name: str) -> Images:
        assert name == "train"
        return Images()


def tiny_network(recipe: Recipe = RECIPE, spec: Any = SPEC, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network: nn.Module = build(spec_for(recipe, spec))
    return network


def tiny_plan(recipe: Recipe = RECIPE, spec: Any = SPEC, **changes: Any) -> Plan:
    return plan_for(recipe, tiny_network(recipe, spec), changes.pop("examples", Images()), PREPROCESS, **changes)


def weights_hash(module: nn.Module) -> str:
    """The SHA-256 of the module's weights as safetensors."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    return hashlib.sha256(save(state)).hexdigest()


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
