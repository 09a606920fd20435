"""Swin Transformer (Liu et al. 2021, arXiv 2103.14030): attention in windows that shift from block to block.

State-dict keys are timm's. Maps whose sides the window does not divide are padded at the bottom and the right, after
the shift, as timm does; where a map is no larger than the window, the window is the map and does not shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.image_spec import ImageSpec
from sartor.models.layers import Layer, Path, count_paths, place, place_paths
from sartor.models.tokens import Attention, Dense, LayerNorm, Parameters, Patches, TokenBlock, constant_device
from sartor.models.transformer import TransformerBackbone

STD = 0.02
MASKED = -100.0  # added to the attention between tokens that the shift has brought side by side
_PADDED = ("attn.qkv", "attn.attend")  # layers that see the padding too
_TABLE = "relative_position_bias_table"


class Windows(NamedTuple):
    """A map's size, its windows' size and their shift, each by height and width."""

    grid: Size
    window: Size
    shift: Size

    @property
    def padded(self) -> Size:
        """The smallest size that windows cover."""
        height, width = (-(-side // window) * window for side, window in zip(self.grid, self.window, strict=True))
        return height, width


class Site(NamedTuple):
    """Where a block stands: stage and position in it from 0, its width, its heads and its windows."""

    stage: int
    block: int
    width: int
    heads: int
    windows: Windows


@spec_kind
@dataclass(frozen=True, slots=True)
class Swin(ImageSpec):
    """A Swin Transformer: widths ``width`` times 1, 2, 4 ...; every stage but the first merges 2x2 tokens first.

    ``depths`` and ``heads`` are by stage, ``mlp`` is the hidden width of a block's perceptron over its width. ``size``
    is the only height and width the network runs at. All matrices start from N(0, ``fc_std``^2), the patches'
    convolution from the framework's uniform whatever ``init`` says. ``branch_scale`` and ``readout_scale`` are as in
    ``AnyNet``.
    """

    kind: ClassVar[str] = "swin"
    fixed_size: ClassVar[bool] = True  # weights depend on it
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    patch: int = 4
    mlp: float = 4.0
    classes: int = 1000
    channels: int = 3
    size: tuple[int, int] = (224, 224)
    dropout: float = 0.0
    drop_path: float = 0.0
    branch_scale: float = 1.0
    readout_scale: float = 1.0
    init: Literal["fan_in"] = "fan_in"
    fc_std: float = STD

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.heads):
            raise SpecError(f"swin: {len(self.depths)} depths and {len(self.heads)} numbers of heads; give as many")
        values = (self.width, self.window, self.patch, self.classes, self.channels, *self.size)
        if min(*values, *self.depths, *self.heads) < 1:
            raise SpecError("swin: width, depths, heads, window, patch, classes, channels and size are at least 1")
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                raise SpecError(f"swin: width {self.width * 2**stage} is not a multiple of {heads} heads")
        self.grid(self.size, 0)

    def grid(self, size: Size, stage: int) -> Size:
        """The map of a stage for an image; raises SpecError where the patches do not cover the image."""
        if size[0] % self.patch or size[1] % self.patch:
            sides = "x".join(map(str, size))
            wanted = f"use sides that are multiples of {self.patch}"
            raise SpecError(f"swin: patches of {self.patch} do not cover images of {sides}; {wanted}")
        stride = self.patch * 2**stage
        return -(-size[0] // stride), -(-size[1] // stride)

    def blocks(self, size: Size) -> Iterator[Site]:
        """Every block for images of a size, written out; odd ones shift their windows."""
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            grid = self.grid(size, stage)
            window = min(grid[0], self.window), min(grid[1], self.window)
            step = self.window // 2
            shift = step * (grid[0] > window[0]), step * (grid[1] > window[1])
            for block in range(depth):
                windows = Windows(grid, window, shift if block % 2 else (0, 0))
                yield Site(stage, block, self.width * 2**stage, heads, windows)

    def stem_path(self) -> Path:
        """The patches and their norm."""
        patches = Patches(self.channels, self.width, self.patch)
        return Path({"patch_embed.proj": patches, "patch_embed.norm": LayerNorm(self.width)})

    def merge_path(self, stage: int) -> Path:
        """What four neighbouring tokens become before a stage but the first."""
        width = self.width * 2**stage
        name = f"layers.{stage}.downsample"
        return Path({f"{name}.norm": LayerNorm(2 * width), f"{name}.reduction": Dense(2 * width, width, bias=False)})

    def block_parts(self, site: Site) -> Mapping[str, Mapping[str, Layer]]:
        """The layers of a block's two branches."""
        width, hidden = site.width, int(self.mlp * site.width)
        height, across = site.windows.window
        key = width // site.heads
        attn: dict[str, Layer] = {
            "norm1": LayerNorm(width),
            f"attn.{_TABLE}": Parameters(((2 * height - 1) * (2 * across - 1), site.heads)),
            "attn.qkv": Dense(width, 3 * width),
            "attn.attend": Attention(site.heads, key, key, seen=height * across),
            "attn.proj": Dense(width, width),
        }
        mlp: dict[str, Layer] = {
            "norm2": LayerNorm(width),
            "mlp.fc1": Dense(width, hidden),
            "mlp.fc2": Dense(hidden, width),
        }
        return {"attn": attn, "mlp": mlp}

    def end_path(self) -> Path:
        """The norm before the pooling, then the classifier on what is pooled."""
        width = self.width * 2 ** (len(self.depths) - 1)
        return Path({"norm": LayerNorm(width), "head.fc": Dense(width, self.classes)}, pooled=True)

    def head_path(self) -> Path:
        """The classifier alone."""
        width = self.width * 2 ** (len(self.depths) - 1)
        return Path({"head.fc": Dense(width, self.classes)}, pooled=True)

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width), by a network built for that size."""
        total, size = Tally(convention), size or self.size
        count_paths((self.stem_path(),), total, size)
        for site in self.blocks(size):
            if site.stage and not site.block:
                count_paths((self.merge_path(site.stage),), total, site.windows.grid)
            for layers in self.block_parts(site).values():
                for name, layer in layers.items():
                    layer.add_to(total, site.windows.padded if name in _PADDED else site.windows.grid)
        count_paths((self.end_path(),), total, size)
        return total

    def build(self) -> SwinBackbone:
        """The module, its weights not written yet: ``models.network.build`` or a checkpoint does that."""
        return SwinBackbone(self)


def swin(width: int, depths: Sequence[int], heads: Sequence[int]) -> Swin:
    """A Swin Transformer of patches of 4 and windows of 7 (section 3.3)."""
    return Swin(width, tuple(depths), tuple(heads))


class SwinBlock(TokenBlock):
    """Attention within windows, then a perceptron on each token; maps are (batch, width, height, width)."""

    index: Tensor
    mask: Tensor

    def __init__(self, spec: Swin, site: Site) -> None:
        super().__init__(spec.block_parts(site))
        self.heads, self.windows = site.heads, site.windows
        device = constant_device()
        self.register_buffer("index", relative_index(site.windows.window, device), persistent=False)
        self.register_buffer("mask", shift_mask(site.windows, device), persistent=False)

    def initialise(self) -> None:
        """Called when the weights are drawn: the table of relative positions."""
        nn.init.normal_(self.attn.get_parameter(_TABLE), 0.0, STD)

    def run_attn(self, x: Tensor) -> Tensor:
        """Multi-head self-attention of the normalised tokens of each window, shifted and shifted back."""
        (height, width), _, shift = self.windows
        x = self.norm1(x.permute(0, 2, 3, 1))
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        padded = self.windows.padded
        if padded != (height, width):
            x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        q, k, v = self._partition(self.attn.qkv(x))
        x = self._join(self.attn.attend(q, k, v, self._bias()))[:, :height, :width]
        x = self.attn.proj(x)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x.permute(0, 3, 1, 2)

    def run_mlp(self, x: Tensor) -> Tensor:
        """The perceptron on the normalised tokens."""
        x = self.mlp.fc1(self.norm2(x.permute(0, 2, 3, 1)))
        return self.mlp.fc2(F.gelu(x)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _partition(self, x: Tensor) -> tuple[Tensor, ...]:
        """(batch, height, width, 3 * channels) as three tensors (batch, windows * heads, tokens, channels a head)."""
        (height, width), (rows, columns) = self.windows.padded, self.windows.window
        x = x.reshape(x.shape[0], height // rows, rows, width // columns, columns, 3, self.heads, -1)
        x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)
        return x.reshape(3, x.shape[1], -1, rows * columns, x.shape[7]).unbind(0)

    def _join(self, x: Tensor) -> Tensor:
        """The inverse for one tensor: (batch, height, width, channels)."""
        (height, width), (rows, columns) = self.windows.padded, self.windows.window
        x = x.reshape(x.shape[0], height // rows, width // columns, self.heads, rows, columns, -1)
        return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(x.shape[0], height, width, -1)

    def _bias(self) -> Tensor:
        """What is added to the attention: (1, windows * heads, tokens, tokens)."""
        tokens = self.windows.window[0] * self.windows.window[1]
        bias = getattr(self.attn, _TABLE)[self.index].view(tokens, tokens, self.heads).permute(2, 0, 1)
        return (bias + self.mask.type_as(bias)).flatten(0, 1).unsqueeze(0)  # type: ignore[no-any-return]


class SwinBackbone(TransformerBackbone):
    """The network of a ``Swin`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem``, ``stage1.1`` … one per block and ``norm``, maps (batch, width, height, width) whose memory is
    channels-last, and ``pool``. Tokens are merged on the way into a stage, after the last seam of the one before.
    """

    inputs = ("patch_embed.proj",)
    readouts = ("head.fc",)
    biases = (_TABLE,)

    def __init__(self, spec: Swin) -> None:
        super().__init__()
        self.spec = spec
        place_paths(self, (spec.stem_path(),))
        blocks, sites = dict[str, str](), dict[str, Site]()
        for site in spec.blocks(spec.size):
            if site.stage and not site.block:
                place_paths(self, (spec.merge_path(site.stage),))
            name, path = f"stage{site.stage + 1}.{site.block + 1}", f"layers.{site.stage}.blocks.{site.block}"
            place(self, path, SwinBlock(spec, site))
            blocks[name], sites[name] = path, site
        place_paths(self, (spec.end_path(),))
        self._merging = {name: site.stage for name, site in sites.items() if site.stage and not site.block}
        self._walk(blocks, ("norm",))
        seams = [Seam("stem", 0, (Port("x", "stream", spec.width, "NCHW", spec.patch),))]
        for name, site in sites.items():
            port = Port("x", "stream", site.width, "NCHW", spec.patch * 2**site.stage)
            seams.append(Seam(name, site.stage + 1, (port,)))
        pooled = Port("x", "stream", port.width, "ND", 0)
        last = len(spec.depths)
        self.seams = (*seams, Seam("norm", last, (port,)), Seam("pool", last, (pooled,)))

    def fit_state(self, state: dict[str, Tensor]) -> list[str]:
        """Make a checkpoint's ``state`` fit: no computed entries, and tables cut where windows are smaller here.

        A relative position keeps its bias. Says what it did.
        """
        for key in [key for key in state if key.endswith((".relative_position_index", ".attn_mask"))]:
            del state[key]
        cut = 0
        for name, block in self.named_modules():
            key = f"{name}.attn.{_TABLE}"
            if isinstance(block, SwinBlock) and key in state:
                smaller = _cut_table(state[key], block.windows.window)
                cut, state[key] = cut + (smaller is not state[key]), smaller
        return [f"{cut} tables of relative positions cut to smaller windows"] if cut else []

    def _enter(self, step: str, x: Tensor) -> Tensor:
        if step not in self._merging:
            return x
        down = self.get_submodule(f"layers.{self._merging[step]}.downsample")
        height, width = self.spec.grid(self.spec.size, self._merging[step] - 1)
        x = x.permute(0, 2, 3, 1)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.reshape(x.shape[0], -(-height // 2), 2, -(-width // 2), 2, x.shape[3])
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return down.reduction(down.norm(x)).permute(0, 3, 1, 2)  # type: ignore[no-any-return,operator]

    def _run_stem(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(self._sized(x)).permute(0, 2, 3, 1)
        return self.patch_embed.norm(x).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _run_norm(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _run_pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def _run_head(self, x: Tensor) -> Tensor:
        if self.spec.dropout:
            x = F.dropout(x, self.spec.dropout, self.training)
        return self.head.fc(self._scaled(x))  # type: ignore[no-any-return]


def relative_index(window: Size, device: torch.device) -> Tensor:
    """For each pair of a window's tokens, by rows, the row of the table that its relative position has."""
    rows, columns = window
    y = torch.arange(rows, device=device).repeat_interleave(columns)
    x = torch.arange(columns, device=device).repeat(rows)
    index: Tensor = (y[:, None] - y + rows - 1) * (2 * columns - 1) + (x[:, None] - x + columns - 1)
    return index.flatten()


def shift_mask(windows: Windows, device: torch.device) -> Tensor:
    """(windows, 1, tokens, tokens): 0 between tokens that were neighbours before the shift, ``MASKED`` elsewhere."""
    (height, width), (rows, columns) = windows.padded, windows.window

    def parts(side: int, window: int, shift: int) -> Tensor:
        place = torch.arange(side, device=device)
        return (place >= side - window).long() + (place >= side - shift).long() if shift else torch.zeros_like(place)

    regions = 3 * parts(height, rows, windows.shift[0])[:, None] + parts(width, columns, windows.shift[1])
    regions = regions.reshape(height // rows, rows, width // columns, columns).transpose(1, 2).flatten(2).flatten(0, 1)
    return MASKED * (regions[:, None, :, None] != regions[:, None, None, :]).float()


def _cut_table(table: Tensor, window: Size) -> Tensor:
    """The rows of a square window's table that a smaller window needs; the table itself where it does not cover it."""
    side, (rows, columns) = round(len(table) ** 0.5), window
    reach = (side - 1) // 2
    whole = 2 * rows - 1, 2 * columns - 1
    if side * side != len(table) or not side % 2 or max(whole) > side or whole == (side, side):
        return table
    square = table.unflatten(0, (side, side))  # type: ignore[no-untyped-call]
    part: Tensor = square[reach - rows + 1 : reach + rows, reach - columns + 1 : reach + columns]
    return part.flatten(0, 1)
