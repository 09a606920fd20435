"""Design spaces by name, suited to an image size: the paper's, and those of the families the main job searches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

from sartor.core.errors import SpecError, unknown
from sartor.core.space import Space
from sartor.models.vision.regnet import STEMS
from sartor.search.design_space import BASE, Level, Range, Setting, anynet_space, between, regnet_space
from sartor.search.spaces import Image, families, family_space

_SMALL = 64  # images of fewer pixels a side get the stem for CIFAR
_PUBLISHED: Mapping[str, Any] = {
    "regnetx": regnet_space,
    "regnety": regnet_space,
    **{f"anynet_{level.lower()}": partial(anynet_space, level) for level in get_args(Level)},
}


def space_names() -> tuple[str, ...]:
    """The names ``named_space`` takes."""
    return tuple(dict.fromkeys((*_PUBLISHED, *families())))


def named_space(name: str, image: Image, classes: int, complexity: Mapping[str, Range] | None = None) -> Space:
    """The space for images of (channels, height, width), within ranges of counted cost (an end of 0 is open).

    ``regnetx``, ``regnety`` and ``anynet_a`` to ``anynet_e`` are the paper's, with its ranges; images below 64 pixels
    get a 3x3 stem of stride 1 and width 16. Other names are families. Raises SpecError for an unknown name.
    """
    if name not in space_names():
        raise SpecError(unknown("design space", name, space_names()))
    if name in _PUBLISHED:
        stem = STEMS["res_stem_cifar"](16) if min(image[1:]) < _SMALL else BASE.stem
        base = BASE.replace(stem=stem, channels=image[0], size=image[1:], classes=classes)
        space: Space = _PUBLISHED[name](Setting(base, se=0.25 if name == "regnety" else 0.0))
    else:
        space = family_space(name, image, classes)
    return space.within(*between(complexity or {}))
