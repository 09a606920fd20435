"""ResNet (He et al. 2016, arXiv 1512.03385): the baseline the other families change one thing in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.models.anynet import AnyNet, Block, Site, Stage, Stem
from sartor.models.layers import AvgPool, Conv, Layer, Norm, Path

Shortcut = Literal["A", "B", "C", "D", "none"]


@spec_kind
@dataclass(frozen=True, slots=True)
class Basic:
    """Two 3x3 convolutions. ``shortcut``: see ``shortcut_path``."""

    kind: ClassVar[str] = "basic"
    shortcut: Shortcut = "B"

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch, and the projection where there is one."""
        branch: dict[str, Layer] = {
            "conv1": Conv(site.w_in, site.w_out, 3, site.stride),
            "bn1": Norm(site.w_out),
            "conv2": Conv(site.w_out, site.w_out, 3),
            "bn2": Norm(site.w_out),
        }
        return Path(branch), *shortcut_path(self.shortcut, site)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return BasicBlock(self, site, act)


class BasicBlock(Block):
    """conv-bn-act-conv-bn, add, act."""

    kind: Basic

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.kind.shortcut != "none"

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch."""
        branch = self.act(self.bn1(self.conv1(x)))
        return shortcut_of(self, self.kind.shortcut, x), self.bn2(self.conv2(branch))


def shortcut_path(kind: Shortcut, site: Site) -> tuple[Path, ...]:
    """The layers of a shortcut.

    A: subsample and append zero channels (or leave out the last); B: 1x1 convolution and norm where the shape
    changes, else identity; C: 1x1 convolution and norm everywhere; D: as B, the stride by averaging before the
    convolution (He et al. 2019, arXiv 1812.01187, figure 2c); none: no shortcut at all.
    """
    if kind == "D" and site.changes:
        layers: dict[str, Layer] = {}
        if site.stride > 1:
            layers["downsample.0"] = AvgPool(site.stride, site.stride, ceil=True)
        layers["downsample.1"] = Conv(site.w_in, site.w_out, 1)
        layers["downsample.2"] = Norm(site.w_out)
        return (Path(layers),)
    if kind == "C" or (kind == "B" and site.changes):
        return (Path({"downsample.0": Conv(site.w_in, site.w_out, 1, site.stride), "downsample.1": Norm(site.w_out)}),)
    return ()


def shortcut_of(block: Block, kind: Shortcut, x: Tensor) -> Tensor | None:
    """What the shortcut gives of the block's input."""
    if kind == "none":
        return None
    downsample = getattr(block, "downsample", None)
    if downsample is not None:
        for layer in downsample.children():
            x = layer(x)
        return x
    return padded_identity(x, block.site)


def gate_path(width: int, inner: int) -> Path:
    """The layers of squeeze-and-excitation on ``width`` channels, by way of ``inner``."""
    return Path({"se.fc1": Conv(width, inner, 1, bias=True), "se.fc2": Conv(inner, width, 1, bias=True)}, pooled=True)


def squeezed(block: Block, branch: Tensor) -> Tensor:
    """Squeeze-and-excitation (Hu et al. 2018): channels times a sigmoid of what the block's ``se`` makes of means."""
    gate = block.act(block.se.fc1(branch.mean((2, 3), keepdim=True)))
    return branch * block.se.fc2(gate).sigmoid()  # type: ignore[no-any-return]


def padded_identity(x: Tensor, site: Site) -> Tensor:
    """The identity; where the shape changes, every ``stride``-th pixel with zero channels appended (option A).

    Where the block narrows, the last channels are left out.
    """
    if not site.changes:
        return x
    x = x[:, :, :: site.stride, :: site.stride] if site.stride > 1 else x
    return F.pad(x, (0, 0, 0, 0, 0, site.w_out - site.w_in))


@spec_kind
@dataclass(frozen=True, slots=True)
class Bottleneck:
    """1x1 to ``inner`` channels, 3x3 in ``groups`` groups, 1x1 out; the stride is on the 3x3.

    ``se`` > 0 gates the output by squeeze-and-excitation with ``se`` times its width (Hu et al. 2018,
    arXiv 1709.01507).
    """

    kind: ClassVar[str] = "bottleneck"
    inner: int
    groups: int = 1
    shortcut: Shortcut = "B"
    se: float = 0.0

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch, and the projection where there is one."""
        branch: dict[str, Layer] = {
            "conv1": Conv(site.w_in, self.inner, 1),
            "bn1": Norm(self.inner),
            "conv2": Conv(self.inner, self.inner, 3, site.stride, self.groups),
            "bn2": Norm(self.inner),
            "conv3": Conv(self.inner, site.w_out, 1),
            "bn3": Norm(site.w_out),
        }
        paths = Path(branch), *shortcut_path(self.shortcut, site)
        return (*paths, gate_path(site.w_out, max(1, int(site.w_out * self.se)))) if self.se else paths

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return BottleneckBlock(self, site, act)


class BottleneckBlock(Block):
    """conv-bn-act three times, the last act after the gate, if there is one, and the addition."""

    kind: Bottleneck

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
        branch = self.act(self.bn1(self.conv1(x)))
        branch = self.bn3(self.conv3(self.act(self.bn2(self.conv2(branch)))))
        if self.kind.se:
            branch = squeezed(self, branch)
        return shortcut_of(self, self.kind.shortcut, x), branch


def resnet(depths: Sequence[int], bottleneck: bool, shortcut: Shortcut = "B") -> AnyNet:
    """The ImageNet form: 7x7 stem of stride 2 with max-pooling, four stages of widths 64 to 512 (times 4)."""
    stages = []
    for number, depth in enumerate(depths):
        base = 64 * 2**number
        block = Bottleneck(base, shortcut=shortcut) if bottleneck else Basic(shortcut)
        stages.append(Stage(block, depth, 4 * base if bottleneck else base, 1 if number == 0 else 2))
    return AnyNet(Stem(64, 7, 2, pool=True), tuple(stages))


def resnet_cifar(depth: int, classes: int = 10, shortcut: Shortcut = "A") -> AnyNet:
    """The CIFAR form of 6n+2 layers: 3x3 stem, three stages of n basic blocks, widths 16, 32 and 64 (section 4.2).

    Raises SpecError for another depth.
    """
    count, rest = divmod(depth - 2, 6)
    if count < 1 or rest:
        raise SpecError(f"resnet_cifar: depth is 6n+2, not {depth}")
    stages = tuple(Stage(Basic(shortcut), count, 16 * 2**s, 1 if s == 0 else 2) for s in range(3))
    return AnyNet(Stem(16), stages, classes=classes, size=(32, 32))
