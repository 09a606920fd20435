"""From a picture to what a network takes: the same pixels in training and in serving. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from PIL import Image

from sartor.core.errors import SpecError
from sartor.core.spec import Json, from_json, spec_kind, to_json
from sartor.data.decode import decode
from sartor.data.source import Pixels

Interpolation = Literal["bicubic", "bilinear"]
Resize = Literal["crop", "squash"]
T = TypeVar("T")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@spec_kind
@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pictures become arrays: the centre square, resized (antialiased) to ``side``, cropped to ``size``.

    ``side`` is round(size / crop_ratio), as in "resize the short side to 256, crop 224". A picture that already is
    a square of ``side`` pixels keeps its pixels. With ``resize`` "squash" the whole picture is resized to the square
    instead, whatever its shape. ``mean`` and ``std`` are per channel, of pixels in 0 to 1; without them (0 and 1)
    networks are given values in 0 to 1.
    """

    kind: ClassVar[str] = "image-preprocess"
    channels: int
    size: int
    crop_ratio: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: Interpolation = "bicubic"
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise SpecError(f"preprocess: channels must be 1 or 3, not {self.channels}")
        if self.size < 1 or not 0 < self.crop_ratio <= 1:
            raise SpecError(
                f"preprocess: size {self.size} must be at least 1 and crop_ratio {self.crop_ratio} in (0, 1]"
            )
        for name, default in (("mean", 0.0), ("std", 1.0)):
            values = getattr(self, name) or (default,) * self.channels
            if len(values) != self.channels:
                raise SpecError(f"preprocess: {name} must have {self.channels} values, not {len(values)}")
            object.__setattr__(self, name, tuple(values))
        if min(self.std) <= 0:
            raise SpecError("preprocess: std must be more than zero")

    @property
    def side(self) -> int:
        """Side in pixels of the square before the crop, which is what training reads."""
        return round(self.size / self.crop_ratio)

    def array(self, raw: Any) -> Pixels:
        """The uint8 array [channels, size, size] of a path, bytes, Pillow image or array HW or HWC.

        Raises BadImage for what is not a picture (see ``sartor.data.decode``).
        """
        return np.ascontiguousarray(self.crop(self.square(raw)))

    def square(self, raw: Any) -> Pixels:
        """As ``array``, before the crop: [channels, side, side]."""
        side = self.side
        if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.shape == (side, side, self.channels):
            return np.ascontiguousarray(raw.transpose(2, 0, 1))
        return self.fit(decode(raw))

    def fit(self, picture: Image.Image) -> Pixels:
        """As ``square``, of a picture that ``decode`` gave."""
        side = self.side
        mode = "L" if self.channels == 1 else "RGB"
        if picture.mode != mode:
            picture = picture.convert(mode)
        if picture.size != (side, side):
            picture = picture.resize((side, side), _FILTERS[self.interpolation], box=self._box(*picture.size))
        pixels = np.asarray(picture)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture that is used: left, top, right, bottom."""
        if self.resize == "squash":
            return 0.0, 0.0, width, height
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        return left, top, left + short, top + short

    def plain(self) -> Preprocess:
        """The same pictures without normalisation: values in 0 to 1."""
        return replace(self, mean=(0.0,) * self.channels, std=(1.0,) * self.channels)

    def crop(self, squares: T) -> T:
        """The centre crop of arrays or tensors [..., side, side]: [..., size, size]."""
        start = (self.side - self.size) // 2
        end = start + self.size
        return squares[..., start:end, start:end]  # type: ignore[index,no-any-return]

    def to_json(self) -> Json:
        """Plain values that ``from_json`` reads back."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: Json) -> Preprocess:
        """The inverse of ``to_json``; raises SpecError for anything else."""
        return from_json(data, cls)  # type: ignore[no-any-return]
