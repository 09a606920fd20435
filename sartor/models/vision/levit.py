"""LeViT (Graham et al. 2021, arXiv 2104.01136): a convolutional stem, then attention with batch norms that shrinks.

State-dict keys are timm's, those of the deployed form what timm's layers are called once they are fused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.image_spec import ImageSpec
from sartor.models.layers import Conv, Layer, Norm, Path, count_paths, place, place_paths
from sartor.models.tokens import Attention, Dense, Parameters, TokenBlock, TokenNorm, constant_device, join_heads
from sartor.models.transformer import TransformerBackbone

STRIDE = 16  # of the stem: four convolutions
STD = 0.02  # of the classifiers' first weights


class Site(NamedTuple):
    """Where a block stands: stage and position in it from 0, widths, heads, the grids it reads and gives.

    A block whose grids differ shrinks: its attention asks from every second token along each side.
    """

    stage: int
    block: int
    w_in: int
    w_out: int
    heads: int
    grid: Size
    out: Size
    shrinks: bool


@spec_kind
@dataclass(frozen=True, slots=True)
class Levit(ImageSpec):
    """A LeViT. ``widths``, ``depths`` and ``heads`` are by stage; ``key`` is the width of keys, values have twice it.

    Every stage but the first begins with a block more, whose attention halves the grid (values of 4 times ``key``,
    a head for each ``key`` of the width before). ``size`` is the only height and width the network runs at.
    ``distilled`` has a second classifier, averaged with the first; ``fused`` is the deployed form: one classifier,
    batch norms folded into the layers before them (into the classifier after it). Costs are those of the deployed
    form, whichever this is. ``branch_scale`` and ``readout_scale`` are as in ``AnyNet``; the classifiers' first weights
    do not depend on them.
    """

    kind: ClassVar[str] = "levit"
    fixed_size: ClassVar[bool] = True  # weights depend on it
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    key: int
    classes: int = 1000
    channels: int = 3
    size: tuple[int, int] = (224, 224)
    distilled: bool = True
    fused: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    branch_scale: float = 1.0
    readout_scale: float = 1.0
    init: Literal["fan_out", "fan_in"] = "fan_out"
    fc_std: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.heads) > 0:
            raise SpecError("levit: widths, depths and heads are given for each stage")
        values = (self.key, self.classes, self.channels, *self.size, *self.depths, *self.heads)
        if min(*values, *self.widths) < 1:
            raise SpecError("levit: widths, depths, heads, key, classes, channels and size are at least 1")
        if self.widths[0] % 8:
            raise SpecError(f"levit: the first width {self.widths[0]} is not a multiple of 8, as the stem needs")
        if any(width < self.key for width in self.widths[:-1]):
            raise SpecError(f"levit: a stage that is followed by another is narrower than keys of {self.key}")
        if self.fused and self.distilled:
            raise SpecError("levit: a fused network has one classifier; say distilled = false")
        self.grid(self.size)

    def grid(self, size: Size) -> Size:
        """The stem's map of an image; raises SpecError for sides that are not multiples of its stride."""
        if size[0] % STRIDE or size[1] % STRIDE:
            sides = "x".join(map(str, size))
            raise SpecError(f"levit: images of {sides} do not fit the stem; use sides that are multiples of {STRIDE}")
        return size[0] // STRIDE, size[1] // STRIDE

    def blocks(self, size: Size) -> Iterator[Site]:
        """Every block for images of a size, written out."""
        grid, before = self.grid(size), self.widths[0]
        for stage, (width, depth, heads) in enumerate(zip(self.widths, self.depths, self.heads, strict=True)):
            first = int(stage > 0)
            if first:
                half = -(-grid[0] // 2), -(-grid[1] // 2)
                yield Site(stage, 0, before, width, before // self.key, grid, half, True)
                grid, before = half, width
            for block in range(depth):
                yield Site(stage, first + block, width, width, heads, grid, grid, False)

    def stem_path(self) -> Path:
        """Four 3x3 convolutions of stride 2."""
        width, layers = self.widths[0], dict[str, Layer]()
        widths = (self.channels, width // 8, width // 4, width // 2, width)
        for i in range(4):
            name, conv = f"stem.conv{i + 1}", Conv(widths[i], widths[i + 1], 3, 2, bias=self.fused)
            layers |= {name: conv} if self.fused else {f"{name}.linear": conv, f"{name}.bn": Norm(widths[i + 1])}
        return Path(layers)

    def unit(self, name: str, w_in: int, w_out: int) -> dict[str, Layer]:
        """A matrix product and its batch norm, or both as one."""
        if self.fused:
            return {name: Dense(w_in, w_out)}
        return {f"{name}.linear": Dense(w_in, w_out, bias=False), f"{name}.bn": TokenNorm(w_out)}

    def block_parts(self, site: Site) -> Mapping[str, Mapping[str, Layer]]:
        """The layers of a block's two branches."""
        heads, key, value = site.heads, self.key, self.key * (4 if site.shrinks else 2)
        keys = site.grid[0] * site.grid[1]
        path = "attn_downsample" if site.shrinks else "attn"
        attn: dict[str, Layer] = {f"{path}.attention_biases": Parameters((heads, keys))}
        if site.shrinks:
            attn |= self.unit(f"{path}.kv", site.w_in, heads * (key + value))
            attn |= self.unit(f"{path}.q.ln", site.w_in, heads * key)
        else:
            attn |= self.unit(f"{path}.qkv", site.w_in, heads * (2 * key + value))
        attn[f"{path}.attend"] = Attention(heads, key, value, keys, keys)
        attn |= self.unit(f"{path}.proj.ln", heads * value, site.w_out)
        mlp = self.unit("mlp.ln1", site.w_out, 2 * site.w_out) | self.unit("mlp.ln2", 2 * site.w_out, site.w_out)
        return {"attn": attn, "mlp": mlp}

    def head_path(self) -> Path:
        """The classifiers, each behind a batch norm until that is folded into it."""
        width, layers = self.widths[-1], dict[str, Layer]()
        if self.fused:
            return Path({"head": Dense(width, self.classes)}, pooled=True)
        for name in self.classifiers():
            layers |= {f"{name}.bn": TokenNorm(width), f"{name}.linear": Dense(width, self.classes)}
        return Path(layers, pooled=True)

    def classifiers(self) -> tuple[str, ...]:
        """The names of the classifiers."""
        return ("head", "head_dist") if self.distilled else ("head",)

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost of the deployed form for one image of ``size`` (height, width), built for that size."""
        spec, total, size = self.replace(fused=True, distilled=False), Tally(convention), size or self.size
        count_paths((spec.stem_path(),), total, size)
        for site in spec.blocks(size):
            for layers in spec.block_parts(site).values():
                for name, layer in layers.items():
                    layer.add_to(total, site.grid if name.endswith(".kv") else site.out)
        count_paths((spec.head_path(),), total, size)
        return total

    def build(self) -> LevitBackbone:
        """The module, its weights not written yet: ``models.network.build`` or a checkpoint does that."""
        return LevitBackbone(self)


def levit(widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], key: int) -> Levit:
    """A LeViT with two classifiers, as it is trained (table 2)."""
    return Levit(tuple(widths), tuple(depths), tuple(heads), key)


class LevitBlock(TokenBlock):
    """Attention with a learnt bias for each distance, then a perceptron; tokens are (batch, length, width)."""

    index: Tensor

    def __init__(self, spec: Levit, site: Site) -> None:
        super().__init__(spec.block_parts(site))
        self.site, self.key = site, spec.key
        self.replacing = ("attn",) if site.shrinks else ()
        index = distance_index(site.grid, 2 if site.shrinks else 1, constant_device())
        self.register_buffer("index", index, persistent=False)

    def initialise(self) -> None:
        """Called when the weights are drawn: biases are 0, and branches that are added start from 0."""
        layers = self.attn_downsample if self.site.shrinks else self.attn
        nn.init.zeros_(layers.attention_biases)
        for unit in (self.mlp.ln2, *([] if self.site.shrinks else [self.attn.proj.ln])):
            nn.init.zeros_(unit.weight if isinstance(unit, nn.Linear) else unit.bn.weight)

    def run_attn(self, x: Tensor) -> Tensor:
        """Multi-head attention; where the grid shrinks, from every second token along each side to all."""
        layers = self.attn_downsample if self.site.shrinks else self.attn
        if self.site.shrinks:
            k, v = self._heads(apply_unit(layers.kv, x), (1, 4))
            rows = x.reshape(x.shape[0], *self.site.grid, -1)[:, ::2, ::2]
            (q,) = self._heads(apply_unit(layers.q.ln, rows.flatten(1, 2)), (1,))
        else:
            q, k, v = self._heads(apply_unit(layers.qkv, x), (1, 1, 2))
        bias = layers.attention_biases[:, self.index].unsqueeze(0)
        return apply_unit(layers.proj.ln, F.hardswish(join_heads(layers.attend(q, k, v, bias))))

    def run_mlp(self, x: Tensor) -> Tensor:
        """The perceptron on each token."""
        return apply_unit(self.mlp.ln2, F.hardswish(apply_unit(self.mlp.ln1, x)))

    def _heads(self, x: Tensor, parts: Sequence[int]) -> Sequence[Tensor]:
        """(batch, length, heads * widths) as (batch, heads, length, width) for widths of so many keys each."""
        x = x.reshape(x.shape[0], x.shape[1], self.site.heads, -1).transpose(1, 2)
        return torch.split(x, [self.key * part for part in parts], 3)


class LevitBackbone(TransformerBackbone):
    """The network of a ``Levit`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem``, ``stage1.1`` … one per block, the shrinking ones first in their stage, all tokens row by row
    (batch, length, width), and ``pool``. Training and serving both average the two classifiers.
    """

    biases = ("attention_biases",)

    def __init__(self, spec: Levit) -> None:
        super().__init__()
        self.spec = spec
        place_paths(self, (spec.stem_path(),))
        blocks = dict[str, str]()
        seams = [Seam("stem", 0, (Port("x", "stream", spec.widths[0], "NLC", STRIDE),))]
        for site in spec.blocks(spec.size):
            place_in = f"blocks.{site.block - int(site.stage > 0)}"
            path = f"stages.{site.stage}.{'downsample' if site.shrinks else place_in}"
            name = f"stage{site.stage + 1}.{site.block + 1}"
            place(self, path, LevitBlock(spec, site))
            blocks[name] = path
            port = Port("x", "stream", site.w_out, "NLC", STRIDE * 2**site.stage)
            seams.append(Seam(name, site.stage + 1, (port,)))
        place_paths(self, (spec.head_path(),))
        self._walk(blocks, ())
        self.seams = (*seams, Seam("pool", len(spec.widths), (Port("x", "stream", spec.widths[-1], "ND", 0),)))
        leaf = "" if spec.fused else ".linear"
        self.inputs = (f"stem.conv1{leaf}",)
        self.readouts = tuple(f"{name}{leaf}" for name in spec.classifiers())

    def initialise(self) -> None:
        """Called when the weights are drawn: small classifiers."""
        for name in self.readouts:
            nn.init.normal_(self.get_parameter(f"{name}.weight"), 0.0, STD)

    def deploy(self) -> LevitBackbone:
        """The fused form, with weights of its own: norms folded, the two classifiers averaged into one."""
        plain: LevitBackbone = super().deploy()
        spec = plain.spec
        if spec.fused:
            return plain
        with torch.device(plain.stem.conv1.linear.weight.device), torch.no_grad():
            other = spec.replace(fused=True, distilled=False).build()
            state = {key: value for key, value in plain.state_dict().items() if key.endswith(".attention_biases")}
            for path, module in plain.named_modules():
                if hasattr(module, "linear") and path not in spec.classifiers():
                    state[f"{path}.weight"], state[f"{path}.bias"] = _folded(module)
            heads = [_folded_head(plain.get_submodule(name)) for name in spec.classifiers()]
            for leaf, values in zip(("weight", "bias"), zip(*heads, strict=True), strict=True):
                state[f"head.{leaf}"] = sum(values[1:], values[0]) / len(values)
            state = {key: value.detach().clone() for key, value in state.items()}
            other.load_state_dict(state, strict=True, assign=True)
        deployed: LevitBackbone = other.to(self.stem.conv1.linear.weight.device).train(self.training)
        return deployed

    def fit_state(self, state: dict[str, Tensor]) -> list[str]:
        """Take entries that are computed out of a checkpoint's ``state``."""
        for key in [key for key in state if key.endswith(".attention_bias_idxs")]:
            del state[key]
        return []

    def _run_stem(self, x: Tensor) -> Tensor:
        x = self._sized(x)
        for i in range(4):
            x = x if i == 0 else F.hardswish(x)
            conv: Any = self.get_submodule(f"stem.conv{i + 1}")
            x = conv(x) if self.spec.fused else conv.bn(conv.linear(x))
        return x.flatten(2).transpose(1, 2)

    def _run_pool(self, x: Tensor) -> Tensor:
        return x.mean(1)

    def _run_head(self, x: Tensor) -> Tensor:
        if self.spec.fused:
            return self.head(self._scaled(x))  # type: ignore[no-any-return]
        logits = []
        for name in self.spec.classifiers():
            head: Any = self.get_submodule(name)
            logits.append(head.linear(F.dropout(self._scaled(head.bn(x)), self.spec.dropout, self.training)))
        mean: Tensor = sum(logits[1:], logits[0]) / len(logits)
        return mean


def apply_unit(unit: Any, x: Tensor) -> Tensor:
    """A matrix product with its batch norm, which sees the tokens of all images as one batch; or both fused."""
    if isinstance(unit, nn.Linear):
        return unit(x)  # type: ignore[no-any-return]
    x = unit.linear(x)
    return unit.bn(x.flatten(0, 1)).reshape_as(x)  # type: ignore[no-any-return]


def distance_index(grid: Size, stride: int, device: torch.device) -> Tensor:
    """(queries, keys): which bias a pair has, by its distances along both sides; queries are every ``stride``-th."""
    rows, columns = (torch.arange(side, device=device) for side in grid)
    down, across = ((place[::stride, None] - place).abs() for place in (rows, columns))
    index: Tensor = down[:, None, :, None] * grid[1] + across[None, :, None, :]
    return index.flatten(2).flatten(0, 1)


def _folded(unit: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution or a matrix product with the norm after it."""
    fuse: Any = fuse_conv_bn_weights if unit.linear.weight.ndim == 4 else fuse_linear_bn_weights
    bn = unit.bn
    weight, bias = fuse(unit.linear.weight, None, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    return weight, bias


def _folded_head(head: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a classifier with the norm before it."""
    scale = head.bn.weight * (head.bn.running_var + head.bn.eps).rsqrt()
    shift = head.bn.bias - head.bn.running_mean * scale
    return head.linear.weight * scale, head.linear.bias + head.linear.weight @ shift
