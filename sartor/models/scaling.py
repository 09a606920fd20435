"""Scaling a network along depth, width, group width and resolution (Dollár et al. 2021, arXiv 2103.06877)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

from sartor.core.errors import SpecError
from sartor.models.anynet import AnyNet, Stage
from sartor.models.vision.regnet import fit_groups

FAST_COMPOUND = "d1_w8_g8_r1"


class Factors(NamedTuple):
    """What depth, width, group width and resolution are multiplied by; depth width² resolution² is the factor."""

    depth: float
    width: float
    group_width: float
    resolution: float


def scaling_factors(kind: str, factor: float) -> Factors:
    """The factors of a scaling such as ``d1_w8_g8_r1`` (fast compound) or ``dw``, short for ``d1_w1``.

    Numbers weigh depth, width (w), group width (g) and resolution (r) against one another; multiply-adds grow by
    about ``factor``. Raises SpecError for another spelling or a factor that is not positive.
    """
    weights = dict.fromkeys("dwgr", 0.0)
    if re.fullmatch(r"[dwgr]+", kind):
        weights |= dict.fromkeys(kind, 1.0)
    elif re.fullmatch(r"[dwgr]\d+(\.\d+)?(_[dwgr]\d+(\.\d+)?)*", kind):
        weights |= {part[0]: float(part[1:]) for part in kind.split("_")}
    else:
        raise SpecError(f"scaling {kind!r}: write letters of d, w, g and r with weights, such as {FAST_COMPOUND}")
    if factor <= 0:
        raise SpecError(f"scaling by {factor:g}: the factor must be positive")
    total = weights["d"] + weights["w"] + weights["r"] or weights["g"] / 2 or 1.0
    depth, width, group_width, resolution = (factor ** (weights[axis] / total) for axis in "dwgr")
    return Factors(depth, width**0.5, group_width**0.5, resolution**0.5)


def scale(spec: AnyNet, factor: float, kind: str = FAST_COMPOUND) -> AnyNet:
    """The network scaled to about ``factor`` times the multiply-adds; the stem stays.

    Widths are rounded to 8 and made to fit their groups, group widths to 1, 2, 4 or multiples of 8, sides to 4.
    """
    factors = scaling_factors(kind, factor)
    side = tuple(max(1, round(s * factors.resolution / 4)) * 4 for s in spec.size)
    return spec.replace(stages=tuple(_scaled(stage, factors) for stage in spec.stages), size=side)


def deeper(spec: Any, factor: int) -> Any:
    """A network with so many times the blocks; raises SpecError where the spec has no depth to multiply."""
    if isinstance(spec, AnyNet):
        return spec.replace(stages=tuple(replace(s, depth=factor * s.depth) for s in spec.stages))
    if spec.kind == "vit-resnas":  # a stage is what its blocks are
        return spec.replace(**{n: tuple(factor * stage for stage in getattr(spec, n)) for n in ("heads", "hidden")})
    return _multiplied(spec, ("depth", "depths"), "depth", factor)


def wider(spec: Any, factor: int) -> Any:
    """A network so many times as wide, in as many groups but so many times the heads of attention.

    Raises SpecError where the spec has no width to multiply.
    """
    if isinstance(spec, AnyNet):
        stem = replace(spec.stem, width=factor * spec.stem.width)
        return spec.replace(stem=stem, stages=tuple(_wider(stage, factor) for stage in spec.stages))
    names = ("width", "widths", "heads", "hidden", "mid") if hasattr(spec, "heads") else ("width",)
    return _multiplied(spec, names, "width", factor)


def _multiplied(spec: Any, names: tuple[str, ...], what: str, factor: int) -> Any:
    """The spec with those of its fields multiplied, value by value."""

    def times(value: Any) -> Any:
        return tuple(map(times, value)) if isinstance(value, tuple) else factor * value

    changes = {name: times(getattr(spec, name)) for name in names if hasattr(spec, name)}
    if not changes:
        raise SpecError(f"a {spec.kind} network has no {what} to multiply")
    return spec.replace(**changes)


def _wider(stage: Stage, factor: int) -> Stage:
    block: Any = stage.block
    if getattr(block, "inner", 0):
        block = replace(block, inner=factor * block.inner)
    return replace(stage, width=factor * stage.width, block=block)


def _scaled(stage: Stage, factors: Factors) -> Stage:
    depth = max(1, round(stage.depth * factors.depth))
    width = max(1, round(stage.width * factors.width / 8)) * 8
    block: Any = stage.block
    if not hasattr(block, "inner"):
        return replace(stage, depth=depth, width=width)
    group_width = max(1, round(block.inner // block.groups * factors.group_width))
    if group_width > 2:
        group_width = 4 if group_width <= 5 else round(group_width / 8) * 8
    bottle_ratio = block.inner / stage.width
    width, group_width = fit_groups(width, group_width, bottle_ratio)
    inner = round(width * bottle_ratio)
    return replace(stage, depth=depth, width=width, block=replace(block, inner=inner, groups=inner // group_width))
