"""The spaces of transformers that the main job samples: ViT, Swin and LeViT, where patches suit the images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from sartor.core.errors import SpecError
from sartor.core.genes import Choice, Gene, Int
from sartor.core.space import Config, Space
from sartor.models.network import count
from sartor.models.vision.deit import ViT
from sartor.models.vision.levit import STRIDE, Levit
from sartor.models.vision.swin import Swin

Image = tuple[int, int, int]  # channels, height, width
Specs = Callable[[Image, int, Config], Any]
_MOST_GRID = 14  # patches a side of a ViT; a token attends to all, so finer grids take too long
_LEVIT_SIDE = 64  # the stem leaves 4 tokens a side
_WINDOWS = (4, 7, 8)
_WIDTH = Int("width", 4, 1024, 1, "log_uniform")
_HEAD = Choice("head_width", (8, 16, 32))
_MLP = Choice("mlp", (1.0, 2.0, 3.0, 4.0))


def _width_and_heads(wanted: int, each: int) -> tuple[int, int]:
    """Heads, a power of two, of ``each`` to twice as many channels, and the width of whole heads nearest to a wanted.

    Neither falls when the wanted width grows.
    """
    heads = 2 ** int(math.log2(max(1.0, wanted / each)))
    return heads * round(wanted / heads), heads


def _vit_patches(sides: tuple[int, int]) -> tuple[int, ...]:
    """Sides of patches that cover images by a grid which is neither too coarse nor too fine."""
    return tuple(p for p in _common(sides) if min(sides) // p >= _least_grid(sides) and max(sides) // p <= _MOST_GRID)


def _least_grid(sides: tuple[int, int]) -> int:
    return 6 if min(sides) >= 24 else min(4, *sides)


def _swin_layouts(sides: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Pairs of a patch side and a number of stages that leave 4 to 8 tokens a side, 2 to 4 to small images."""
    least, most = (4, 8) if min(sides) >= 24 else (2, 4)
    found = []
    for patch in _common(sides):
        if not 4 <= min(sides) // patch <= 64 or patch < (2 if min(sides) >= 24 else 1):
            continue
        for stages in (2, 3, 4):
            stride = patch * 2 ** (stages - 1)
            if least <= -(-min(sides) // stride) and -(-max(sides) // stride) <= most:
                found.append((patch, stages))
    return tuple(found)


def _common(sides: tuple[int, int]) -> list[int]:
    """The common divisors of two sides."""
    return [n for n in range(1, min(sides) + 1) if sides[0] % n == 0 and sides[1] % n == 0]


def _depths(side: int, stages: int) -> tuple[Gene, ...]:
    values, weights = ((1, 2, 3), (3.0, 3.0, 1.0)) if side < 48 else ((1, 2, 3, 4, 6), (1.0, 3.0, 2.0, 2.0, 1.0))
    return tuple(Choice(f"depth{n}", values, weights) for n in range(1, stages + 1))


def _vit_space(image: Image, classes: int) -> Space:
    patches, side = _vit_patches(image[1:]), min(image[1:])
    depth = Int("depth", 2, 8 if side < 48 else 12)
    genes = (Choice("patch", patches), depth, _HEAD, _MLP, _WIDTH)
    return Space("vit", genes, partial(_vit, image, classes), count)


def _vit(image: Image, classes: int, config: Config) -> ViT:
    width, heads = _width_and_heads(config["width"], config["head_width"])
    return ViT(width, config["depth"], heads, config["patch"], config["mlp"], classes, image[0], image[1:])


def _swin_space(image: Image, classes: int) -> Space:
    layouts = {f"{patch}/{stages}": stages for patch, stages in _swin_layouts(image[1:])}
    deepest = max(layouts.values())
    genes = (
        Choice("layout", tuple(layouts)), *_depths(min(image[1:]), deepest), Choice("window", _WINDOWS), _HEAD, _MLP,
        _WIDTH,
    )  # fmt: skip
    active = {f"depth{n}": partial(_has_stage, layouts, n) for n in range(2, deepest + 1)}
    return Space("swin", genes, partial(_swin, image, classes), count, active=active)


def _has_stage(layouts: dict[str, int], number: int, values: Any) -> bool:
    return layouts[values["layout"]] >= number


def _swin(image: Image, classes: int, config: Config) -> Swin:
    patch, stages = map(int, config["layout"].split("/"))
    width, heads = _width_and_heads(config["width"], config["head_width"])
    depths = tuple(config[f"depth{n}"] for n in range(1, stages + 1))
    return Swin(
        width, depths, tuple(heads * 2**s for s in range(stages)), config["window"], patch,
        config["mlp"], classes, image[0], image[1:],
    )  # fmt: skip


def _levit_space(image: Image, classes: int) -> Space:
    stages = 3 if min(image[1:]) // STRIDE >= 8 else 2
    genes = (*_depths(min(image[1:]), stages), Choice("key", (8, 16, 32)), _WIDTH)
    return Space("levit", genes, partial(_levit, image, classes, stages), count)


def _levit(image: Image, classes: int, stages: int, config: Config) -> Levit:
    """Widths grow by a half from stage to stage, in multiples of 8 and of the keys; half as many heads as keys fit."""
    key = config["key"]
    first = max(1, round(config["width"] / max(8, key)))
    widths = tuple(max(8, key) * max(1, round(first * 1.5**s)) for s in range(stages))
    heads = tuple(max(1, width // (2 * key)) for width in widths)
    depths = tuple(config[f"depth{n}"] for n in range(1, stages + 1))
    return Levit(widths, depths, heads, key, classes, image[0], image[1:], distilled=False)


ATTENTION: dict[str, Callable[[Image, int], Space]] = {"vit": _vit_space, "swin": _swin_space, "levit": _levit_space}


def unsuited(name: str, image: Image) -> str:
    """Why a family has no network for images of (channels, height, width), or nothing."""
    sides = image[1], image[2]
    size = f"images of {sides[0]}x{sides[1]}"
    if name == "vit" and not _vit_patches(sides):
        return f"no patches cover {size} by {_least_grid(sides)} to {_MOST_GRID} a side"
    if name == "swin" and not _swin_layouts(sides):
        return f"no patches and mergings bring {size} down to a few tokens a side"
    if name == "levit" and (min(sides) < _LEVIT_SIDE or any(side % STRIDE for side in sides)):
        return f"its stem divides sides by {STRIDE} and needs {_LEVIT_SIDE} pixels or more, not {size}"
    return ""


def attention_space(name: str, image: Image, classes: int) -> Space:
    """The space of a transformer family; raises SpecError where images do not suit it."""
    why = unsuited(name, image)
    if why:
        raise SpecError(f"{name}: {why}")
    return ATTENTION[name](image, classes)
