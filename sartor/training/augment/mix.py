"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of a batch with its own reverse, by timm's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sartor.core.errors import TrainingError
from sartor.training.plan import Batch

Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Mix:
    """Mixup with Beta(``mixup``, ``mixup``) weights and CutMix with Beta(``cutmix``, ``cutmix``); 0 leaves one out.

    With both on, CutMix is taken with probability ``switch``; ``prob`` is the chance to mix at all. One draw serves
    the whole batch (``batch``), one image (``elem``) or an image and its partner (``pair``).
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch: float = 0.5
    mode: Literal["batch", "elem", "pair"] = "batch"

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch with mixed ``image`` (float, n even), and with ``other`` and ``share`` for the loss.

        The partner of image i is image n - 1 - i. ``share`` is the weight of the image's own label; after CutMix it
        is the true area left. Raises TrainingError for an odd batch.
        """
        images = batch["image"]
        if len(images) % 2:
            raise TrainingError(f"mixup and cutmix need an even batch, not {len(images)}")
        shares = self._whole(images, rng) if self.mode == "batch" else self._each(images, rng)
        share = torch.from_numpy(shares).to(images.device)
        return {**batch, "image": images, "other": batch["label"].flip(0), "share": share}

    def _whole(self, images: torch.Tensor, rng: np.random.Generator) -> NDArray[np.float32]:
        share, n = 1.0, len(images)
        if rng.random() < self.prob:
            cut = rng.random() < self.switch if self._both else not self.mixup
            alpha = self.cutmix if cut else self.mixup
            share = float(rng.beta(alpha, alpha))
            if cut:
                top, bottom, left, right = box = draw_box(images.shape[2:], share, rng)
                images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
                share = share_left(images.shape[2:], box)
            else:
                images.copy_(images * share + images.flip(0) * (1.0 - share))
        return np.full(n, share, np.float32)

    def _each(self, images: torch.Tensor, rng: np.random.Generator) -> NDArray[np.float32]:
        n = len(images)
        shares, cuts = self._draw(n // 2 if self.mode == "pair" else n, rng)
        if self.mode == "pair":
            shares, cuts = np.concatenate([shares, shares[::-1]]), np.concatenate([cuts, cuts[::-1]])
        original = images.clone()
        boxes: dict[int, Box] = {}
        for i in range(n):
            j, share = n - 1 - i, float(shares[i])
            if share == 1.0:
                continue
            if cuts[i]:
                mirrored = self.mode == "pair" and i >= n // 2
                boxes[i] = box = boxes[j] if mirrored else draw_box(images.shape[2:], share, rng)
                top, bottom, left, right = box
                images[i, :, top:bottom, left:right] = original[j, :, top:bottom, left:right]
                shares[i] = share_left(images.shape[2:], box)
            else:
                images[i] = original[i] * share + original[j] * (1.0 - share)
        return shares

    def _draw(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if self._both:
            cuts = rng.random(n) < self.switch
            drawn = np.where(cuts, rng.beta(self.cutmix, self.cutmix, n), rng.beta(self.mixup, self.mixup, n))
        else:
            alpha = self.mixup or self.cutmix
            cuts, drawn = np.full(n, not self.mixup), rng.beta(alpha, alpha, n)
        return np.where(rng.random(n) < self.prob, drawn, 1.0).astype(np.float32), cuts

    @property
    def _both(self) -> bool:
        return self.mixup > 0.0 and self.cutmix > 0.0


def draw_box(size: tuple[int, ...], share: float, rng: np.random.Generator) -> Box:
    """A box of area 1 - ``share`` and the image's shape around a uniform centre, clipped to the image."""
    height, width = size
    h, w = int(height * np.sqrt(1.0 - share)), int(width * np.sqrt(1.0 - share))
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    top, left = max(0, y - h // 2), max(0, x - w // 2)
    return top, min(height, y + (h + 1) // 2), left, min(width, x + (w + 1) // 2)


def share_left(size: tuple[int, ...], box: Box) -> float:
    """The part of the image outside the box."""
    top, bottom, left, right = box
    return 1.0 - (bottom - top) * (right - left) / (size[0] * size[1])
