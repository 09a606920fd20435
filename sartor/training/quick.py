"""The recipes ``quick`` fitted to a data set: batch and crops follow from the number and size of the images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sartor.training.augment.pipeline import Augment
from sartor.training.recipe import Recipe, recipe

_STEPS = 40  # an epoch has at least about so many


def quick(examples: int, size: int, *, flip: bool = True, spec: Any = None) -> Recipe:
    """``quick`` for ``examples`` training images of ``size`` pixels a side; ``quick-transformer`` if ``spec`` is one.

    The batch is the power of two, from 16 to 128, that leaves about 40 steps an epoch, and the learning rate follows
    it. Images below 16 pixels are turned, scaled and shifted a little, those up to 64 shifted by an eighth, and larger
    ones are cropped at random sizes. ``flip`` says whether a mirrored picture still is of its class; a digit is not.
    """
    base = recipe("quick-transformer" if spec is not None and is_transformer(spec) else "quick")
    batch = min(128, max(16, 2 ** int(math.log2(max(1, examples / _STEPS)))))
    return base.replace(batch=min(batch, max(1, examples)), augment=_augment(base.augment, size, flip))


def is_transformer(spec: Any) -> bool:
    """Whether a spec's network is a row of blocks of attention and perceptrons."""
    from sartor.models.network import build
    from sartor.models.transformer import TransformerBackbone

    return isinstance(build(spec, device="meta"), TransformerBackbone)


def _augment(base: Augment, size: int, flip: bool) -> Augment:
    chance = base.flip if flip else 0.0
    if size < 16:
        return replace(base, crop="none", flip=chance, rotate=12.0, zoom=0.1, shift=0.1)
    if size <= 64:
        return replace(base, pad=size // 8, flip=chance)
    return replace(base, crop="resized", scale=(0.35, 1.0), flip=chance)
