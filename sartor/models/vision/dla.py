"""DLA (Yu et al. 2018, arXiv 1707.06484): trees of blocks, joined by roots; here as the frame of Res2Net-DLA.

State-dict keys are timm's. Projections that the first implementations have and never use are not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.anynet import Block, BlockKind, Site
from sartor.models.checkpointing import checkpointed
from sartor.models.image_spec import ImageSpec
from sartor.models.init import Fan
from sartor.models.layers import Conv, MaxPool, Norm, Path, activation, count_paths, place, place_paths
from sartor.models.stepwise import Stepwise
from sartor.models.vision.res2net import MultiScale
from sartor.models.vision.resnet import Bottleneck

BASE, HEAD = "base_layer", "fc"
PLAIN = 2  # levels of one plain convolution each, before the trees


class Shape(NamedTuple):
    """Where a tree stands: its depth, widths and stride, and what else its last root takes in.

    ``keeps_input`` hands the (pooled) input to that root; ``carried`` counts channels that are handed in from outside.
    """

    depth: int
    w_in: int
    w_out: int
    stride: int = 1
    keeps_input: bool = False
    carried: int = 0

    @property
    def pools(self) -> bool:
        """Whether the input is pooled on its way round the blocks, to be added or kept."""
        return self.stride > 1 and (self.depth == 1 or self.keeps_input)

    @property
    def extra(self) -> int:
        """Channels that the last root takes beside those of its two children."""
        return self.carried + (self.w_in if self.keeps_input else 0)

    @property
    def halves(self) -> tuple[Shape, Shape]:
        """The two trees that a deeper tree consists of; the second has its root."""
        first = Shape(self.depth - 1, self.w_in, self.w_out, self.stride)
        return first, Shape(self.depth - 1, self.w_out, self.w_out, carried=self.extra + self.w_out)

    @property
    def sites(self) -> tuple[Site, Site]:
        """Where the two blocks of a tree of depth 1 stand."""
        return Site(self.w_in, self.w_out, self.stride), Site(self.w_out, self.w_out, 1)

    def join_path(self) -> Path:
        """The root of a tree of depth 1."""
        return Path({"root.conv": Conv(2 * self.w_out + self.extra, self.w_out, 1), "root.bn": Norm(self.w_out)})

    def project_path(self) -> Path:
        """What fits the pooled input of a tree of depth 1 to its first block's output; no layers where it does."""
        if self.w_in == self.w_out:
            return Path({})
        return Path({"project.0": Conv(self.w_in, self.w_out, 1), "project.1": Norm(self.w_out)})

    def pool_path(self) -> Path:
        """The pooling of what goes round the blocks."""
        return Path({"downsample": MaxPool(self.w_in, 2, 0, ceil=True)} if self.pools else {})

    def add_to(self, block: BlockKind, tally: Tally, size: Size) -> Size:
        """Add a tree's cost on maps of ``size``; return the size it gives."""
        count_paths((self.pool_path(),), tally, size)
        if self.depth > 1:
            first, second = self.halves
            return second.add_to(block, tally, first.add_to(block, tally, size))
        first_site, second_site = self.sites
        here = count_paths(block.paths(first_site), tally, size)
        count_paths((self.project_path(),), tally, here)
        count_paths(block.paths(second_site), tally, here)
        return count_paths((self.join_path(),), tally, here)


class Tree(nn.Module):
    """A tree of blocks: two blocks and a root (depth 1), or two trees."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, block: BlockKind, shape: Shape, act: str) -> None:
        super().__init__()
        self.shape = shape
        place_paths(self, (shape.pool_path(),))
        children: list[nn.Module] = [Tree(block, half, act) for half in shape.halves] if shape.depth > 1 else []
        if not children:
            children = [block.build(site, act) for site in shape.sites]
            place_paths(self, (shape.project_path(), shape.join_path()))
            self.act = activation(act)
        for number, child in enumerate(children, 1):
            self.add_module(f"tree{number}", child)

    def forward(self, x: Tensor, carried: tuple[Tensor, ...] = ()) -> Tensor:
        """The tree's output for its input; the last root takes what is ``carried`` too."""
        around = self.downsample(x) if self.shape.pools else x
        if self.shape.keeps_input:
            carried = *carried, around
        if self.shape.depth > 1:
            first = self.tree1(x)
            return self.tree2(first, (*carried, first))  # type: ignore[no-any-return]
        first = self._joined(self.tree1, x, self._projected(around))
        second = self._joined(self.tree2, first, first)
        return self.act(self.root.bn(self.root.conv(torch.cat([second, first, *carried], 1))))  # type: ignore[no-any-return]

    def _projected(self, x: Tensor) -> Tensor:
        for layer in self.project.children() if self.shape.w_in != self.shape.w_out else ():
            x = layer(x)
        return x

    @staticmethod
    def _joined(block: Block, x: Tensor, shortcut: Tensor) -> Tensor:
        return block.join(shortcut, block.parts(x)[1])


@spec_kind
@dataclass(frozen=True, slots=True)
class DLA(ImageSpec):
    """A 7x7 convolution, two levels of one 3x3 each, one tree per block of ``blocks``, pooling, classifier.

    ``widths`` are those of all levels from the 7x7's, which the first plain level keeps; ``depths`` those of the
    trees. Blocks have no shortcut of their own: trees hand it in. ``size`` is the height and width it is meant for.
    """

    kind: ClassVar[str] = "dla"
    names: ClassVar[str] = "dla"  # under which maps of checkpoints' keys are found
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    blocks: tuple[BlockKind, ...]
    classes: int = 1000
    channels: int = 3
    size: tuple[int, int] = (224, 224)
    act: Literal["relu", "silu", "gelu"] = "relu"
    dropout: float = 0.0
    init: Fan = "fan_out"
    fc_std: float = 0.0

    def __post_init__(self) -> None:
        if not self.depths or len({len(self.depths), len(self.blocks), len(self.widths) - PLAIN}) > 1:
            raise SpecError("dla: needs a depth and a block for each tree, and two widths more than trees")
        if min(*self.widths, *self.depths, self.classes, self.channels, *self.size) < 1:
            raise SpecError("dla: needs widths, depths, classes, channels and size of at least 1")

    def plain_path(self) -> Path:
        """The layers before the trees."""
        base, second = self.widths[:PLAIN]
        return Path(
            {
                f"{BASE}.0": Conv(self.channels, base, 7),
                f"{BASE}.1": Norm(base),
                "level0.0": Conv(base, base, 3),
                "level0.1": Norm(base),
                "level1.0": Conv(base, second, 3, 2),
                "level1.1": Norm(second),
            }
        )

    def trees(self) -> tuple[Shape, ...]:
        """The trees in order; all but the first keep their input for their root."""
        return tuple(
            Shape(depth, self.widths[i + 1], self.widths[i + 2], 2, i > 0) for i, depth in enumerate(self.depths)
        )

    def head_path(self) -> Path:
        """The classifier, a 1x1 convolution."""
        return Path({HEAD: Conv(self.widths[-1], self.classes, 1, bias=True)}, pooled=True)

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width); any size leaves a pixel."""
        total = Tally(convention)
        here = count_paths((self.plain_path(),), total, size or self.size)
        for block, shape in zip(self.blocks, self.trees(), strict=True):
            here = shape.add_to(block, total, here)
        count_paths((self.head_path(),), total, here)
        return total

    def build(self) -> DLABackbone:
        """The module, its weights not written yet."""
        return DLABackbone(self)


class DLABackbone(Stepwise):
    """The network of a ``DLA`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem``, ``level0`` … one per level, and ``pool``. There are no taps.
    """

    def __init__(self, spec: DLA) -> None:
        super().__init__()
        self.spec = spec
        self.ends = {f"{BASE}.0": "input", HEAD: "readout"}
        place_paths(self, (spec.plain_path(),))
        for number, (block, shape) in enumerate(zip(spec.blocks, spec.trees(), strict=True), PLAIN):
            place(self, f"level{number}", Tree(block, shape, spec.act))
        place_paths(self, (spec.head_path(),))
        self.act = activation(spec.act)
        self.branches = [path for path, module in self.named_modules() if isinstance(module, Block)]
        ports = [Port("x", "stream", width, "NCHW", 2**number) for number, width in enumerate(spec.widths)]
        self.seams = (
            Seam("stem", 0, (ports[0],)),
            *(Seam(f"level{number}", number, (port,)) for number, port in enumerate(ports)),
            Seam("pool", len(ports) - 1, (Port("x", "stream", spec.widths[-1], "ND", 0),)),
        )
        self.steps = (*(seam.name for seam in self.seams), "head")

    def advance(self, step: str, x: Tensor) -> Tensor:
        """The stem, a level, the pooling or the classifier."""
        if step == "pool":
            return F.adaptive_avg_pool2d(x, 1).flatten(1)
        if step == "head":
            if self.spec.dropout and self.training:
                x = F.dropout(x, self.spec.dropout)
            return self.get_submodule(HEAD)(x[:, :, None, None]).flatten(1)  # type: ignore[no-any-return]
        layers = self.get_submodule(BASE if step == "stem" else step)
        if isinstance(layers, Tree):
            return checkpointed(layers, x) if self.checkpointing and self.training else layers(x)
        return self.act(layers.get_submodule("1")(layers.get_submodule("0")(x)))  # type: ignore[no-any-return]


def dla(widths: Sequence[int], depths: Sequence[int], width: int = 64, scale: int = 0, groups: int = 1) -> DLA:
    """A DLA whose blocks are half as wide inside as outside at ``width`` 64 and one group.

    Inner widths are floor(w * width / 64) in each group, halved. ``scale`` > 0 makes blocks Res2Net's, of so many
    splits of that width.
    """
    inner = [w * width // 64 * groups // 2 for w in widths[PLAIN:]]
    if scale:
        blocks: tuple[BlockKind, ...] = tuple(MultiScale(w, scale, groups, shortcut="none") for w in inner)
    else:
        blocks = tuple(Bottleneck(w, groups, "none") for w in inner)
    return DLA(tuple(widths), tuple(depths), blocks)
