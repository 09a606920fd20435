"""RandAugment (Cubuk et al. 2020) with timm's operations and magnitude rule, on Pillow images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from sartor.core.errors import SpecError
from sartor.training.augment.draws import normals
from sartor.training.augment.pictures import picture_of, pixels_of

Picture = Image.Image
_FULL = 10.0  # the magnitude that stands for an operation's full strength
_DRAWS = 6  # uniform numbers per layer: operation, whether, two for the magnitude, sign, interpolation
_RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


class Move(NamedTuple):
    """How an operation is applied; strength 1 is full, and only ``mmax`` goes beyond it."""

    strength: float
    sign: float
    resample: Image.Resampling
    fill: tuple[int, ...] | int

    @property
    def signed(self) -> float:
        """Strength times sign."""
        return self.strength * self.sign


def _affine(image: Picture, move: Move, matrix: tuple[float, ...]) -> Picture:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, move.resample, fillcolor=move.fill)


def _solarize_add(image: Picture, move: Move) -> Picture:
    add = min(128, int(move.strength * 110))
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _posterized(image: Picture, bits: int) -> Picture:
    """The ``bits`` highest bits kept; Pillow's own function refuses 0, which means black."""
    kept = 256 - 2 ** (8 - bits)
    return image.point([value & kept for value in range(256)] * len(image.getbands()))


def _reversed(increasing: bool, full: int, value: int) -> int:
    return full - value if increasing else value


def _enhanced(kind: Any) -> Callable[[Picture, Move], Picture]:
    return lambda image, move: kind(image).enhance(move.strength * 1.8 + 0.1)


def _enhanced_more(kind: Any) -> Callable[[Picture, Move], Picture]:
    return lambda image, move: kind(image).enhance(max(0.1, 1.0 + 0.9 * move.signed))


def _forms(increasing: bool) -> Mapping[str, Callable[[Picture, Move], Picture]]:
    """The operations by name, in the form whose strength grows with the magnitude or in the first one."""
    enhanced = _enhanced_more if increasing else _enhanced
    return {
        "AutoContrast": lambda image, move: ImageOps.autocontrast(image),
        "Equalize": lambda image, move: ImageOps.equalize(image),
        "Invert": lambda image, move: ImageOps.invert(image),
        "Rotate": lambda image, move: image.rotate(30.0 * move.signed, move.resample, fillcolor=move.fill),
        "Posterize": lambda image, move: _posterized(image, _reversed(increasing, 4, int(move.strength * 4))),
        "Solarize": lambda image, move: ImageOps.solarize(
            image, _reversed(increasing, 256, min(256, int(move.strength * 256)))
        ),
        "SolarizeAdd": _solarize_add,
        "Color": enhanced(ImageEnhance.Color),
        "Contrast": enhanced(ImageEnhance.Contrast),
        "Brightness": enhanced(ImageEnhance.Brightness),
        "Sharpness": enhanced(ImageEnhance.Sharpness),
        "ShearX": lambda image, move: _affine(image, move, (1, 0.3 * move.signed, 0, 0, 1, 0)),
        "ShearY": lambda image, move: _affine(image, move, (1, 0, 0, 0.3 * move.signed, 1, 0)),
        "TranslateXRel": lambda image, move: _affine(image, move, (1, 0, 0.45 * move.signed * image.width, 0, 1, 0)),
        "TranslateYRel": lambda image, move: _affine(image, move, (1, 0, 0, 0, 1, 0.45 * move.signed * image.height)),
    }


OPERATIONS, INCREASING = _forms(False), _forms(True)


@dataclass(frozen=True)
class RandAugment:
    """``layers`` operations per image, drawn with replacement, each applied with probability ``prob``.

    The magnitude is normal around ``magnitude`` with deviation ``std`` (infinite: uniform from 0), cut to 0 to
    ``limit``. ``increasing`` takes the forms of the operations that grow stronger with it.
    """

    magnitude: float = 10.0
    layers: int = 2
    prob: float = 0.5
    std: float = 0.0
    limit: float = 10.0
    increasing: bool = False

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """From timm's notation such as ``rand-m7-mstd0.5-inc1``; raises SpecError for what it does not know."""
        names = {"m": "magnitude", "n": "layers", "p": "prob", "mstd": "std", "mmax": "limit", "inc": "increasing"}
        head, *parts = text.split("-")
        values: dict[str, Any] = {}
        for part in parts:
            match = re.fullmatch(r"([a-z]+)(\d+\.?\d*|inf)", part)
            if match is None or match[1] not in names:
                raise SpecError(f"randaugment {text!r}: {part!r} is not one of m, n, p, mstd, mmax, inc with a number")
            values[names[match[1]]] = float(match[2])
        if head != "rand":
            raise SpecError(f"randaugment {text!r} must begin with 'rand', as in rand-m7-mstd0.5-inc1")
        if values.get("std", 0.0) > 100:
            values["std"] = math.inf
        casts = {"layers": int, "increasing": bool}
        return cls(**{name: casts.get(name, float)(value) for name, value in values.items()})

    @property
    def draws(self) -> int:
        """How many uniform numbers an image needs."""
        return self.layers * _DRAWS

    def __call__(self, images: NDArray[np.uint8], u: NDArray[np.float64], fill: tuple[int, ...]) -> NDArray[np.uint8]:
        """Augment uint8 images (n, C, H, W) of 1 or 3 channels by draws u (n, ``draws``); ``fill`` has C values."""
        steps = u.reshape(len(u), self.layers, _DRAWS)
        table = list((INCREASING if self.increasing else OPERATIONS).values())
        chosen = (steps[..., 0] * len(table)).astype(int)
        strengths = self.magnitudes(steps[..., 2], steps[..., 3]) / _FULL
        out = images.copy()
        for i in range(len(images)):
            applied = np.flatnonzero(steps[i, :, 1] <= self.prob)
            if not len(applied):
                continue
            picture = picture_of(images[i])
            for layer in applied:
                sign = -1.0 if steps[i, layer, 4] > 0.5 else 1.0
                resample = _RESAMPLING[int(steps[i, layer, 5] * len(_RESAMPLING))]
                move = Move(float(strengths[i, layer]), sign, resample, fill if len(fill) > 1 else fill[0])
                picture = table[chosen[i, layer]](picture, move)
            out[i] = pixels_of(picture)
        return out

    def magnitudes(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Magnitudes from two arrays of uniform numbers in [0, 1)."""
        uniform = math.isinf(self.std)
        drawn = self.magnitude * u if uniform else self.magnitude + self.std * normals(u, v)
        return np.clip(drawn, 0.0, self.limit)
