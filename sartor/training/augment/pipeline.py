"""From raw examples to a training batch: augmentation as a table of values, and the transform that applies it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.data.preprocess import Preprocess
from sartor.training.augment import colour, erase, geometry
from sartor.training.augment.draws import Draws
from sartor.training.augment.mix import Mix
from sartor.training.augment.rand import RandAugment
from sartor.training.plan import Batch, Context


@spec_kind
@dataclass(frozen=True)
class Augment:
    """What is done to training images, in this order; 0, "none" and "" leave a part out.

    ``crop``: "pad" shifts by up to ``pad`` pixels over a border of ``border``; "resized" takes a box of a share
    ``scale`` of the area and a width over height in ``ratio``, and resizes it. ``flip`` is the chance of mirroring
    left to right. ``rotate`` (degrees), ``zoom`` and ``shift`` (parts of the size) bound an affine map. ``cutout`` is
    the side of a square, as a part of the image's, that one random colour covers. ``rand`` is
    RandAugment in timm's notation. ``jitter`` and ``lighting`` change colours (three channels only). ``erase`` is the
    chance of random erasing, with noise or zeros. The rest is Mixup and CutMix.
    """

    kind: ClassVar[str] = "augment"
    crop: Literal["none", "pad", "resized"] = "none"
    pad: int = 4
    border: Literal["zero", "reflect"] = "zero"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: geometry.Filter = "bicubic"
    flip: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    cutout: float = 0.0
    rand: str = ""
    jitter: float = 0.0
    lighting: float = 0.0
    erase: float = 0.0
    erase_noise: bool = True
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    mix_mode: Literal["batch", "elem", "pair"] = "batch"

    def __post_init__(self) -> None:
        if self.rand:
            RandAugment.parse(self.rand)
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0.0 < low <= high:
                raise SpecError(f"augment.{name} must rise from a number above 0, not {low} to {high}")
        for name in ("flip", "cutout", "erase", "mix_prob", "mix_switch"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"augment.{name} must be from 0 to 1, not {getattr(self, name)}")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with their partners, which needs even batches."""
        return (self.mixup > 0.0 or self.cutmix > 0.0) and self.mix_prob > 0.0


@dataclass(frozen=True)
class Augmenter:
    """The transform of a plan: uint8 ``image`` (n, C, side, side) to float (n, C, size, size), normalised.

    Every image's draws are functions of (seed, epoch, key), so neither the batch it is in nor the thread matters;
    Mixup and CutMix draw from the step.
    """

    augment: Augment
    preprocess: Preprocess
    size: int
    channels_last: bool = False

    def __call__(self, batch: Batch, context: Context) -> Batch:
        """The batch with ``image`` ready for the network, on the context's device."""
        draw = Draws(context.seed, context.epoch, batch["key"].numpy())
        images = self._moved(batch["image"].numpy(), draw)
        if self.augment.cutout:
            images = erase.cut_out(images, draw("cutout", 2 + images.shape[1]), self.augment.cutout)
        if self._rand:
            fill = tuple(min(255, round(255 * m)) for m in self.preprocess.mean)
            images = self._rand(images, draw("rand", self._rand.draws), fill)
        values = torch.from_numpy(np.ascontiguousarray(images)).to(context.device, non_blocking=True).float()
        values = self._normalised(self._coloured(values, draw))
        if self.augment.erase:
            boxes = erase.erase_boxes(draw("erase", 1 + 4 * erase.TRIES), (self.size, self.size), self.augment.erase)
            values = erase.erased(values, boxes, draw if self.augment.erase_noise else None)
        batch = {**batch, "image": values}
        a = self.augment
        if a.mixes:
            batch["label"] = batch["label"].to(context.device)
            return Mix(a.mixup, a.cutmix, a.mix_prob, a.mix_switch, a.mix_mode)(batch, context.rng)
        return batch

    @cached_property
    def _rand(self) -> RandAugment | None:
        return RandAugment.parse(self.augment.rand) if self.augment.rand else None

    def _moved(self, images: NDArray[np.uint8], draw: Draws) -> NDArray[np.uint8]:
        """Crop, flip and affine map, to images of the wanted size."""
        a, size = self.augment, (self.size, self.size)
        if a.crop == "resized":
            tries = draw("crop", 4 * geometry.TRIES).reshape(len(images), geometry.TRIES, 4)
            boxes = geometry.crop_boxes(tries, images.shape[2:], a.scale, a.ratio)
            images = geometry.resampled(images, boxes, size, a.interpolation)
        else:
            images = self.preprocess.crop(images)
            if a.crop == "pad" and a.pad:
                where = draw("crop", 2)
                images = geometry.shifted(images, where[:, 0], where[:, 1], a.pad, a.border)
            images = geometry.resized(images, size, a.interpolation)
        if a.flip:
            images = geometry.flipped(images, draw("flip", 1)[:, 0] < a.flip)
        if a.rotate or a.zoom or a.shift:
            u = 2.0 * draw("affine", 4) - 1.0
            images = geometry.affine(images, np.radians(a.rotate) * u[:, 0], 1.0 + a.zoom * u[:, 1], a.shift * u[:, 2:])
        return images

    def _coloured(self, values: Tensor, draw: Draws) -> Tensor:
        a = self.augment
        if values.shape[1] != 3:
            return values
        if a.jitter:
            values = colour.jittered(values, draw("jitter", 4), a.jitter)
        if a.lighting:
            values = colour.lit(values, draw.normal("lighting", 3), a.lighting)
        return values

    def _normalised(self, values: Tensor) -> Tensor:
        scale = 1.0 / (255.0 * values.new_tensor(self.preprocess.std))
        offset = values.new_tensor(self.preprocess.mean) * 255.0 * scale
        values.mul_(scale[:, None, None]).sub_(offset[:, None, None])
        return values.contiguous(memory_format=torch.channels_last) if self.channels_last else values
