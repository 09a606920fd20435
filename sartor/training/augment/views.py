"""Random views of images, as self-supervised methods compare them: crop, flips, colour jitter, grey, blur.

The parts and their order are those of SimCLR (Chen et al. 2020, arXiv 2002.05709, appendix A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.data.preprocess import Preprocess
from sartor.training.augment import colour, geometry
from sartor.training.augment.draws import Draws

Floats = NDArray[np.float64]
_LUMA = (0.299, 0.587, 0.114)


@spec_kind
@dataclass(frozen=True)
class Views:
    """How an image is changed at random; a chance of 0 leaves a part out.

    ``scale`` is the share of the area that is cropped: by default large, so that the magnification stays what it is,
    as images of tissue need; photographs take (0.2, 1). ``jitter`` bounds the changes of brightness, contrast and
    saturation and ``hue`` the turn of the hue (0.5 is half the circle), both with the chance ``colour``. ``blur`` is
    the chance of a Gaussian blur with a deviation in ``sigma`` pixels. Grey images have no colours to change.
    """

    kind: ClassVar[str] = "views"
    scale: tuple[float, float] = (0.8, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: geometry.Filter = "bicubic"
    flip: float = 0.5
    vertical: float = 0.5
    colour: float = 0.8
    jitter: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise SpecError(f"views.{name} must rise from a number above 0, not {low} to {high}")
        for name in ("flip", "vertical", "colour", "grey", "blur"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"views.{name} is a probability, not {getattr(self, name)}")

    def of(self, images: NDArray[np.uint8], draw: Draws, number: int, preprocess: Preprocess, size: int) -> Tensor:
        """View ``number`` of uint8 images (n, C, side, side): normalised floats (n, C, size, size)."""

        def chosen(what: str, chance: float) -> NDArray[np.int64]:
            return np.flatnonzero(draw(f"view{number}.{what}", 1)[:, 0] < chance)

        tries = draw(f"view{number}.crop", 4 * geometry.TRIES).reshape(len(images), geometry.TRIES, 4)
        boxes = geometry.crop_boxes(tries, images.shape[2:], self.scale, self.ratio)
        images = geometry.resampled(images, boxes, (size, size), self.interpolation)
        across, down = chosen("flip", self.flip), chosen("vertical", self.vertical)
        images[across] = images[across, :, :, ::-1]
        images[down] = images[down, :, ::-1]
        values = torch.from_numpy(images).float()
        if images.shape[1] == 3:
            which = chosen("colour", self.colour)
            if len(which):
                u = draw(f"view{number}.jitter", 5)[which]
                part = colour.jittered(values[which], u[:, :4], self.jitter).clamp_(0, 255)
                values[which] = hue_turned(part, self.hue * (2.0 * u[:, 4] - 1.0)) if self.hue else part
            which = chosen("grey", self.grey)
            luma = values.new_tensor(_LUMA)[None, :, None, None]
            values[which] = (values[which] * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        which = chosen("blur", self.blur)
        if len(which):
            low, high = self.sigma
            u = draw(f"view{number}.sigma", 1)[which, 0]
            values[which] = blurred(values[which], low + (high - low) * u)
        mean, std = (values.new_tensor(v)[:, None, None] * 255.0 for v in (preprocess.mean, preprocess.std))
        return (values - mean) / std


def hue_turned(images: Tensor, turn: Floats) -> Tensor:
    """Float images (n, 3, H, W) of values 0 to 255 with the hue moved by ``turn`` (n,), 1 being the whole circle.

    Saturation and value in the sense of HSV stay.
    """
    top, low = images.amax(1), images.amin(1)
    spread = (top - low).clamp_min(1e-12)
    r, g, b = images.unbind(1)
    sector = torch.where(
        top == r, ((g - b) / spread) % 6.0, torch.where(top == g, (b - r) / spread + 2.0, (r - g) / spread + 4.0)
    )
    sector = sector + 6.0 * torch.from_numpy(turn).to(images)[:, None, None]
    offsets = images.new_tensor([5.0, 3.0, 1.0])[None, :, None, None]
    place = (offsets + sector[:, None]) % 6.0
    return top[:, None] - (top - low)[:, None] * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0)


def blurred(images: Tensor, sigma: Floats) -> Tensor:
    """Float images (n, C, H, W), each convolved with a Gaussian of its own deviation (n,), borders mirrored.

    The kernel reaches three times the largest deviation, or as far as the image does.
    """
    n, channels, height, width = images.shape
    reach = min(math.ceil(3.0 * float(sigma.max())), height - 1, width - 1)
    place = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernels = torch.exp(-0.5 * (place / torch.from_numpy(sigma).to(images.dtype)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    padded = F.pad(images, (reach,) * 4, mode="reflect").reshape(1, n * channels, height + 2 * reach, -1)
    rows = F.conv2d(padded, kernels[..., None], groups=n * channels)
    return F.conv2d(rows, kernels[:, :, None], groups=n * channels).reshape(images.shape)
