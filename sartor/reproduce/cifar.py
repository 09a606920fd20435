"""The data of the small reproductions: the first images of every class of CIFAR-10, pooled to 16 pixels a side."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartor.core.errors import DataError
from sartor.data.preprocess import Preprocess
from sartor.data.recognise import open_images
from sartor.data.source import BadImage, Indices, Source

DATA = "SARTOR_DATA"  # the environment variable that names the folder of data sets
_PLACE = Path("images", "cifar10")
_WHOLE, SIDE = 32, 16
# Of CIFAR-10's training pixels, as the papers' code has them.
PREPROCESS = Preprocess(
    3, SIDE, mean=tuple(m / 255 for m in (125.3, 123.0, 113.9)), std=tuple(s / 255 for s in (63.0, 62.1, 66.7))
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Images (n, 3, 16, 16) uint8 in memory, with their labels (n,)."""

    images: NDArray[np.uint8]
    labels: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Indices) -> dict[str, Tensor]:
        """``image`` and ``label`` at some positions."""
        return {"image": torch.from_numpy(self.images[indices]), "label": torch.from_numpy(self.labels[indices])}


@dataclass(frozen=True, slots=True)
class PooledImages:
    """A task of two splits, ``train`` and ``test``, small enough to be held in memory."""

    classes: tuple[str, ...]
    splits: dict[str, Examples]
    fingerprint: str
    preprocess: Preprocess = PREPROCESS

    def split(self, name: str) -> Examples:
        """``train`` or ``test``."""
        return self.splits[name]


@dataclass(frozen=True, slots=True)
class CifarSubset:
    """The first ``train`` and ``test`` images of every class in file order, averaged over 2x2 pixels.

    Called, it reads CIFAR-10, in any format the library reads, from ``images/cifar10`` below the folder that the
    environment variable SARTOR_DATA names.
    """

    train: int = 500
    test: int = 200

    def __call__(self) -> PooledImages:
        """The task; raises DataError if the data are not there or are too few."""
        source = open_images(cifar_folder())
        splits = {"train": self.train, "test": self.test}
        for name in splits:
            if name not in source.splits:
                raise DataError(f"{source.name}: CIFAR-10 has a train and a test split; there is no {name} split here")
        taken = {name: _pooled(source, _first(source, name, count)) for name, count in splits.items()}
        contents = b"".join(part.images.tobytes() + part.labels.tobytes() for part in taken.values())
        return PooledImages(source.classes, taken, hashlib.sha256(contents).hexdigest()[:24])


def cifar_folder() -> Path:
    """Where CIFAR-10 lies; raises DataError, saying what to set, if nothing is there."""
    root = os.environ.get(DATA)
    if not root:
        raise DataError(f"this reproduction trains on CIFAR-10: set {DATA} to the folder that holds {_PLACE}")
    folder = Path(root).expanduser() / _PLACE
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; put CIFAR-10 there or set {DATA} to the folder that holds {_PLACE}")
    return folder


def _first(source: Source, split: str, count: int) -> Indices:
    """The rows of the first ``count`` images of every class, ascending."""
    rows = source.splits[split]
    labels = source.labels[rows]
    found = [rows[labels == label][:count] for label in range(len(source.classes))]
    for name, part in zip(source.classes, found, strict=True):
        if len(part) < count:
            raise DataError(f"{source.name}: {len(part)} {split} images of {name}, of {count} needed")
    return np.sort(np.concatenate(found))


def _pooled(source: Source, rows: Indices) -> Examples:
    whole = Preprocess(3, _WHOLE)
    images = np.empty((len(rows), 3, SIDE, SIDE), np.uint8)
    for i, raw in enumerate(source.reader.read(rows.tolist())):
        if isinstance(raw, BadImage):
            raise DataError(f"{source.reader.where(int(rows[i]))}: {raw}")
        quarters = whole.square(raw).reshape(3, SIDE, 2, SIDE, 2)
        images[i] = np.rint(quarters.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return Examples(images, source.labels[rows])
