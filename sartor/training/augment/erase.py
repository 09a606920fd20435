"""Random erasing (Zhong et al. 2020), by timm's rules; and Cutout (DeVries and Taylor 2017)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartor.training.augment.draws import Draws

TRIES = 10
_AREA, _ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)


def erase_boxes(u: NDArray[np.float64], size: tuple[int, int], prob: float) -> NDArray[np.int64]:
    """Boxes (n, 4) as top, left, height, width from u (n, 1 + 4 * 10); height 0 where nothing is erased.

    The area is uniform in 2 % to a third of the image, the logarithm of the aspect ratio uniform in 0.3 to 1 / 0.3; of
    ten tries the first that is smaller than the image in both directions is taken.
    """
    height, width = size
    tries = u[:, 1:].reshape(len(u), TRIES, 4)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * tries[..., 0]) * height * width
    aspect = np.exp(math.log(_ASPECT[0]) + (math.log(_ASPECT[1]) - math.log(_ASPECT[0])) * tries[..., 1])
    h, w = np.rint(np.sqrt(area * aspect)).astype(int), np.rint(np.sqrt(area / aspect)).astype(int)
    top = (tries[..., 2] * (height - h + 1)).astype(int)
    left = (tries[..., 3] * (width - w + 1)).astype(int)
    fits = (h < height) & (w < width)
    boxes: NDArray[np.int64] = np.stack([top, left, h, w], -1)[np.arange(len(u)), fits.argmax(1)]
    boxes[~fits.any(1) | (u[:, 0] >= prob)] = 0
    return boxes


def cut_out(images: NDArray[np.uint8], u: NDArray[np.float64], side: float) -> NDArray[np.uint8]:
    """A copy of images (n, C, H, W) with a box of ``side`` times the height and width covered by a colour each.

    Draws u (n, 2 + C) give its centre, anywhere in the image, and the colour; what lies outside is cut off.
    """
    out, (height, width) = images.copy(), images.shape[2:]
    h, w = round(side * height), round(side * width)
    top, left = (u[:, 0] * height).astype(int) - h // 2, (u[:, 1] * width).astype(int) - w // 2
    colours = (256 * u[:, 2:]).astype(np.uint8)
    for image, y, x, colour in zip(out, top.tolist(), left.tolist(), colours, strict=True):
        image[:, max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = colour[:, None, None]
    return out


def erased(images: Tensor, boxes: NDArray[np.int64], draw: Draws | None) -> Tensor:
    """Normalised images (n, C, H, W) with each box filled in place: with normal noise per pixel, or (None) zeros."""
    for i, (top, left, h, w) in enumerate(boxes):
        if h:
            patch = images[i, :, top : top + h, left : left + w]
            if draw is None:
                patch.zero_()
            else:
                patch.copy_(torch.from_numpy(draw.noise("erase", i).standard_normal(patch.shape, np.float32)))
    return images
