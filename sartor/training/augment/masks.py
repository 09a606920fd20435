"""From raw pictures and masks to a training batch: one geometry for both, colours of the picture only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.data.mask_dataset import IGNORED, MaskPreprocess
from sartor.training.augment import colour
from sartor.training.augment.draws import Draws
from sartor.training.augment.pictures import picture_of, pixels_of
from sartor.training.plan import Batch, Context

Bytes = NDArray[np.uint8]


@spec_kind
@dataclass(frozen=True)
class MaskAugment:
    """What is done to pictures and their masks, in this order.

    Both are scaled by a factor drawn evenly from ``scale``, then a box of ``crop`` (height, width; 0: the whole size)
    is cut out at a random place, padded where they are smaller: pictures with their mean, masks with no class. They
    are mirrored left to right with chance ``flip`` and top to bottom with ``vertical_flip``. ``jitter`` changes the
    colours of the picture (three channels only). Masks are scaled by nearest pixels.
    """

    kind: ClassVar[str] = "mask-augment"
    mixes: ClassVar[bool] = False
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] = (0, 0)
    flip: float = 0.0
    vertical_flip: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale[0] <= self.scale[1]:
            raise SpecError(f"mask-augment: scale must rise from a number above 0, not {self.scale}")
        if min(self.crop) < 0 or not 0.0 <= self.jitter < 1.0:
            raise SpecError("mask-augment: crop must not be negative, and jitter be below 1")
        for name in ("flip", "vertical_flip"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"mask-augment.{name} is a probability, not {getattr(self, name)}")

    def cut(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width of training pictures for stored ones of a size."""
        return self.crop[0] or size[0], self.crop[1] or size[1]


@dataclass(frozen=True)
class MaskAugmenter:
    """The transform of a plan: uint8 ``image`` to float, normalised, and uint8 ``mask`` with it.

    Every picture's draws are functions of (seed, epoch, key), so neither the batch it is in nor the thread matters.
    """

    augment: MaskAugment
    preprocess: MaskPreprocess

    def __call__(self, batch: Batch, context: Context) -> Batch:
        """The batch with ``image`` (n, C, H, W) and ``mask`` (n, H, W) ready for the network and the loss."""
        draw = Draws(context.seed, context.epoch, batch["key"].numpy())
        images, masks = self._moved(batch["image"].numpy(), batch["mask"].numpy(), draw)
        values = torch.from_numpy(images).to(context.device, non_blocking=True).float()
        if self.augment.jitter and values.shape[1] == 3:
            values = colour.jittered(values, draw("jitter", 4), self.augment.jitter)
        return {**batch, "image": self._normalised(values), "mask": torch.from_numpy(masks)}

    def _moved(self, images: Bytes, masks: Bytes, draw: Draws) -> tuple[Bytes, Bytes]:
        """Scale, crop and flips."""
        a = self.augment
        height, width = a.cut((images.shape[2], images.shape[3]))
        fill = np.array([min(255, round(255 * m)) for m in self.preprocess.mean], np.uint8)
        new_images = np.empty((len(images), images.shape[1], height, width), np.uint8)
        new_masks = np.empty((len(images), height, width), np.uint8)
        u = draw("mask", 5)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            image, mask = _scaled(image, mask, a.scale[0] + (a.scale[1] - a.scale[0]) * u[i, 0])
            new_images[i] = fill[:, None, None]
            new_masks[i] = IGNORED
            (read_y, write_y), (read_x, write_x) = (
                _window(side, wanted, share)
                for side, wanted, share in zip(mask.shape, (height, width), u[i, 1:3], strict=True)
            )
            new_images[i, :, write_y, write_x] = image[:, read_y, read_x]
            new_masks[i, write_y, write_x] = mask[read_y, read_x]
        across, down = u[:, 3] < a.flip, u[:, 4] < a.vertical_flip
        new_images[across], new_masks[across] = new_images[across][..., ::-1], new_masks[across][..., ::-1]
        new_images[down], new_masks[down] = new_images[down][..., ::-1, :], new_masks[down][..., ::-1, :]
        return new_images, new_masks

    def _normalised(self, values: Tensor) -> Tensor:
        scale = 1.0 / (255.0 * values.new_tensor(self.preprocess.std))
        offset = values.new_tensor(self.preprocess.mean) * 255.0 * scale
        return values.mul_(scale[:, None, None]).sub_(offset[:, None, None])


def _scaled(image: Bytes, mask: Bytes, factor: float) -> tuple[Bytes, Bytes]:
    """Both resized by a factor."""
    size = max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[0] * factor))
    if size == mask.shape[::-1]:
        return image, mask
    picture = picture_of(image).resize(size, Image.Resampling.BILINEAR)
    return pixels_of(picture), np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _window(side: int, wanted: int, share: float) -> tuple[slice, slice]:
    """Where to read in a side and where to write in the wanted one; ``share`` in [0, 1) says at which place."""
    start = int(share * (abs(side - wanted) + 1))
    if side >= wanted:
        return slice(start, start + wanted), slice(0, wanted)
    return slice(0, side), slice(start, start + side)
