"""U-shaped networks of dense blocks for segmentation: FC-HarDNet (Chao et al. 2019, arXiv 1909.00948, section 5.3)
and FC-DenseNet (Jégou et al. 2017, arXiv 1611.09326), which its CamVid forms follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.checkpointing import checkpointed
from sartor.models.image_spec import FRAME, MaskSpec
from sartor.models.init import Fan
from sartor.models.layers import (
    AvgPool,
    Conv,
    Layer,
    MaxPool,
    Norm,
    Path,
    TransposedConv,
    count_paths,
    place_paths,
)
from sartor.models.stepwise import Stepwise
from sartor.models.vision.hardnet import layer_width, links

FINAL = "finalConv"


class Links(NamedTuple):
    """The layers of a dense block: harmonic links, or (``multiplier`` 0) links to all earlier layers and the input.

    Harmonic layers are convolution, norm, ReLU, and the block gives the odd ones and the last; the others are norm,
    ReLU, convolution, and it gives all. ``keeps`` puts the block's input before what it gives.
    """

    layers: int
    growth: int
    multiplier: float
    keeps: bool = False

    def reads(self, layer: int) -> tuple[int, ...]:
        """What a layer from 1 takes, in this order; 0 is the block's input."""
        return links(layer) if self.multiplier else tuple(range(layer))

    def widths(self, w_in: int) -> tuple[int, ...]:
        """The widths of the input and of every layer."""
        if not self.multiplier:
            return w_in, *[self.growth] * self.layers
        return w_in, *(layer_width(layer, self.growth, self.multiplier) for layer in range(1, self.layers + 1))

    @property
    def gives(self) -> tuple[int, ...]:
        """The layers whose outputs the block gives, in this order."""
        last = self.layers
        given = tuple(n for n in range(1, last + 1) if n % 2 or n == last or not self.multiplier)
        return (0, *given) if self.keeps else given

    def w_out(self, w_in: int) -> int:
        """The width of what the block gives."""
        widths = self.widths(w_in)
        return sum(widths[i] for i in self.gives)

    def path(self, name: str, w_in: int) -> dict[str, Layer]:
        """The layers under their state-dict names."""
        widths, path = self.widths(w_in), dict[str, Layer]()
        for layer in range(1, self.layers + 1):
            taken = sum(widths[i] for i in self.reads(layer))
            path |= unit(f"{name}.layers.{layer - 1}", Conv(taken, widths[layer], 3), not self.multiplier)
        return path


def unit(name: str, conv: Conv, first: bool) -> dict[str, Layer]:
    """A convolution and its norm, which (``first``) comes before it and then leaves the convolution its bias."""
    if first:
        return {f"{name}.norm": Norm(conv.w_in), f"{name}.conv": conv._replace(bias=True)}
    return {f"{name}.conv": conv, f"{name}.norm": Norm(conv.w_out)}


class Level(NamedTuple):
    """One block on the way down (``level`` from 0): its input and output width, and what changes maps before it."""

    level: int
    w_before: int
    w_in: int
    w_out: int


@spec_kind
@dataclass(frozen=True, slots=True)
class DenseUNet(MaskSpec):
    """Dense blocks on the way down, joined to the same again on the way up. ``stem`` has (width, stride) of 3x3's.

    ``layers`` and ``growths`` are those of the blocks on the way down, the last one's at the bottom; ``multiplier`` is
    that of harmonic blocks (0: plain dense blocks). After every block on the way down stands a 1x1 convolution.

    With ``widths`` (of these convolutions) maps are halved by means, the bottom has its convolution too, and going up
    they are enlarged in a line between corners, joined with the block's output of that size, halved in width by a 1x1
    convolution: FC-HarDNet-70. Without, the convolutions keep the width,
    blocks on the way down and the last one keep their input, maps are halved by maxima and enlarged by transposed
    convolutions: FC-DenseNet. ``dropout`` follows convolutions of plain dense blocks and 1x1's.
    """

    kind: ClassVar[str] = "dense-unet"
    stem: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    growths: tuple[int, ...]
    multiplier: float = 1.7
    widths: tuple[int, ...] = ()
    classes: int = 19
    channels: int = 3
    size: tuple[int, int] = (352, 480)
    dropout: float = 0.0
    init: Fan = "fan_out"
    fc_std: float = 0.0

    def __post_init__(self) -> None:
        if not self.stem or len(self.layers) < 2 or len(self.layers) != len(self.growths):
            raise SpecError("dense-unet: needs a stem, and layers and a growth for each of two blocks or more")
        if self.widths and len(self.widths) != len(self.layers):
            raise SpecError(f"dense-unet: {len(self.widths)} widths for {len(self.layers)} blocks")
        values = (*sum(self.stem, ()), *self.layers, *self.growths, *self.widths, self.classes, self.channels)
        if min(*values, *self.size) < 1:
            raise SpecError("dense-unet: widths, strides, layers, growths, classes and size are at least 1")
        if self.multiplier and (self.multiplier < 1.0 or any(n & (n - 1) for n in self.layers)):
            raise SpecError("dense-unet: harmonic blocks have a multiplier from 1 and a power of two of layers")

    @property
    def stride(self) -> int:
        """Of the stem: where it is more than 1, the logits are enlarged to the image."""
        return math.prod(stride for _, stride in self.stem)

    @property
    def bottom(self) -> int:
        """How many blocks there are above the lowest."""
        return len(self.layers) - 1

    def links(self, level: int, up: bool = False) -> Links:
        """The block of a level on the way down, or up."""
        keeps = not self.widths and (level < self.bottom if not up else level == 0)
        return Links(self.layers[level], self.growths[level], self.multiplier, keeps)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The blocks on the way down."""
        w, found = self.stem[-1][0], list[Level]()
        for level in range(len(self.layers)):
            before = found[-1].w_out if found else w
            w_in = w if level == 0 else self.widths[level - 1] if self.widths else before
            found.append(Level(level, before, w_in, self.links(level).w_out(w_in)))
        return tuple(found)

    def ups(self) -> dict[int, tuple[int, int, int, int]]:
        """By level on the way up: what is enlarged, what that and the other side join to, block input and output."""
        w = self.widths[-1] if self.widths else self.levels[-1].w_out
        found = {}
        for level in reversed(range(self.bottom)):
            joined = w + self.levels[level].w_out
            w_in = joined // 2 if self.widths else joined
            w_out = self.links(level, up=True).w_out(w_in)
            found[level], w = (w, joined, w_in, w_out), w_out
        return found

    @property
    def first(self) -> bool:
        """Whether norms come before convolutions."""
        return not self.multiplier

    def stem_path(self) -> Path:
        """The convolutions before the first block."""
        w_in, layers = self.channels, dict[str, Layer]()
        for number, (width, stride) in enumerate(self.stem):
            conv = Conv(w_in, width, 3, stride)
            name = f"base.{number}"
            layers |= {f"{name}.conv": conv._replace(bias=True)} if self.first else unit(name, conv, False)
            w_in = width
        return Path(layers)

    def _place(self, level: int) -> int:
        """The number of a level's block in the row ``base``; its 1x1 convolution and its pooling come after it."""
        return len(self.stem) + 3 * level

    def down_path(self, level: int) -> Path:
        """What changes maps on the way to a level, its block, and the bottom's own 1x1 convolution."""
        here, layers = self.levels[level], dict[str, Layer]()
        if level:
            layers |= unit(f"base.{self._place(level) - 2}", Conv(here.w_before, here.w_in, 1), self.first)
            layers["pool"] = AvgPool(2, 2) if self.widths else MaxPool(here.w_in, 2, 0)
        layers |= self.links(level).path(f"base.{self._place(level)}", here.w_in)
        if self.widths and level == self.bottom:
            layers |= unit(f"base.{self._place(level) + 1}", Conv(here.w_out, self.widths[-1], 1), self.first)
        return Path(layers)

    def up_paths(self, level: int) -> tuple[Path, Path]:
        """What enlarges maps to a level, and what follows on the joined maps."""
        number = self.bottom - 1 - level
        width, joined, w_in, _ = self.ups()[level]
        enlarge: dict[str, Layer] = {} if self.widths else {f"transUpBlocks.{number}": TransposedConv(width, width)}
        narrow = unit(f"conv1x1_up.{number}", Conv(joined, w_in, 1), self.first) if self.widths else {}
        block = self.links(level, up=True).path(f"denseBlocksUp.{number}", w_in)
        return Path(enlarge), Path(narrow | block)

    def head_path(self) -> Path:
        """The classifier of every pixel."""
        return Path({FINAL: Conv(self.ups()[0][3], self.classes, 1, bias=True)})

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width); raises SpecError where nothing is left of it."""
        total, sizes = Tally(convention), list[Size]()
        here = count_paths((self.stem_path(),), total, size or self.size)
        for level in range(len(self.layers)):
            here = count_paths((self.down_path(level),), total, here)
            sizes.append(here)
        if min(here) < 1:
            raise SpecError(f"dense-unet: images of {size or self.size} are too small for so many levels")
        for level in reversed(range(self.bottom)):
            enlarge, rest = self.up_paths(level)
            count_paths((enlarge,), total, sizes[level + 1])
            count_paths((rest,), total, sizes[level])
        count_paths((self.head_path(),), total, sizes[0])
        return total

    def build(self) -> DenseUNetBackbone:
        """The module, its weights not written yet."""
        return DenseUNetBackbone(self)


class DenseUNetBackbone(Stepwise):
    """The network of a ``DenseUNet``: images (batch, channels, height, width), logits (batch, classes, height, width).

    Seams: ``stem``, ``stage1`` … the blocks on the way down, the last at the bottom, ``up4`` … ``up1`` those on the way
    up. What crosses is a mapping: ``x``, ``skip1`` … (outputs of earlier blocks that are still to be joined) and
    ``frame``, of no channels, which has the image's size. Weights have the names of the released FC-HarDNet-70.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, spec: DenseUNet) -> None:
        super().__init__()
        self.spec = spec
        levels = range(len(spec.layers))
        downs, ups = (
            [spec.down_path(level) for level in levels],
            [spec.up_paths(n) for n in reversed(range(spec.bottom))],
        )
        places = Path({name: layer for path in downs for name, layer in path.layers.items() if name != "pool"})
        place_paths(self, (spec.stem_path(), places, *(path for pair in ups for path in pair), spec.head_path()))
        self.pool = nn.AvgPool2d(2, 2) if spec.widths else nn.MaxPool2d(2, 2)
        self.ends = {"base.0.conv": "input", FINAL: "readout"}
        self._down = {f"stage{level + 1}": level for level in levels}
        self._up = {f"up{level + 1}": level for level in reversed(range(spec.bottom))}
        self.steps = ("stem", *self._down, *self._up, "head")
        self.seams = tuple(_seams(spec))

    def advance(self, step: str, x: Any) -> Any:
        """One step, from an image or what crosses a seam to what crosses the next, or to the logits."""
        if step == "stem":
            return {"x": self._stem(x), "frame": x[:, :0]}
        if step == "head":
            logits: Tensor = self.get_submodule(FINAL)(x["x"])
            return _enlarged(logits, x["frame"]) if self.spec.stride > 1 else logits
        if step in self._down:
            return self._descended(self._down[step], x)
        return self._climbed(self._up[step], x)

    def _stem(self, x: Tensor) -> Tensor:
        for number in range(len(self.spec.stem)):
            conv: Any = self.get_submodule(f"base.{number}")
            x = conv.conv(x) if self.spec.first else F.relu(conv.norm(conv.conv(x)))
        return x

    def _descended(self, level: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        spec, kept = self.spec, dict(state)
        x, place = kept.pop("x"), len(spec.stem) + 3 * level
        if level:
            kept[f"skip{level}"] = x
            x = self.pool(self._unit(f"base.{place - 2}", x))
        x = self._dense(f"base.{place}", spec.links(level), x)
        if spec.widths and level == spec.bottom:
            x = self._unit(f"base.{place + 1}", x)
        return {"x": x, **kept}

    def _climbed(self, level: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        spec, kept = self.spec, dict(state)
        x, skip, number = kept.pop("x"), kept.pop(f"skip{level + 1}"), self.spec.bottom - 1 - level
        if spec.widths:
            x = self._unit(f"conv1x1_up.{number}", torch.cat([_enlarged(x, skip), skip], 1))
        else:
            x = self.get_submodule(f"transUpBlocks.{number}")(x)[..., : skip.shape[2], : skip.shape[3]]
            x = torch.cat([x, skip], 1)
        return {"x": self._dense(f"denseBlocksUp.{number}", spec.links(level, up=True), x), **kept}

    def _unit(self, name: str, x: Tensor) -> Tensor:
        module: Any = self.get_submodule(name)
        if not self.spec.first:
            return F.relu(module.norm(module.conv(x)))
        return F.dropout(module.conv(F.relu(module.norm(x))), self.spec.dropout, self.training)

    def _dense(self, name: str, block: Links, x: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return self._layers(name, block, x)

        if self.checkpointing and self.training:
            return checkpointed(_Block(run, self.get_submodule(name)), x)
        return run(x)

    def _layers(self, name: str, block: Links, x: Tensor) -> Tensor:
        """All layers of a block; outputs that nothing reads any more are let go of."""
        last = {i: n for n in range(1, block.layers + 1) for i in block.reads(n)}
        maps = {0: x}
        for layer in range(1, block.layers + 1):
            given = [maps[i] for i in block.reads(layer)]
            maps[layer] = self._unit(f"{name}.layers.{layer - 1}", torch.cat(given, 1) if len(given) > 1 else given[0])
            for i in [i for i in maps if last.get(i, layer + 1) <= layer and i not in block.gives]:
                del maps[i]
        return torch.cat([maps[i] for i in block.gives], 1)


class _Block(nn.Module):
    """A block as a module of its own, so that its norms are found when it is run twice."""

    def __init__(self, run: Any, layers: nn.Module) -> None:
        super().__init__()
        self.run, self.layers = run, layers

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)  # type: ignore[no-any-return]


def _enlarged(x: Tensor, other: Tensor) -> Tensor:
    """In a line between corners, to the height and width of another."""
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=True)


def _seams(spec: DenseUNet) -> list[Seam]:
    stride = spec.stride
    skips = [Port(f"skip{n.level + 1}", "carry", n.w_out, "NCHW", stride * 2**n.level) for n in spec.levels]
    seams = [Seam("stem", 0, (Port("x", "stream", spec.stem[-1][0], "NCHW", stride), FRAME))]
    for level in spec.levels:
        width = spec.widths[-1] if spec.widths and level.level == spec.bottom else level.w_out
        x = Port("x", "stream", width, "NCHW", stride * 2**level.level)
        seams.append(Seam(f"stage{level.level + 1}", level.level + 1, (x, *skips[: level.level], FRAME)))
    for number, (height, (*_, w_out)) in enumerate(spec.ups().items(), len(spec.layers) + 1):
        x = Port("x", "stream", w_out, "NCHW", stride * 2**height)
        seams.append(Seam(f"up{height + 1}", number, (x, *skips[:height], FRAME)))
    return seams


def fc_hardnet(
    stem: Sequence[Sequence[int]],
    layers: Sequence[int],
    growths: Sequence[int],
    widths: Sequence[int],
    multiplier: float = 1.7,
) -> DenseUNet:
    """The released U-shape, for Cityscapes: 19 classes, images of 1024 x 2048."""
    pairs = tuple((width, stride) for width, stride in stem)
    return DenseUNet(pairs, tuple(layers), tuple(growths), multiplier, tuple(widths), size=(1024, 2048))


def fc_camvid(
    width: int, layers: Sequence[int], growths: Sequence[int], multiplier: float = 0.0, dropout: float = 0.0
) -> DenseUNet:
    """The layout of FC-DenseNet, for CamVid: 11 classes, images of 352 x 480; one growth given is that of all."""
    each = tuple(growths) if len(growths) > 1 else (growths[0],) * len(layers)
    return DenseUNet(((width, 1),), tuple(layers), each, multiplier, classes=11, dropout=dropout)
