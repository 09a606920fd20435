"""Measures of segmentation, from one confusion matrix [classes, classes] of all pixels: true class by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Confusion = NDArray[np.int64]
Floats = NDArray[np.float64]


def pixel_confusion(true: NDArray[np.uint8], predicted: NDArray[np.integer], classes: int) -> Confusion:
    """Counts of pixels by true and predicted class; pixels whose true value is no class are left out."""
    valid = true < classes
    pairs = true[valid].astype(np.int64) * classes + predicted[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _kept(confusion: Confusion, ignored: Sequence[int]) -> tuple[Floats, Floats, Floats]:
    """True positives, false positives and false negatives by class, without the ignored ones."""
    right = confusion.diagonal().astype(np.float64)
    counts = right, confusion.sum(0) - right, confusion.sum(1) - right
    return tuple(np.delete(count, list(ignored)) for count in counts)  # type: ignore[return-value]


def class_iou(confusion: Confusion) -> Floats:
    """Intersection over union of each class; NaN for one that is neither there nor predicted."""
    right, wrong, missed = _kept(confusion, ())
    return _share(right, right + wrong + missed)


def macro_iou(confusion: Confusion, ignored: Sequence[int] = ()) -> float:
    """The mean over classes of intersection over union; classes neither there nor predicted do not count."""
    return float(np.nanmean(np.delete(class_iou(confusion), list(ignored))))


def micro_iou(confusion: Confusion, ignored: Sequence[int] = ()) -> float:
    """Intersection over union of the classes' pixels taken together."""
    right, wrong, missed = (count.sum() for count in _kept(confusion, ignored))
    return float(right / (right + wrong + missed))


def macro_dice(confusion: Confusion, ignored: Sequence[int] = ()) -> float:
    """The mean over classes of twice the intersection over the sum of both sets."""
    right, wrong, missed = _kept(confusion, ignored)
    return float(np.nanmean(_share(2 * right, 2 * right + wrong + missed)))


def micro_dice(confusion: Confusion, ignored: Sequence[int] = ()) -> float:
    """Likewise of the classes' pixels taken together."""
    right, wrong, missed = (count.sum() for count in _kept(confusion, ignored))
    return float(2 * right / (2 * right + wrong + missed))


def pixel_accuracy(confusion: Confusion) -> float:
    """The share of pixels whose class is right."""
    return float(confusion.trace() / confusion.sum())


def mean_class_accuracy(confusion: Confusion, ignored: Sequence[int] = ()) -> float:
    """The mean over classes of the share of a class's pixels that are recognised."""
    right, _, missed = _kept(confusion, ignored)
    return float(np.nanmean(_share(right, right + missed)))


def _share(part: Floats, whole: Floats) -> Floats:
    out = np.full(len(part), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out
