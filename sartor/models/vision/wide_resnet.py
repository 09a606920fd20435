"""Wide ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146): fewer, wider residual units.

The small-image nets are made of pre-activated units without bottlenecks, B(M) of any kernels M; the ImageNet nets
are ResNets with other widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from sartor.core.errors import SpecError
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.preact_resnet import Unit
from sartor.models.vision.resnet import Basic, Bottleneck, Shortcut


def wrn_cifar(
    depth: int,
    widen: float,
    kernels: Sequence[int] = (3, 3),
    units: int | None = None,
    dropout: float = 0.0,
    classes: int = 10,
) -> AnyNet:
    """WRN-depth-widen-B(kernels): a bare 3x3 stem of width 16, three groups of widths 16, 32, 64 times ``widen``.

    A group has ``units`` units; unsaid, (depth - 4) / 6 whatever the kernels (table 2). The deepening factor of
    table 3 is the number of 3x3 kernels at a constant product with ``units``. ``dropout`` acts inside the units,
    before every convolution but the first. Raises SpecError for a depth that is not 6n+4.
    """
    count, rest = divmod(depth - 4, 6)
    if count < 1 or rest:
        raise SpecError(f"wrn_cifar: depth is 6n+4, not {depth}")
    unit = Unit(tuple(kernels), dropout=dropout)
    stages = tuple(Stage(unit, units or count, int(16 * 2**g * widen), 1 if g == 0 else 2) for g in range(3))
    stem = Stem(16, norm=False)
    return AnyNet(stem, stages, classes=classes, size=(32, 32), final_norm=True, init="fan_in", names="preact")


def wide_resnet(depths: Sequence[int], bottleneck: bool, widen: float, shortcut: Shortcut = "B") -> AnyNet:
    """The ImageNet form: all widths of basic blocks times ``widen``, of bottlenecks the inner widths alone."""
    stages = []
    for number, depth in enumerate(depths):
        base = 64 * 2**number
        wide = int(base * widen)
        block = Bottleneck(wide, shortcut=shortcut) if bottleneck else Basic(shortcut)
        stages.append(Stage(block, depth, 4 * base if bottleneck else wide, 1 if number == 0 else 2))
    return AnyNet(Stem(64, 7, 2, pool=True), tuple(stages), init="fan_in")
