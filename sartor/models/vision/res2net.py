"""Res2Net (Gao et al. 2021, arXiv 1904.01169): bottlenecks whose 3x3 is a chain of narrow ones over channel splits.

Splits are ordered as in the official code, which convolves all but the last; the paper's equation, which leaves out
the first, is the same function with channels in another order. State-dict keys are timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.models.anynet import AnyNet, Block, Site, Stage, Stem
from sartor.models.layers import AvgPool, Conv, Layer, Norm, Path
from sartor.models.vision.resnet import Shortcut, gate_path, shortcut_of, shortcut_path, squeezed


@spec_kind
@dataclass(frozen=True, slots=True)
class MultiScale:
    """1x1 to ``scale`` splits of ``inner`` channels, 3x3 on all but the last split, 1x1 out (section 3.1).

    Each 3x3 also takes what the one before it gave. Where the shape changes it does not: every 3x3 has the stride and
    its split alone, and the last split is averaged over 3x3 pixels, or (``stage_last`` conv) convolved as well.
    Convolutions of splits have ``groups`` groups. One split is a plain bottleneck. ``se`` > 0 gates the branch by
    squeeze-and-excitation with ``se`` times the output width.
    """

    kind: ClassVar[str] = "multi_scale"
    inner: int
    scale: int = 4
    groups: int = 1
    se: float = 0.0
    shortcut: Shortcut = "B"
    stage_last: Literal["pool", "conv"] = "pool"

    def __post_init__(self) -> None:
        if min(self.inner, self.scale, self.groups) < 1 or self.inner % self.groups:
            raise SpecError(
                f"multi_scale: {self.scale} splits of {self.inner} channels in {self.groups} groups: all must be at "
                "least 1, the channels a multiple of the groups"
            )

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch by way of the first split, the other splits, the projection and the gate where there are any."""
        width, wide = self.inner, self.inner * self.scale
        whole = site.changes and self.stage_last == "conv"
        convs = self.scale if whole else max(1, self.scale - 1)
        splits: list[dict[str, Layer]] = [
            {f"convs.{i}": Conv(width, width, 3, site.stride, self.groups), f"bns.{i}": Norm(width)}
            for i in range(convs)
        ]
        paths = [
            Path(
                {
                    "conv1": Conv(site.w_in, wide, 1),
                    "bn1": Norm(wide),
                    **splits[0],
                    "conv3": Conv(wide, site.w_out, 1),
                    "bn3": Norm(site.w_out),
                }
            ),
            *map(Path, splits[1:]),
        ]
        if site.changes and convs < self.scale:
            paths.append(Path({"pool": AvgPool(3, site.stride, 1)}))
        if self.se:
            paths.append(gate_path(site.w_out, max(1, round(self.se * site.w_out))))
        return *paths, *shortcut_path(self.shortcut, site)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return MultiScaleBlock(self, site, act)


class MultiScaleBlock(Block):
    """conv-bn-act, the splits, conv-bn, the gate if there is one, add, act."""

    kind: MultiScale

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.kind.shortcut != "none"

    @property
    def foldable(self) -> bool:
        """Not with squeeze-and-excitation, which reads what the last layer gives."""
        return not self.kind.se

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch."""
        branch = self.bn3(self.conv3(torch.cat(self.splits(x), 1)))
        if self.kind.se:
            branch = squeezed(self, branch)
        return shortcut_of(self, self.kind.shortcut, x), branch

    def splits(self, x: Tensor) -> list[Tensor]:
        """What the ``scale`` splits of the block's input give, each (batch, inner, height, width)."""
        scale, chained = self.kind.scale, not self.site.changes
        parts, ends = self.act(self.bn1(self.conv1(x))).chunk(scale, 1), list[Tensor]()
        for i, (conv, norm) in enumerate(zip(self.convs.children(), self.bns.children(), strict=True)):
            part = ends[-1] + parts[i] if chained and i else parts[i]
            ends.append(self.act(norm(conv(part))))
        if len(ends) < scale:
            ends.append(parts[scale - 1] if chained else self.pool(parts[scale - 1]))
        return ends


def split_width(base: int, width: int, groups: int = 1) -> int:
    """Channels of a split in the stage whose ResNet base is ``base``: floor(base * width / 64) in each group."""
    return base * width // 64 * groups


def res2net(
    depths: Sequence[int], width: int, scale: int, groups: int = 1, se: float = 0.0, deep_stem: bool = False
) -> AnyNet:
    """The ImageNet form: ResNet's frame, ``scale`` splits of ``width`` channels at base 64.

    ``deep_stem`` is v1b, timm's d: three 3x3 convolutions for the 7x7, averaging in strided shortcuts.
    """
    shortcut: Shortcut = "D" if deep_stem else "B"
    stem = Stem(64, 3, 2, pool=True, before=(32, 32)) if deep_stem else Stem(64, 7, 2, pool=True)
    return AnyNet(stem, _stages(depths, 64, MultiScale(width * groups, scale, groups, se, shortcut)))


def res2net_cifar(
    depth: int,
    width: int,
    scale: int,
    groups: int = 1,
    se: float = 0.0,
    base: int = 64,
    stage_last: Literal["pool", "conv"] = "pool",
    classes: int = 10,
) -> AnyNet:
    """The CIFAR form of 9n+2 layers in ResNeXt's frame: a 3x3 stem of width ``base``, three stages.

    These end 4, 8 and 16 times as wide. The paper's table 4 has the counts of ten classes with ``stage_last`` conv.
    Raises SpecError for another depth.
    """
    count, rest = divmod(depth - 2, 9)
    if count < 1 or rest:
        raise SpecError(f"res2net_cifar: depth is 9n+2, not {depth}")
    stages = _stages([count] * 3, base, MultiScale(width * groups, scale, groups, se, stage_last=stage_last))
    return AnyNet(Stem(base), stages, classes=classes, size=(32, 32))


def _stages(depths: Sequence[int], base: int, block: MultiScale) -> tuple[Stage, ...]:
    """Stages of doubling width; ``block`` has the width of a split at base 64."""
    stages = []
    for number, depth in enumerate(depths):
        here = base * 2**number
        inner = split_width(here, block.inner // block.groups, block.groups)
        stages.append(Stage(replace(block, inner=inner), depth, 4 * here, 1 if number == 0 else 2))
    return tuple(stages)
