"""ResNet-RS (Bello et al. 2021, arXiv 2103.07579): SE-ResNet-D at paired depths and resolutions, and its scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from sartor.core.errors import SpecError
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.resnet import Bottleneck

DEPTHS: Mapping[int, tuple[int, int, int, int]] = {  # blocks in each stage, by the number of layers, nearly
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
_STEP = 0.125  # of the width multiplier


class Regime(NamedTuple):
    """How one published model was regularised; ``rand`` is RandAugment's magnitude on a scale where 10 is full."""

    depth: int
    side: int
    dropout: float
    drop_path: float
    rand: int


REGIMES = (  # the published models by rising cost: 350 epochs of ImageNet each
    Regime(50, 160, 0.25, 0.0, 10),
    Regime(101, 160, 0.25, 0.0, 10),
    Regime(101, 192, 0.25, 0.0, 15),
    Regime(152, 192, 0.25, 0.0, 15),
    Regime(152, 224, 0.25, 0.0, 15),
    Regime(152, 256, 0.25, 0.0, 15),
    Regime(200, 256, 0.25, 0.1, 15),
    Regime(270, 256, 0.25, 0.1, 15),
    Regime(350, 256, 0.25, 0.1, 15),
    Regime(350, 320, 0.4, 0.1, 15),
    Regime(420, 320, 0.4, 0.1, 15),
)


def resnet_rs(depth: int, side: int) -> AnyNet:
    """The published model of ``depth`` layers for images of ``side`` pixels, with the regularisation it was given.

    Stochastic depth is by stage. Raises SpecError for a pair that was not published; ``replace(size=...)`` gives one
    any other size.
    """
    for regime in REGIMES:
        if (regime.depth, regime.side) == (depth, side):
            stages = tuple(
                Stage(Bottleneck(base := 64 * 2**s, shortcut="D", se=0.25), blocks, 4 * base, 1 if s == 0 else 2)
                for s, blocks in enumerate(DEPTHS[depth])
            )
            return AnyNet(
                Stem(64, 3, 2, pool="conv", before=(32, 32)), stages, size=(side, side), dropout=regime.dropout,
                drop_path=regime.drop_path, drop_by="stage", fc_std=0.01, zero_gamma=True,
            )  # fmt: skip
    pairs = ", ".join(f"{r.depth} at {r.side}" for r in REGIMES)
    raise SpecError(f"resnet_rs: there is no {depth} at {side}; the published ones are {pairs}")


def slow_side(macs: float) -> int:
    """Strategy 2, raise the resolution slowly: the side that the published models have at so many multiply-adds.

    From 160 for the smallest to 320, where larger images stop paying (section 5.2). Raises SpecError below the first.
    """
    fitting = [r.side for r in REGIMES if resnet_rs(r.depth, r.side).tally().macs <= macs]
    if not fitting:
        least = resnet_rs(50, 160).tally().macs
        raise SpecError(f"{macs:.3g} multiply-adds: the smallest ResNet-RS needs {least:.3g}; scale another family")
    return fitting[-1]


def scale_depth(spec: AnyNet, macs: float, side: int | None = None) -> AnyNet:
    """Strategy 1 where a network can overfit, as in trainings of hundreds of epochs: the deepest one within a budget.

    Depths are those of ``DEPTHS``, the side the given one or ``slow_side``'s; widths, classes and the rest stay.
    Raises SpecError if no depth fits or the network has not four stages.
    """
    if len(spec.stages) != len(DEPTHS[50]):
        raise SpecError(f"scale_depth: the depths are for {len(DEPTHS[50])} stages, not {len(spec.stages)}")
    size = (side or slow_side(macs),) * 2
    fitting = None
    for depths in DEPTHS.values():
        stages = tuple(replace(stage, depth=depth) for stage, depth in zip(spec.stages, depths, strict=True))
        deeper = spec.replace(stages=stages, size=size)
        fitting = deeper if deeper.tally().macs <= macs else fitting
    return _found(fitting, "depth", size, macs)


def scale_width(spec: AnyNet, macs: float, side: int | None = None) -> AnyNet:
    """Strategy 1 where it cannot, as in ten epochs or with very much data: the widest network within a budget.

    Stages are multiplied by the largest multiple of 1/8, to inner widths in multiples of 8 and of the groups; the
    stem, depths, classes and the rest stay. The side is the given one or ``slow_side``'s. Raises SpecError if no width
    fits.
    """
    size = (side or slow_side(macs),) * 2
    fitting, factor = None, _STEP
    while True:
        wider = spec.replace(stages=tuple(_widened(stage, factor) for stage in spec.stages), size=size)
        if wider.tally().macs > macs:
            return _found(fitting, "width", size, macs)
        fitting, factor = wider, factor + _STEP


def _widened(stage: Stage, factor: float) -> Stage:
    block = stage.block
    if not isinstance(block, Bottleneck):
        raise SpecError(f"scale_width: only bottlenecks can be widened, not {block.kind}")
    unit = math.lcm(8, block.groups)
    inner = max(1, round(block.inner * factor / unit)) * unit
    return replace(stage, width=inner * stage.width // block.inner, block=replace(block, inner=inner))


def _found(spec: AnyNet | None, axis: str, size: tuple[int, int], macs: float) -> AnyNet:
    if spec is None:
        raise SpecError(f"{macs:.3g} multiply-adds: at {size[0]} pixels no {axis} fits; take a smaller side")
    return spec
