"""Between arrays of pixels and Pillow pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture_of(image: NDArray[np.uint8]) -> Image.Image:
    """The picture of an array (C, H, W) of 1 or 3 channels."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """The array (C, H, W) of a picture."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
