"""Whether mirror images keep their class: asked of the data, because flips ruin digits and help photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartor.core.rng import generator

KEPT = 0.85  # share of a probe's accuracy that mirrored images must keep
LEAST_LIFT = 1.5  # a probe must be so many times better than guessing to be believed
_TRAIN, _TEST, _FILTERS, _SIDE, _PATCH = 2500, 1000, 96, 16, 4
_RIDGE = 10.0

Array = NDArray[np.float32]


def mirror_safe(task: Any, seed: int = 0) -> bool:
    """Whether a classifier that has seen no mirror image recognises them nearly as well as the images themselves.

    The probe is ridge regression on pooled responses of random patches (Coates and Ng 2012), trained and tested on
    parts of the training split. False if the probe itself is no better than guessing. Takes about a second.
    """
    rng = generator(seed, "mirror")
    examples = task.split("train")
    rows = rng.permutation(len(examples))
    test_size = min(_TEST, len(rows) // 4)
    test, train = rows[:test_size], rows[test_size : test_size + _TRAIN]
    if not len(test):
        return False
    images, labels = _small(examples, train), np.eye(len(task.classes), dtype=np.float32)[examples.labels[train]]
    patches = _patches(images, rng)
    features = _features(images, patches)
    mean = features.mean(axis=0)
    centred = features - mean
    gram = centred.T @ centred + _RIDGE * np.eye(centred.shape[1], dtype=np.float32)
    weights = np.linalg.solve(gram, centred.T @ (labels - labels.mean(axis=0)))

    def accuracy(pictures: Array) -> float:
        scores = (_features(pictures, patches) - mean) @ weights + labels.mean(axis=0)
        return float((scores.argmax(axis=1) == examples.labels[test]).mean())

    pictures = _small(examples, test)
    plain, mirrored = accuracy(pictures), accuracy(np.ascontiguousarray(pictures[..., ::-1]))
    guess = float(labels.mean(axis=0).max())
    return plain > LEAST_LIFT * guess and mirrored >= KEPT * plain


def _small(examples: Any, rows: NDArray[np.int64]) -> Array:
    """Images as float32 [n, channels, side, side], of at most 32 pixels a side, each with mean 0 and spread 1."""
    from torch.nn import functional as F

    images = examples.batch(rows)["image"].float()
    if images.shape[-1] > _SIDE:
        images = F.interpolate(images, (_SIDE, _SIDE), mode="area")
    images = images - images.mean(dim=(1, 2, 3), keepdim=True)
    images = images / (images.std(dim=(1, 2, 3), keepdim=True) + 10.0)
    array: Array = images.numpy()
    return array


def _patches(images: Array, rng: np.random.Generator) -> Array:
    """Random patches of the images, each with mean 0 and length 1: [filters, channels, patch, patch]."""
    size = min(_PATCH, images.shape[-1])
    which = rng.integers(len(images), size=_FILTERS)
    top, left = rng.integers(images.shape[-1] - size + 1, size=(2, _FILTERS))
    cut = [images[i, :, y : y + size, x : x + size] for i, y, x in zip(which, top, left, strict=True)]
    patches = np.stack(cut)
    patches -= patches.mean(axis=(1, 2, 3), keepdims=True)
    lengths = np.linalg.norm(patches.reshape(_FILTERS, -1), axis=1)
    unit: Array = patches / (lengths[:, None, None, None] + np.float32(1e-3))
    return unit


def _features(images: Array, patches: Array) -> Array:
    """Rectified responses to the patches, averaged over the four quarters: [n, 4 * filters]."""
    import torch
    from torch.nn import functional as F

    parts = []
    with torch.inference_mode():
        for part in torch.split(torch.from_numpy(images), 500):
            maps = F.relu(F.conv2d(part, torch.from_numpy(patches)) - 0.3)
            parts.append(F.adaptive_avg_pool2d(maps, 2).flatten(1))
    array: Array = torch.cat(parts).numpy()
    return array
