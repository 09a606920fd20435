"""Colour changes of a batch of images; every image's draw is given, so nothing here is random.

Images are float (n, 3, H, W) with values from 0 to 255, and are changed in place.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
_LUMA = (0.299, 0.587, 0.114)
# Of the RGB covariance of ImageNet, values from 0 to 1; eigenvectors in columns (Krizhevsky et al. 2012).
_PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
_PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


def jittered(images: Tensor, u: Floats, strength: float) -> Tensor:
    """Brightness, contrast and saturation in random order, from u (n, 4) in [0, 1).

    Each blends the image with black, with its mean grey or with its grey version: weight 1 + a of the image and -a of
    the other, a uniform in [-strength, strength] (fb.resnet.torch). Values may leave 0 to 255.
    """
    weights = torch.from_numpy(1.0 + strength * (2.0 * u[:, :3] - 1.0)).float().to(images.device)
    orders = _ORDERS[(u[:, 3] * len(_ORDERS)).astype(int)]
    for place in range(3):
        for change in range(3):
            chosen = torch.from_numpy(np.flatnonzero(orders[:, place] == change)).to(images.device)
            if len(chosen):
                part = images[chosen]
                other = _blended_with(part, change)
                images[chosen] = torch.lerp(other, part, weights[chosen, change][:, None, None, None])
    return images


def lit(images: Tensor, normal: Floats, spread: float) -> Tensor:
    """Add to every pixel a colour along the principal components of ImageNet's, from standard normal (n, 3)."""
    colour = (normal * spread * _PCA_VALUES) @ _PCA_VECTORS.T * 255.0
    return images.add_(torch.from_numpy(colour).float().to(images.device)[:, :, None, None])


def _blended_with(images: Tensor, change: int) -> Tensor:
    if change == 0:
        return torch.zeros_like(images)
    luma = images.new_tensor(_LUMA)[None, :, None, None]
    grey = (images * luma).sum(1, keepdim=True)
    return (grey.mean((2, 3), keepdim=True) if change == 1 else grey).expand_as(images)
