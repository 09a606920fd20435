"""Losses of segmentation: of logits (n, classes, height, width) and ``mask`` (n, height, width), 255 for no class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.data.mask_dataset import IGNORED
from sartor.training.plan import Batch


@spec_kind
@dataclass(frozen=True)
class PixelCrossEntropy:
    """Cross-entropy averaged over the pixels that have a class; 0 where none has."""

    kind: ClassVar[str] = "pixel-cross-entropy"

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """A scalar."""
        target = batch["mask"].to(logits.device).long()
        total = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)


@spec_kind
@dataclass(frozen=True)
class Bootstrapped:
    """Cross-entropy of the hardest pixels of each image, then the mean over images.

    Where the loss of an image's ``keep``-th worst pixel is above ``threshold``, all pixels above it count, else the
    ``keep`` worst, or as many as have a class (Chao et al. 2019, the released training of FC-HarDNet-70; after
    Pohlen et al. 2017, arXiv 1611.08323).
    """

    kind: ClassVar[str] = "bootstrapped"
    keep: int = 4096
    threshold: float = 0.3

    def __post_init__(self) -> None:
        if self.keep < 1 or self.threshold < 0.0:
            raise SpecError(f"bootstrapped: keep is at least 1 and threshold not negative, not {self.keep}")

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """A scalar; 0 where no pixel has a class."""
        target = batch["mask"].to(logits.device).long()
        losses = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none")
        return torch.stack([self._of_image(x, t) for x, t in zip(losses, target, strict=True)]).mean()

    def _of_image(self, losses: Tensor, target: Tensor) -> Tensor:
        valid = losses[target != IGNORED]
        if valid.numel() == 0:
            return losses.sum() * 0.0
        count = min(self.keep, valid.numel())
        worst = valid.topk(count).values
        above = valid[valid > self.threshold]
        return above.mean() if worst[-1] > self.threshold else worst.mean()
