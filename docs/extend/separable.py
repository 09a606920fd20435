"""Residual blocks of separable convolutions: a depthwise 3x3, then a 1x1."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sartor.core.spec import spec_kind
from sartor.models.anynet import AnyNet, Block, Site, Stage, Stem
from sartor.models.layers import Conv, Norm, Path
from sartor.models.vision.resnet import shortcut_of, shortcut_path


@spec_kind
@dataclass(frozen=True, slots=True)
class Separable:
    """A depthwise convolution of any kernel, then a 1x1 convolution, each normalised."""

    kind: ClassVar[str] = "separable"
    kernel: int = 3

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch, and a projection where the shape changes."""
        branch = {
            "conv1": Conv(site.w_in, site.w_in, self.kernel, site.stride, groups=site.w_in),
            "bn1": Norm(site.w_in),
            "conv2": Conv(site.w_in, site.w_out, 1),
            "bn2": Norm(site.w_out),
        }
        return Path(branch), *shortcut_path("B", site)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return SeparableBlock(self, site, act)


class SeparableBlock(Block):
    """conv-bn-act-conv-bn, add, act."""

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch."""
        branch = self.act(self.bn1(self.conv1(x)))
        return shortcut_of(self, "B", x), self.bn2(self.conv2(branch))


def separable_cifar(depth: int, width: int, classes: int = 10) -> AnyNet:
    """Three stages of ``depth`` blocks, of widths ``width``, twice and four times that."""
    stages = tuple(Stage(Separable(), depth, width * 2**s, 1 if s == 0 else 2) for s in range(3))
    return AnyNet(Stem(width), stages, classes=classes, size=(32, 32))
