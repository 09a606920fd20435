"""DeiT (Touvron et al. 2021, arXiv 2012.12877): the Vision Transformer, trained on ImageNet alone.

State-dict keys are timm's. Positions are learnt for one size of image, which the spec says; a checkpoint for another
size has its positions resized as timm does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.image_spec import ImageSpec
from sartor.models.layers import Layer, Path, count_paths, place, place_paths
from sartor.models.tokens import (
    Attention,
    Dense,
    LayerNorm,
    Parameters,
    Patches,
    TokenBlock,
    join_heads,
    split_heads,
)
from sartor.models.transformer import TransformerBackbone

EPS = 1e-6
STD = 0.02


@spec_kind
@dataclass(frozen=True, slots=True)
class ViT(ImageSpec):
    """A Vision Transformer: patches, a class token, ``depth`` pre-normalised blocks, a head on the class token.

    ``mlp`` is the hidden width of a block's perceptron over its width. ``size`` is the only height and width the
    network runs at. All matrices start from N(0, ``fc_std``^2), the patches' convolution from
    the framework's uniform whatever ``init`` says. ``branch_scale`` and ``readout_scale`` are as in ``AnyNet``.
    """

    kind: ClassVar[str] = "vit"
    fixed_size: ClassVar[bool] = True  # weights depend on it
    width: int
    depth: int
    heads: int
    patch: int = 16
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
        if min(self.width, self.depth, self.heads, self.patch, self.classes, self.channels, *self.size) < 1:
            raise SpecError("vit: width, depth, heads, patch, classes, channels and size are at least 1")
        if self.width % self.heads:
            raise SpecError(f"vit: width {self.width} is not a multiple of {self.heads} heads")
        self.grid(self.size)

    def grid(self, size: Size) -> Size:
        """Patches along the height and the width of an image; raises SpecError where they do not cover it."""
        if size[0] % self.patch or size[1] % self.patch:
            sides = "x".join(map(str, size))
            wanted = f"use sides that are multiples of {self.patch}"
            raise SpecError(f"vit: patches of {self.patch} do not cover images of {sides}; {wanted}")
        return size[0] // self.patch, size[1] // self.patch

    def stem_path(self) -> Path:
        """The patches."""
        return Path({"patch_embed.proj": Patches(self.channels, self.width, self.patch)})

    def embedding_path(self, size: Size) -> Path:
        """The class token and the positions of all tokens."""
        return Path(
            {
                "cls_token": Parameters((1, 1, self.width)),
                "pos_embed": Parameters((1, 1 + self.grid(size)[0] * self.grid(size)[1], self.width)),
            }
        )

    def block_parts(self) -> Mapping[str, Mapping[str, Layer]]:
        """The layers of a block's two branches."""
        return vit_parts(self.width, self.heads, self.width // self.heads, int(self.mlp * self.width))

    def neck_path(self) -> Path:
        """The norm before the class token is taken; its cost does not depend on the size."""
        return Path({"norm": LayerNorm(self.width, EPS)})

    def head_path(self) -> Path:
        """The classifier."""
        return Path({"head": Dense(self.width, self.classes)}, pooled=True)

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width), by a network built for that size."""
        total, block, size = Tally(convention), Tally(convention), size or self.size
        grid = self.grid(size)
        tokens = 1 + grid[0] * grid[1], 1
        count_paths((self.stem_path(), self.embedding_path(size)), total, size)
        for layers in self.block_parts().values():
            count_paths((Path(layers),), block, tokens)
        total.add(block, self.depth)
        count_paths((self.neck_path(), self.head_path()), total, tokens)
        return total

    def build(self) -> ViTBackbone:
        """The module, its weights not written yet: ``models.network.build`` or a checkpoint does that."""
        return ViTBackbone(self)


def deit(width: int, depth: int, heads: int) -> ViT:
    """A DeiT without distillation token (table 1)."""
    return ViT(width, depth, heads)


def vit_parts(width: int, heads: int, key: int, hidden: int) -> Mapping[str, Mapping[str, Layer]]:
    """The layers of a block's two branches: ``heads`` heads of width ``key``, a perceptron of width ``hidden``."""
    attn: dict[str, Layer] = {
        "norm1": LayerNorm(width, EPS),
        "attn.qkv": Dense(width, 3 * heads * key),
        "attn.attend": Attention(heads, key, key),
        "attn.proj": Dense(heads * key, width),
    }
    mlp: dict[str, Layer] = {
        "norm2": LayerNorm(width, EPS),
        "mlp.fc1": Dense(width, hidden),
        "mlp.fc2": Dense(hidden, width),
    }
    return {"attn": attn, "mlp": mlp}


class ViTBlock(TokenBlock):
    """Attention of ``heads`` heads among all tokens, then a perceptron on each; both normalise their input."""

    def __init__(self, parts: Mapping[str, Mapping[str, Layer]], heads: int) -> None:
        super().__init__(parts)
        self.heads = heads

    def run_attn(self, x: Tensor) -> Tensor:
        """Multi-head self-attention of the normalised tokens."""
        q, k, v = split_heads(self.attn.qkv(self.norm1(x)), 3, self.heads)
        return self.attn.proj(join_heads(self.attn.attend(q, k, v)))  # type: ignore[no-any-return]

    def run_mlp(self, x: Tensor) -> Tensor:
        """The perceptron on the normalised tokens."""
        return self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))  # type: ignore[no-any-return]


class ViTBackbone(TransformerBackbone):
    """The network of a ``ViT`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem``, ``stage1.1`` … one per block and ``norm``, all tokens (batch, 1 + patches, width) with the class
    token first, and ``pool``, the class token.
    """

    inputs = ("patch_embed.proj",)
    readouts = ("head",)
    embeddings = ("cls_token", "pos_embed")

    def __init__(self, spec: ViT) -> None:
        super().__init__()
        self.spec = spec
        place_paths(self, (spec.embedding_path(spec.size), spec.stem_path()))
        blocks = {f"stage1.{i + 1}": f"blocks.{i}" for i in range(spec.depth)}
        for path in blocks.values():
            place(self, path, ViTBlock(spec.block_parts(), spec.heads))
        place_paths(self, (spec.neck_path(), spec.head_path()))
        self._walk(blocks, ("norm",))
        tokens = Port("x", "stream", spec.width, "NLC", spec.patch, prefix=1)
        pooled = Port("x", "stream", spec.width, "ND", 0)
        self.seams = tuple(
            Seam(name, int(name != "stem"), (pooled if name == "pool" else tokens,)) for name in self.steps[:-1]
        )

    def initialise(self) -> None:
        """Called when the weights are drawn: the class token and the positions."""
        super().initialise()
        nn.init.normal_(self.cls_token, 0.0, EPS)
        nn.init.normal_(self.pos_embed, 0.0, STD)

    def fit_state(self, state: dict[str, Tensor]) -> list[str]:
        """Resize a checkpoint's positions, in ``state``, where they are of another square grid; says what it did."""
        return fit_positions(state, "pos_embed", self.pos_embed, self.spec.grid(self.spec.size), prefix=1)

    def _run_stem(self, x: Tensor) -> Tensor:
        patches = self.patch_embed.proj(self._sized(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], 1)
        return tokens + self.pos_embed  # type: ignore[no-any-return]

    def _run_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)  # type: ignore[no-any-return]

    def _run_pool(self, x: Tensor) -> Tensor:
        return x[:, 0]

    def _run_head(self, x: Tensor) -> Tensor:
        if self.spec.dropout:
            x = F.dropout(x, self.spec.dropout, self.training)
        return self.head(self._scaled(x))  # type: ignore[no-any-return]


def fit_positions(state: dict[str, Tensor], key: str, own: Tensor, grid: Size, prefix: int) -> list[str]:
    """Resize the positions of a square grid that ``state`` has under a key to our ``own``, of ``grid``; says it did."""
    given, (_, length, width) = state.get(key), own.shape
    if given is None or given.ndim != 3 or given.shape[1] == length or given.shape[2] != width:
        return []
    side = round(max(given.shape[1] - prefix, 0) ** 0.5)
    if side < 1 or side * side != given.shape[1] - prefix:
        return []
    state[key] = resize_positions(given, (side, side), grid, prefix)
    return [f"{key} resized from {side}x{side} positions to {grid[0]}x{grid[1]}"]


def resize_positions(positions: Tensor, old: Size, new: Size, prefix: int = 1) -> Tensor:
    """Positions (1, prefix + old area, width), those of tokens first, for another grid: bicubic, antialiased."""
    first, grid = positions[:, :prefix], positions[:, prefix:]
    image = grid.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, new, mode="bicubic", antialias=True)
    return torch.cat([first, image.flatten(2).transpose(1, 2).to(positions.dtype)], 1)
