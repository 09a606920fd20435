"""Crops, flips and affine maps of a batch of images; every image's draw is given, so nothing here is random.

Images are uint8 (n, C, H, W) in and out.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from sartor.training.augment.pictures import picture_of, pixels_of

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Filter = Literal["bilinear", "bicubic"]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
TRIES = 10  # to fit a random box into the image


def shifted(images: Bytes, u: Floats, v: Floats, pad: int, mode: Literal["zero", "reflect"]) -> Bytes:
    """Each image cut out of its padded self at one of (2 pad + 1)^2 places chosen by u and v (n,) in [0, 1)."""
    if mode == "zero":
        padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    else:
        padded = images[:, :, _reflected(images.shape[2], pad)][..., _reflected(images.shape[3], pad)]
    windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    places = 2 * pad + 1
    cut: Bytes = windows[np.arange(len(images)), :, (u * places).astype(int), (v * places).astype(int)]
    return cut


def flipped(images: Bytes, which: NDArray[np.bool_]) -> Bytes:
    """A copy with the chosen images mirrored left to right."""
    out = images.copy()
    out[which] = out[which, :, :, ::-1]
    return out


def crop_boxes(
    u: Floats, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    """Boxes (n, 4) as top, left, height, width of random resized crops (Szegedy et al. 2015) from u (n, 10, 4).

    Area and logarithm of the aspect ratio are uniform, up to ten tries are made to fit the box into the image, and
    then the largest central crop of allowed ratio is taken, as torchvision and timm do.
    """
    height, width = size
    area = (scale[0] + (scale[1] - scale[0]) * u[..., 0]) * height * width
    aspect = np.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[..., 1])
    w, h = np.rint(np.sqrt(area * aspect)).astype(int), np.rint(np.sqrt(area / aspect)).astype(int)
    top = (u[..., 2] * (height - h + 1)).astype(int)
    left = (u[..., 3] * (width - w + 1)).astype(int)
    fits = (w <= width) & (h <= height)
    boxes: NDArray[np.int64] = np.stack([top, left, h, w], -1)[np.arange(len(u)), fits.argmax(1)]
    boxes[~fits.any(1)] = _central_box(height, width, ratio)
    return boxes


def resampled(images: Bytes, boxes: NDArray[np.int64], size: tuple[int, int], filter: Filter) -> Bytes:
    """Each image's box (top, left, height, width) cut out and resized to ``size`` with Pillow's antialiasing."""
    out = np.empty((*images.shape[:2], *size), np.uint8)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        picture = picture_of(images[i, :, top : top + height, left : left + width])
        out[i] = pixels_of(picture.resize(size[::-1], _FILTERS[filter]))
    return out


def resized(images: Bytes, size: tuple[int, int], filter: Filter = "bicubic") -> Bytes:
    """All images resized whole."""
    if images.shape[2:] == size:
        return images
    return resampled(images, np.array([[0, 0, *images.shape[2:]]] * len(images)), size, filter)


def affine(images: Bytes, angle: Floats, zoom: Floats, shift: Floats) -> Bytes:
    """Rotation by ``angle`` (n,) in radians about the centre, scaling by ``zoom`` (n,), then a shift (n, 2).

    ``shift`` is x and y in parts of the size. Bilinear; the border is repeated outwards.
    """
    height, width = images.shape[2:]
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    # the inverse map, in the sampler's coordinates, where width and height are both 2
    dx, dy = -2.0 * shift[:, 0], -2.0 * shift[:, 1]
    skew = height / width
    theta = np.stack(
        [
            np.stack([cos, sin * skew, cos * dx + sin * skew * dy], 1),
            np.stack([-sin / skew, cos, -sin / skew * dx + cos * dy], 1),
        ],
        1,
    )
    grid = F.affine_grid(torch.from_numpy(theta).float(), list(images.shape), align_corners=False)
    moved = F.grid_sample(torch.from_numpy(images).float(), grid, "bilinear", "border", align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8).numpy()


def _reflected(size: int, pad: int) -> NDArray[np.int64]:
    """Positions from -pad to size + pad, mirrored at the first and last pixel as often as needed."""
    period = max(1, 2 * size - 2)
    position = np.abs(np.arange(-pad, size + pad)) % period
    mirrored: NDArray[np.int64] = np.minimum(position, period - position)
    return mirrored


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w
