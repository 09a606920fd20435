"""Measures of classification, over arrays: labels and predictions [n], probabilities [n, classes]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sartor.data.label_tree import Levels

Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating[Any]]


def accuracy(labels: Labels, predicted: Labels) -> float:
    """The share predicted right."""
    return float((labels == predicted).mean())


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Counts [classes, classes] by true class (row) and predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_accuracies(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share predicted right of each class; NaN for a class without examples."""
    counts = confusion.sum(1)
    shares = np.full(len(counts), np.nan)
    np.divide(confusion.diagonal(), counts, out=shares, where=counts > 0)
    return shares


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """The mean of the class accuracies, over the classes that have examples."""
    return float(np.nanmean(class_accuracies(confusion)))


def top_accuracy(probabilities: Probabilities, labels: Labels, k: int) -> float:
    """The share whose true class is among the ``k`` most probable; of equals the first class goes before."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = np.arange(probabilities.shape[1]) < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & before)).sum(1)
    return float((rank < k).mean())


def semantic_accuracy(scores: Probabilities, labels: Labels, levels: Levels) -> float:
    """The share right within levels, over all pairs of an example and a level its label reaches.

    ``scores`` [n, classes] are logits or probabilities of a tree's classes, compared within a level only; labels may be
    any of the classes (Ridnik et al. 2021, "ImageNet-21K Pretraining for the Masses", section 3). Raises ValueError
    if no label reaches a level.
    """
    right = reached = 0
    for level in range(len(levels.sizes)):
        members, wanted = levels.members(level), levels.path[labels, level]
        valid = wanted >= 0
        right += int((members[scores[valid][:, members].argmax(1)] == wanted[valid]).sum())
        reached += int(valid.sum())
    if not reached:
        raise ValueError("no label reaches a level")
    return right / reached


def log_loss(probabilities: Probabilities, labels: Labels) -> float:
    """The mean of -log of the true class's probability (nats); probabilities below the type's epsilon count as that."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return float(-np.log(np.clip(own, np.finfo(probabilities.dtype).eps, 1.0)).mean())


def reliability(confidence: Probabilities, right: NDArray[np.bool_], bins: int = 15) -> list[dict[str, float]]:
    """Mean confidence, accuracy and number ``n`` of examples in equal intervals (a, b] of confidence; none empty."""
    index = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, confidence, bins), np.bincount(index, right, bins)
    return [
        {"n": int(counts[i]), "confidence": float(sums[0][i] / counts[i]), "accuracy": float(sums[1][i] / counts[i])}
        for i in np.flatnonzero(counts)
    ]


def expected_calibration_error(confidence: Probabilities, right: NDArray[np.bool_], bins: int = 15) -> float:
    """The mean distance of accuracy and confidence over the bins, by examples (Guo et al. 2017, equation 3)."""
    found = reliability(confidence, right, bins)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in found) / len(confidence)


def restricted(probabilities: Probabilities, classes: Sequence[int] | Labels) -> Probabilities:
    """The probabilities [n, len(classes)] among some classes only: their columns, scaled to sum to one."""
    columns: Probabilities = probabilities[:, np.asarray(classes)]
    columns /= np.maximum(columns.sum(1, keepdims=True), np.finfo(columns.dtype).tiny)
    return columns


def restricted_accuracy(scores: Probabilities, labels: Labels, classes: Sequence[int] | Labels) -> float:
    """The share right where only some classes may be answered, such as the 1K of a 5K-way classifier.

    ``labels`` count all classes; ResNeXt (Xie et al. 2017, section 5.2) evaluates ImageNet-5K models so.
    """
    chosen = np.asarray(classes)
    return accuracy(labels, chosen[scores[:, chosen].argmax(1)])
