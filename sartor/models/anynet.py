"""AnyNet: stem, stages of blocks, head (Radosavovic et al. 2020, section 3.1).

Every convolutional family here is this network with another kind of block. The spec is data; ``AnyNetBackbone``
is the module built from it and ``AnyNet.tally`` its cost, both from the same paths of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError, unknown
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.checkpointing import checkpointed
from sartor.models.image_spec import ImageSpec
from sartor.models.layers import (
    Conv,
    Layer,
    Linear,
    MaxPool,
    Norm,
    Path,
    activation,
    count_paths,
    drop_path,
    place,
    place_paths,
)
from sartor.models.stepwise import Stepwise


class Site(NamedTuple):
    """Where a block stands: its input and output width and its stride.

    ``activated`` says that the stem has normalised and activated the input: true of a network's first block only.
    """

    w_in: int
    w_out: int
    stride: int
    activated: bool = False

    @property
    def changes(self) -> bool:
        """Whether the shape changes, so that an identity shortcut does not fit."""
        return self.w_in != self.w_out or self.stride != 1


class BlockKind(Protocol):
    """A frozen dataclass that says all about a block but its site."""

    kind: ClassVar[str]

    def __hash__(self) -> int: ...

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The layers, the main branch first; each path starts from the block's input size."""

    def build(self, site: Site, act: str) -> Block:
        """The module."""


class Block(nn.Module):
    """A residual block: ``join(shortcut, branch)`` of the two ``parts`` of its input."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, kind: BlockKind, site: Site, act: str) -> None:
        super().__init__()
        self.kind, self.site, self.drop_rate, self.branch_scale = kind, site, 0.0, 1.0
        place_paths(self, kind.paths(site))
        self.act = activation(act)

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut (None in plain blocks) and the output of the residual branch."""
        raise NotImplementedError

    def join(self, shortcut: Tensor | None, branch: Tensor) -> Tensor:
        """Post-activation by default: the activation of the sum. May work in place, on the branch."""
        if shortcut is not None:
            branch += shortcut
        return self.act(branch)  # type: ignore[no-any-return]

    @property
    def residual(self) -> bool:
        """Whether anything is added to the branch."""
        return True

    def initialise(self) -> None:
        """Initialise what the network's rule does not cover; called after it."""

    @property
    def last_layer(self) -> str:
        """The name of the branch's last layer."""
        *_, last = self.kind.paths(self.site)[0].layers
        return last

    @property
    def foldable(self) -> bool:
        """Whether a factor on the last layer's weights is one on the branch: not where a gate reads what it gives."""
        return True

    def zero_branch(self) -> None:
        """Zero the weights of the branch's last layer, so that the block starts as its shortcut."""
        nn.init.zeros_(self.get_parameter(f"{self.last_layer}.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for its input, both (batch, channels, height, width)."""
        return self.join(*self.tapped(x))

    def tapped(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """``parts`` with the branch's factor and stochastic depth on it."""
        shortcut, branch = self.parts(x)
        if self.branch_scale != 1.0:
            branch = branch * self.branch_scale
        return shortcut, drop_path(branch, self.drop_rate, self.training)


@spec_kind
@dataclass(frozen=True, slots=True)
class Stem:
    """Convolution, then (``norm``) normalisation and activation, then (``pool``) a 3x3 max-pooling of stride 2.

    ``before`` has the widths of normalised and activated convolutions before it: the first takes its kernel and stride,
    the others are 3x3, and its own kernel is ``last`` (ResNet-C and -D: He et al. 2019, arXiv 1812.01187, section 4.2).
    ``pool`` "conv" is a normalised and activated 3x3 convolution of stride 2 instead of the max-pooling.
    """

    kind: ClassVar[str] = "stem"
    width: int
    kernel: int = 3
    stride: int = 1
    pool: bool | Literal["conv"] = False
    norm: bool = True
    before: tuple[int, ...] = ()
    last: int = 3

    def __post_init__(self) -> None:
        if self.before and (min(self.before) < 1 or not self.norm):
            raise SpecError(f"stem: convolutions before the last need widths of at least 1 and norm, not {self.before}")


@spec_kind
@dataclass(frozen=True, slots=True)
class Stage:
    """``depth`` blocks of one kind and width; the first has the stride."""

    kind: ClassVar[str] = "stage"
    block: BlockKind
    depth: int
    width: int
    stride: int = 1


@dataclass(frozen=True, slots=True)
class Names:
    """State-dict names of a family: stages and blocks are formatted with their numbers from 0."""

    stem_conv: str = "conv1"
    stem_norm: str = "bn1"
    block: str = "layer{stage1}.{block}"
    norm: str = "norm"
    head_conv: str = "head_conv"
    head: str = "fc"
    head_is_conv: bool = False


NAMES: Mapping[str, Names] = {
    "resnet": Names(),
    "preact": Names("stem.conv", "stem.norm", "stages.{stage}.blocks.{block}", head="head.fc"),
    "regnet": Names("stem.conv", "stem.bn", "s{stage1}.b{block1}", head="head.fc"),
    "hardnet": Names("stem.conv", "stem.norm", "blocks.{stage}.{block}", head="head.fc"),
    "resnetv2": Names("stem.conv", "stem.norm", "stages.{stage}.blocks.{block}", head="head.fc", head_is_conv=True),
}


@spec_kind
@dataclass(frozen=True, slots=True)
class AnyNet(ImageSpec):
    """A convolutional classifier. ``size`` is the height and width it is meant for; any size runs.

    ``final_norm`` adds normalisation and activation after the last block (pre-activation nets), ``head_width``
    a 1x1 convolution before the pooling (0: none). Stochastic depth grows from 0 to ``drop_path`` block by block or,
    with ``drop_by`` "stage", is (i + 1) / (stages + 1) of it in stage i, from 1. ``init`` is the fan of the normal
    initialisation, ``fc_std`` the spread of the classifier's (0: the framework's uniform), ``zero_gamma`` starts
    residual branches at zero. ``branch_scale`` multiplies every residual branch and ``readout_scale`` what the
    classifier reads, whose weights start larger by its root (see ``training.parametrization``).
    """

    kind: ClassVar[str] = "anynet"
    stem: Stem
    stages: tuple[Stage, ...]
    classes: int = 1000
    channels: int = 3
    size: tuple[int, int] = (224, 224)
    act: Literal["relu", "relu6", "silu", "gelu"] = "relu"
    final_norm: bool = False
    head_width: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    drop_by: Literal["block", "stage"] = "block"
    init: Literal["fan_out", "fan_in"] = "fan_out"
    fc_std: float = 0.0
    zero_gamma: bool = False
    branch_scale: float = 1.0
    readout_scale: float = 1.0
    names: str = "resnet"

    def __post_init__(self) -> None:
        if self.names not in NAMES:
            raise SpecError(unknown("state-dict naming", self.names, NAMES))
        if not self.stages or min([self.stem.width, self.classes, self.channels, *self.size]) < 1:
            raise SpecError("anynet: needs at least one stage, and widths, classes, channels and size of at least 1")
        for number, stage in enumerate(self.stages, 1):
            if min(stage.depth, stage.width, stage.stride) < 1:
                raise SpecError(f"anynet: stage {number} has a depth, width or stride below 1")

    def blocks(self) -> Iterator[tuple[int, int, BlockKind, Site]]:
        """Every block, written out: stage and position in it (from 0), kind and site."""
        w_in = self.stem.width
        for s, stage in enumerate(self.stages):
            for b in range(stage.depth):
                first = s == b == 0 and self.stem.norm
                yield s, b, stage.block, Site(w_in, stage.width, stage.stride if b == 0 else 1, first)
                w_in = stage.width

    def block_path(self, stage: int, block: int) -> str:
        """The module name of a block, counted as ``blocks`` does."""
        return NAMES[self.names].block.format(stage=stage, stage1=stage + 1, block=block, block1=block + 1)

    @property
    def first_conv(self) -> str:
        """The name of the convolution that sees the image."""
        name = NAMES[self.names].stem_conv
        return f"{name}.0" if self.stem.before else name

    def stem_path(self) -> Path:
        """The stem's layers under their state-dict names."""
        names, stem = NAMES[self.names], self.stem
        w_in, layers = self.channels, dict[str, Layer]()
        for number, width in enumerate((*stem.before, stem.width)):
            last, first = number == len(stem.before), number == 0
            conv = f"{names.stem_conv}.{3 * number}" if stem.before else names.stem_conv
            kernel, stride = (stem.kernel, stem.stride) if first else (stem.last if last else 3, 1)
            layers[conv] = Conv(w_in, width, kernel, stride)
            if not last:
                layers[f"{names.stem_conv}.{3 * number + 1}"] = Norm(width)
            w_in = width
        if stem.norm:
            layers[names.stem_norm] = Norm(stem.width)
        if stem.pool == "conv":
            layers |= {"maxpool.0": Conv(stem.width, stem.width, 3, 2), "maxpool.1": Norm(stem.width)}
        elif stem.pool:
            layers["maxpool"] = MaxPool(stem.width)
        return Path(layers)

    def neck_path(self) -> Path:
        """The layers between the last block and the pooling."""
        names, width, layers = NAMES[self.names], self.stages[-1].width, dict[str, Layer]()
        if self.final_norm:
            layers[names.norm] = Norm(width)
        if self.head_width:
            layers[f"{names.head_conv}.conv"] = Conv(width, self.head_width, 1)
            layers[f"{names.head_conv}.bn"] = Norm(self.head_width)
        return Path(layers)

    def head_path(self) -> Path:
        """The classifier."""
        names, width = NAMES[self.names], self.head_width or self.stages[-1].width
        head = Conv(width, self.classes, 1, bias=True) if names.head_is_conv else Linear(width, self.classes)
        return Path({names.head: head}, pooled=True)

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width); raises SpecError where nothing would be left of it.

        Equal blocks are counted once.
        """
        total = Tally(convention)
        here = count_paths((self.stem_path(),), total, size or self.size)
        w_in = self.stem.width
        for number, stage in enumerate(self.stages):
            first = Site(w_in, stage.width, stage.stride, number == 0 and self.stem.norm)
            here = count_paths(stage.block.paths(first), total, here)
            if stage.depth > 1:
                rest, here = _count_repeated(stage.block, stage.width, here, convention)
                total.add(rest, stage.depth - 1)
            w_in = stage.width
        if min(here) < 1:
            raise SpecError(f"anynet: images of {size or self.size} are too small for these strides")
        count_paths((self.neck_path(), self.head_path()), total, here)
        return total

    def build(self) -> AnyNetBackbone:
        """The module, its weights not written yet: ``models.network.build`` or a checkpoint does that."""
        return AnyNetBackbone(self)


@lru_cache(maxsize=1 << 14)  # drawn specs often share these blocks, seldom the first of a stage
def _count_repeated(kind: BlockKind, width: int, size: Size, convention: Convention) -> tuple[Tally, Size]:
    tally = Tally(convention)
    return tally, count_paths(kind.paths(Site(width, width, 1)), tally, size)


class AnyNetBackbone(Stepwise):
    """The network of an ``AnyNet`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem``, ``stage1.1`` … one per block, ``norm`` and ``conv`` where the spec has them, and ``pool``.
    Taps: ``stage1.1.branch`` …, the output of each residual branch before it is joined.
    """

    def __init__(self, spec: AnyNet) -> None:
        super().__init__()
        self.spec = spec
        self._blocks: dict[str, str] = {}  # seam -> module path
        self._stem = tuple(spec.stem_path().layers)
        place_paths(self, (spec.stem_path(),))
        depth = sum(stage.depth for stage in spec.stages)
        for index, (s, b, kind, site) in enumerate(spec.blocks()):
            path, block = spec.block_path(s, b), kind.build(site, spec.act)
            share = (s + 2) / (len(spec.stages) + 1) if spec.drop_by == "stage" else index / max(1, depth - 1)
            block.drop_rate = spec.drop_path * share
            block.branch_scale = spec.branch_scale if block.residual else 1.0
            place(self, path, block)
            self._blocks[f"stage{s + 1}.{b + 1}"] = path
        place_paths(self, (spec.neck_path(), spec.head_path()))
        self.act = activation(spec.act)
        neck = ["norm"] * spec.final_norm + ["conv"] * bool(spec.head_width)
        self.steps = ("stem", *self._blocks, *neck, "pool", "head")
        self.seams = _seams(spec, self.steps[:-1])
        self.taps = tuple(f"{name}.branch" for name in self._blocks)
        self.ends = {spec.first_conv: "input", NAMES[spec.names].head: "readout"}
        self.branches = [path for name, path in self._blocks.items() if self._block(name).residual]

    def initialise(self) -> None:
        """Called when the weights are drawn: zero residual branches if the spec says so, enlarge a scaled readout."""
        if self.spec.readout_scale != 1.0:
            with torch.no_grad():
                self.get_parameter(f"{NAMES[self.spec.names].head}.weight").mul_(self.spec.readout_scale**-0.5)
        if self.spec.zero_gamma:
            for name in self._blocks:
                if self._block(name).residual:
                    self._block(name).zero_branch()

    def deploy(self) -> AnyNetBackbone:
        """Itself, or with factors other than 1 a copy that has them in its weights, if all blocks allow it."""
        spec = self.spec
        foldable = all(self._block(name).foldable for name in self._blocks)
        if spec.branch_scale == spec.readout_scale == 1.0 or not foldable:
            return self
        factors = {f"{NAMES[spec.names].head}.weight": spec.readout_scale}
        for block, path in ((self._block(name), path) for name, path in self._blocks.items()):
            layer = f"{path}.{block.last_layer}"
            factors |= {f"{layer}.weight": block.branch_scale, f"{layer}.bias": block.branch_scale}
        state = {name: tensor.detach() * factors.get(name, 1) for name, tensor in self.state_dict().items()}
        with torch.device("meta"):
            plain = AnyNetBackbone(spec.replace(branch_scale=1.0, readout_scale=1.0))
        plain.load_state_dict(state, assign=True)
        return plain.train(self.training)

    def _block(self, name: str) -> Block:
        return cast(Block, self.get_submodule(self._blocks[name]))

    def advance_tapped(self, step: str, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """A block's branch before it is joined, and its output."""
        shortcut, branch = self._block(step).tapped(x)
        return {f"{step}.branch": branch.clone()}, self._block(step).join(shortcut, branch)

    def advance(self, step: str, x: Tensor) -> Tensor:
        """One step."""
        if step in self._blocks:
            block = self._block(step)
            return checkpointed(block, x) if self.checkpointing and self.training else block(x)
        return getattr(self, f"_run_{step}")(x)  # type: ignore[no-any-return]

    def _run_stem(self, x: Tensor) -> Tensor:
        for name in self._stem:
            module = self.get_submodule(name)
            x = self.act(module(x)) if isinstance(module, nn.BatchNorm2d) else module(x)
        return x

    def _run_norm(self, x: Tensor) -> Tensor:
        return self.act(self.get_submodule(NAMES[self.spec.names].norm)(x))  # type: ignore[no-any-return]

    def _run_conv(self, x: Tensor) -> Tensor:
        conv: Any = self.get_submodule(NAMES[self.spec.names].head_conv)
        return self.act(conv.bn(conv.conv(x)))  # type: ignore[no-any-return]

    def _run_pool(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def _run_head(self, x: Tensor) -> Tensor:
        names = NAMES[self.spec.names]
        if self.spec.dropout:
            x = F.dropout(x, self.spec.dropout, self.training)
        if self.spec.readout_scale != 1.0:
            x = x * self.spec.readout_scale
        logits: Tensor = self.get_submodule(names.head)(x[:, :, None, None] if names.head_is_conv else x)
        return logits.flatten(1) if names.head_is_conv else logits


def _seams(spec: AnyNet, names: Sequence[str]) -> tuple[Seam, ...]:
    stride = spec.stem.stride * (2 if spec.stem.pool else 1)
    seams = [Seam("stem", 0, (Port("x", "stream", spec.stem.width, "NCHW", stride),))]
    for s, b, _, site in spec.blocks():
        stride *= site.stride
        seams.append(Seam(f"stage{s + 1}.{b + 1}", s + 1, (Port("x", "stream", site.w_out, "NCHW", stride),)))
    last = len(spec.stages)
    for name in names[len(seams) :]:
        width = spec.head_width if spec.head_width and name != "norm" else spec.stages[-1].width
        port = Port("x", "stream", width, "ND" if name == "pool" else "NCHW", 0 if name == "pool" else stride)
        seams.append(Seam(name, last, (port,)))
    return tuple(seams)
