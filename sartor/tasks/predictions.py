"""What a classifier answered on a split: measures, the confusion matrix and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartor.core.errors import SartorError
from sartor.core.protocols import Answer
from sartor.tasks import metrics


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """``labels`` and ``predicted`` [n] count classes; ``confidence`` [n] is the probability of what was predicted.

    ``probabilities`` [n, classes] is None where the answers give one probability only.
    """

    classes: int
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[Any] | None

    @classmethod
    def of(cls, answers: Sequence[Answer], labels: NDArray[np.int64], classes: int) -> Predictions:
        """Read answers with ``index`` and ``probabilities`` (or ``probability``); raises SartorError for others."""
        try:
            predicted = np.array([answer["index"] for answer in answers], np.int64)
            full = np.array([answer["probabilities"] for answer in answers]) if "probabilities" in answers[0] else None
            if full is None:
                confidence = np.array([answer["probability"] for answer in answers], np.float64)
            else:
                confidence = np.take_along_axis(full, predicted[:, None], axis=1)[:, 0].astype(np.float64)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SartorError(f"an answer lacks an index or probabilities of {classes} classes ({error})") from None
        if len(predicted) != len(labels) or predicted.min() < 0 or predicted.max() >= classes:
            raise SartorError(f"{len(predicted)} answers for {len(labels)} examples of {classes} classes do not fit")
        if full is not None and full.shape != (len(labels), classes):
            raise SartorError(f"probabilities of shape {full.shape}; {len(labels)} x {classes} are needed")
        return cls(classes, labels, predicted, confidence, full)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Counts by true class (row) and predicted class (column)."""
        return metrics.confusion_matrix(self.labels, self.predicted, self.classes)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which are predicted right."""
        return np.equal(self.predicted, self.labels)

    def values(self) -> Mapping[str, float]:
        """Accuracy, balanced accuracy and calibration; with full probabilities also log loss and top-5 accuracy."""
        found = {
            "accuracy": metrics.accuracy(self.labels, self.predicted),
            "balanced_accuracy": metrics.balanced_accuracy(self.confusion),
            "calibration_error": metrics.expected_calibration_error(self.confidence, self.right),
        }
        if self.probabilities is not None:
            found["log_loss"] = metrics.log_loss(self.probabilities, self.labels)
            if self.classes > 5:
                found["top5_accuracy"] = metrics.top_accuracy(self.probabilities, self.labels, 5)
        return found

    def reliability(self) -> list[dict[str, float]]:
        """Confidence against accuracy in fifteen bins; see ``metrics.reliability``."""
        return metrics.reliability(self.confidence, self.right)

    def worst(self, most: int) -> NDArray[np.int64]:
        """The positions of the wrong answers that were given with most confidence, the worst first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most]
