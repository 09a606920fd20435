"""RegNet X and Y, and the AnyNetX spaces they come from (Radosavovic et al. 2020, arXiv 2003.13678).

Block widths lie on a quantised line of four parameters; state-dict keys are timm's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from sartor.core.errors import SpecError, unknown
from sartor.core.spec import spec_kind
from sartor.models.anynet import AnyNet, Block, BlockKind, Site, Stage, Stem
from sartor.models.layers import Conv, Layer, Norm, Path

Rounding = Literal["even", "torchvision"]
QUANTUM = 8  # widths are multiples of it before groups are made to fit


@spec_kind
@dataclass(frozen=True, slots=True)
class XBlock:
    """1x1 to ``inner`` channels, 3x3 in ``groups`` groups with the stride, 1x1 out (section 3.2, figure 4).

    ``se`` > 0 gates the output of the 3x3 by squeeze-and-excitation with ``se`` times the block's *input* width
    (the Y block). ``linear`` has no activation after the addition, and a shortcut only where the shape stays.
    """

    kind: ClassVar[str] = "regnet_x"
    inner: int
    groups: int = 1
    se: float = 0.0
    linear: bool = False

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch, the projection where there is one, and the gate of a Y block."""
        branch = {
            **conv_norm("conv1", Conv(site.w_in, self.inner, 1)),
            **conv_norm("conv2", Conv(self.inner, self.inner, 3, site.stride, self.groups)),
            **conv_norm("conv3", Conv(self.inner, site.w_out, 1)),
        }
        paths = [Path(branch), *projection(site, not self.linear)]
        if self.se:
            squeezed = round(self.se * site.w_in)
            gate: dict[str, Layer] = {
                "se.fc1": Conv(self.inner, squeezed, 1, bias=True),
                "se.fc2": Conv(squeezed, self.inner, 1, bias=True),
            }
            paths.append(Path(gate, pooled=True))
        return tuple(paths)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return XBlockModule(self, site, act)


class XBlockModule(Block):
    """conv-bn-act twice, the gate if there is one, conv-bn, add, act."""

    kind: XBlock

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return not (self.kind.linear and self.site.changes)

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch, before they are added."""
        branch = self.act(self.conv1.bn(self.conv1.conv(x)))
        branch = self.act(self.conv2.bn(self.conv2.conv(branch)))
        if self.kind.se:
            gate = self.act(self.se.fc1(branch.mean((2, 3), keepdim=True)))
            branch = branch * self.se.fc2(gate).sigmoid()
        return projected(self, x, not self.kind.linear), self.conv3.bn(self.conv3.conv(branch))

    def join(self, shortcut: Tensor | None, branch: Tensor) -> Tensor:
        """The sum, activated unless the block is linear."""
        if not self.kind.linear:
            return super().join(shortcut, branch)
        return branch if shortcut is None else shortcut + branch


@spec_kind
@dataclass(frozen=True, slots=True)
class ConvBlock:
    """``convs`` 3x3 convolutions, the stride on the first; ``residual`` adds the input.

    One is the paper's V (VR with the residual), two are pycls's vanilla and res_basic blocks.
    """

    kind: ClassVar[str] = "regnet_conv"
    convs: int = 1
    residual: bool = False

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch, and the projection where there is one."""
        branch = conv_norm("conv1", Conv(site.w_in, site.w_out, 3, site.stride))
        for number in range(2, self.convs + 1):
            branch |= conv_norm(f"conv{number}", Conv(site.w_out, site.w_out, 3))
        return Path(branch), *projection(site, self.residual)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return ConvBlockModule(self, site, act)


class ConvBlockModule(Block):
    """conv-bn with an activation between, add, act."""

    kind: ConvBlock

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.kind.residual

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch, before they are added."""
        branch = self.conv1.bn(self.conv1.conv(x))
        for number in range(2, self.kind.convs + 1):
            layer = getattr(self, f"conv{number}")
            branch = layer.bn(layer.conv(self.act(branch)))
        return (projected(self, x, True) if self.residual else None), branch


def conv_norm(name: str, conv: Conv) -> dict[str, Layer]:
    """A convolution and its norm under timm's names."""
    return {f"{name}.conv": conv, f"{name}.bn": Norm(conv.w_out)}


def projection(site: Site, projects: bool) -> tuple[Path, ...]:
    """The layers of the shortcut: a strided 1x1 convolution and norm where the shape changes, else none."""
    if projects and site.changes:
        return (Path(conv_norm("downsample", Conv(site.w_in, site.w_out, 1, site.stride))),)
    return ()


def projected(block: Block, x: Tensor, projects: bool) -> Tensor | None:
    """The shortcut's output; None where the shape changes and nothing projects."""
    if not block.site.changes:
        return x
    return block.downsample.bn(block.downsample.conv(x)) if projects else None


class Line(NamedTuple):
    """Stage widths and depths on a quantised line; ``levels`` counts the widths from first to last level."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    levels: int

    @property
    def has_gap(self) -> bool:
        """Whether a level between the first and the last has no block, or two levels have one width."""
        return len(self.widths) != self.levels


@lru_cache(maxsize=1 << 12)
def quantised_line(depth: int, w0: float, wa: float, wm: float, quantum: int = QUANTUM) -> Line:
    """Equations 2 to 4: u_j = w0 + wa j is rounded to w0 wm^s with whole s, then to multiples of ``quantum``.

    Raises SpecError unless depth >= 1, w0 > 0, wa >= 0 and wm > 1. Ties are rounded to even.
    """
    if depth < 1 or w0 <= 0 or wa < 0 or wm <= 1:
        raise SpecError(f"regnet: needs depth >= 1, w0 > 0, wa >= 0 and wm > 1, not {depth}, {w0:g}, {wa:g}, {wm:g}")
    scale = 1.0 / math.log(wm)
    depths: dict[int, int] = {}
    for j in range(depth):
        level = round(math.log((w0 + wa * j) / w0) * scale)
        depths[level] = depths.get(level, 0) + 1
    stages: dict[int, int] = {}
    for level, blocks in depths.items():
        width = max(1, round(w0 * wm**level / quantum)) * quantum
        stages[width] = stages.get(width, 0) + blocks
    return Line(tuple(stages), tuple(stages.values()), level + 1)


def fit_groups(width: int, group_width: int, bottle_ratio: float = 1.0, rounding: Rounding = "even") -> tuple[int, int]:
    """The nearest width whose inner width holds whole groups, and the group width (at most the inner width).

    ``bottle_ratio`` is inner over outer width, 1/b of the paper. ``torchvision`` rounds half up and never loses
    more than a tenth. Raises SpecError for a ratio above 1 that is not whole, and where no width fits.
    """
    if bottle_ratio <= 0 or (bottle_ratio > 1 and bottle_ratio % 1) or min(width, group_width) < 1:
        raise SpecError(
            f"regnet: width {width}, group width {group_width} and bottle ratio {bottle_ratio:g} must be positive, "
            "a ratio above 1 whole"
        )
    inner = max(1, int(width * bottle_ratio))
    group_width = min(group_width, inner)
    unit = math.lcm(group_width, int(bottle_ratio)) if bottle_ratio > 1 else group_width
    if rounding == "even":
        fitted = max(unit, round(inner / unit) * unit)
    else:
        fitted = max(unit, int(inner + unit / 2) // unit * unit)
        fitted += unit if fitted < 0.9 * inner else 0
    width = int(fitted / bottle_ratio)
    if round(width * bottle_ratio) % group_width:
        raise SpecError(f"regnet: groups of {group_width} do not fit a bottle ratio of {bottle_ratio:g}")
    return width, group_width


BlockOf = Callable[[int, int, float], BlockKind]
BLOCKS: Mapping[str, BlockOf] = {
    "x": lambda inner, groups, se: XBlock(inner, groups, se),
    "linear": lambda inner, groups, se: XBlock(inner, groups, se, linear=True),
    "r": lambda inner, groups, se: XBlock(inner, 1, se),
    "v": lambda inner, groups, se: ConvBlock(1),
    "vr": lambda inner, groups, se: ConvBlock(1, residual=True),
    "vanilla": lambda inner, groups, se: ConvBlock(2),
    "basic": lambda inner, groups, se: ConvBlock(2, residual=True),
}
STEMS: Mapping[str, Callable[[int], Stem]] = {
    "simple": lambda width: Stem(width, 3, 2),
    "res_stem_in": lambda width: Stem(width, 7, 2, pool=True),
    "res_stem_cifar": lambda width: Stem(width, 3, 1),
}


class StageRow(NamedTuple):
    """One stage of AnyNetX: depth, width, bottle ratio, group width and stride."""

    depth: int
    width: int
    bottle_ratio: float = 1.0
    group_width: int = 1
    stride: int = 2


def anynet_x(rows: Sequence[StageRow], *, block: str = "x", se: float = 0.0, rounding: Rounding = "even") -> AnyNet:
    """The AnyNet of stage rows with the simple stem of width 32; widths are made to fit their groups.

    ``block`` is a key of ``BLOCKS``: the paper's x (y with ``se`` = 0.25), r, v and vr, and pycls's others.
    """
    if block not in BLOCKS:
        raise SpecError(unknown("regnet block", block, BLOCKS))
    stages = []
    for row in rows:
        width, group_width = fit_groups(row.width, row.group_width, row.bottle_ratio, rounding)
        inner = round(width * row.bottle_ratio)
        stages.append(Stage(BLOCKS[block](inner, inner // group_width, se), row.depth, width, row.stride))
    return AnyNet(STEMS["simple"](32), tuple(stages), fc_std=0.01, names="regnet")


def regnet(
    depth: int,
    w0: int,
    wa: float,
    wm: float,
    group_width: int,
    bottle_ratio: float = 1.0,
    se: float = 0.0,
    rounding: Rounding = "even",
) -> AnyNet:
    """A RegNet by its six parameters (section 3.3), every stage of stride 2; ``se`` = 0.25 makes it a Y.

    Raises SpecError for parameters out of range; ``w0`` must be a multiple of 8.
    """
    if w0 % QUANTUM:
        raise SpecError(f"regnet: w0 must be a multiple of {QUANTUM}, not {w0}")
    line = quantised_line(depth, w0, wa, wm)
    rows = [StageRow(d, w, bottle_ratio, group_width) for d, w in zip(line.depths, line.widths, strict=True)]
    return anynet_x(rows, se=se, rounding=rounding)


def regnet_cifar(
    depth: int, w0: int, wa: float, wm: float, group_width: int, se: float = 0.0, classes: int = 10
) -> AnyNet:
    """A RegNet for 32x32 images: a 3x3 stem of stride 1 and width 16."""
    spec = regnet(depth, w0, wa, wm, group_width, se=se)
    return spec.replace(stem=STEMS["res_stem_cifar"](16), classes=classes, size=(32, 32))
