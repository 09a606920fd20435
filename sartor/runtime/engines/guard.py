"""Reduced precision with the classes of float32: answers too close to call are computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sartor.runtime.engines import Engine, Images, Logits

SAFETY = 1.5  # how many times the largest error seen at calibration is allowed for


class Guarded:
    """An engine that asks an exact one where its own two largest logits are at most ``tolerance`` apart.

    The class equals the exact engine's wherever the fast one errs by less than the tolerance, in the difference
    of any logit to the largest. ``calibrate`` finds a tolerance that holds with a margin on given images.
    """

    def __init__(self, fast: Engine, exact: Engine, tolerance: float) -> None:
        self.fast, self.exact, self.tolerance = fast, exact, tolerance
        self.name = fast.name

    def __call__(self, images: Images) -> Logits:
        """The fast engine's logits, or the exact one's where these are too close."""
        logits = self.fast(images)
        close = margins(logits) <= self.tolerance
        if close.any():
            logits[close] = self.exact(images[close])
        return logits


def margins(logits: Logits) -> NDArray[np.float32]:
    """By how much the largest logit of each row exceeds the second; infinite for a single class. NaN counts as 0."""
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf, np.float32)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    apart: NDArray[np.float32] = np.nan_to_num(top[:, 1] - top[:, 0], nan=0.0)
    return apart


def calibrate(fast: Logits, exact: Logits) -> float:
    """The tolerance for a guard: ``SAFETY`` times the largest error among these images.

    An image's error is what would have to be exceeded by its margin for the class to be safe: the largest excess
    of the predicted class's deviation over another class's.
    """
    deviation = fast.astype(np.float64) - exact
    predicted = np.take_along_axis(deviation, fast.argmax(1)[:, None], axis=1)
    return SAFETY * float((predicted - deviation).max(initial=0.0))
