"""Losses of classifiers. Label smoothing is applied here and nowhere else.

A batch holds ``label`` (n,) int64, and after Mixup or CutMix also ``other`` (n,) int64, the label mixed in, and
``share`` (n,) float, the weight of the own label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.spec import spec_kind
from sartor.training.plan import Batch, Context, Modules


class LogitLoss(Protocol):
    """A loss of logits (n, classes) and the targets in a batch."""

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """A scalar."""


@spec_kind
@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the softmax, averaged over the batch."""

    kind: ClassVar[str] = "cross-entropy"
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean over the batch."""
        logits = logits.float()
        if "share" not in batch:
            return F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)
        return F.cross_entropy(logits, soft_targets(batch, logits.shape[1], self.smoothing))


@spec_kind
@dataclass(frozen=True)
class BinaryCrossEntropy:
    """One sigmoid per class, averaged over batch and classes (Wightman et al. 2021, section 2).

    Soft targets above ``threshold`` become 1 and the others 0 (None keeps them soft), so that with a threshold of 0.2
    both classes of a mixed image are positive unless one has a weight of at most 0.2. ``sum_classes`` sums over the
    classes instead, ``positive_weight`` weighs the positive terms.
    """

    kind: ClassVar[str] = "bce"
    smoothing: float = 0.0
    threshold: float | None = None
    sum_classes: bool = False
    positive_weight: float = 1.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean over batch and classes, or of the sums over classes."""
        logits = logits.float()
        target = soft_targets(batch, logits.shape[1], self.smoothing)
        if self.threshold is not None:
            target = (target > self.threshold).to(target.dtype)
        weight = None if self.positive_weight == 1.0 else torch.full_like(target[0], self.positive_weight)
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        return loss * logits.shape[1] if self.sum_classes else loss


@dataclass(frozen=True)
class Classify:
    """The loss of a plan: the logits of the module ``model`` on ``image``, against the targets."""

    loss: LogitLoss

    def __call__(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The one term ``loss``."""
        return {"loss": self.loss(modules["model"](batch["image"]), batch)}


def soft_targets(batch: Batch, classes: int, smoothing: float) -> Tensor:
    """Targets (n, classes): s / classes, for the label 1 - s more; mixed by ``share`` if the batch has it."""
    targets = _smoothed(batch["label"], classes, smoothing)
    if "share" in batch:
        share = batch["share"][:, None]
        targets = targets * share + _smoothed(batch["other"], classes, smoothing) * (1.0 - share)
    return targets


def _smoothed(label: Tensor, classes: int, smoothing: float) -> Tensor:
    off = smoothing / classes
    targets = torch.full((len(label), classes), off, device=label.device)
    return targets.scatter_(1, label[:, None], 1.0 - smoothing + off)
