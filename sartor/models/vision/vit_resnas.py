"""ViT-ResNAS (Liao, Karaman and Sze 2021, arXiv 2109.00642): vision transformers of stages, searched block by block.

A stage is joined to the next by residual spatial reduction (section 3). Blocks may all differ in heads and hidden
width. What the search left out is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.image_spec import ImageSpec
from sartor.models.layers import Layer, Norm, Path, count_paths, place, place_paths
from sartor.models.tokens import Dense, LayerNorm, Parameters, Patches, UniformConv
from sartor.models.transformer import TransformerBackbone
from sartor.models.vision.deit import EPS, STD, ViTBlock, fit_positions, vit_parts

CONVS = 3  # of the stem, before its projection


class Site(NamedTuple):
    """Where a block stands: stage and position in it from 0, its width, its heads and their width, its perceptron."""

    stage: int
    block: int
    width: int
    heads: int
    key: int
    hidden: int

    def parts(self) -> Mapping[str, Mapping[str, Layer]]:
        """The layers of the block's two branches."""
        return vit_parts(self.width, self.heads, self.key, self.hidden)


@spec_kind
@dataclass(frozen=True, slots=True)
class ViTResNAS(ImageSpec):
    """A vision transformer of stages. ``widths`` and ``head_dims`` are by stage, ``heads`` and ``hidden`` by block.

    ``heads`` times the stage's ``head_dims`` need not be the width; ``hidden`` is the width inside the perceptron.
    Every stage but the first halves the grid and widens first, beside a shortcut unless ``residual`` is False.
    ``mid`` is the width of the stem's three convolutions; 0 leaves them out, so that patches are embedded at once.
    ``distilled`` adds a token and a classifier on it, averaged with the first. ``size`` is the only height and width
    the network runs at. ``dropout`` is of the embedded tokens. All matrices start from N(0, ``fc_std``^2),
    convolutions from the framework's uniform whatever ``init`` says. ``branch_scale`` and ``readout_scale`` are as in
    ``AnyNet``.
    """

    kind: ClassVar[str] = "vit-resnas"
    fixed_size: ClassVar[bool] = True  # weights depend on it
    widths: tuple[int, ...]
    head_dims: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    hidden: tuple[tuple[int, ...], ...]
    mid: int = 24
    patch: int = 14
    residual: bool = True
    distilled: bool = False
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
        if not len(self.widths) == len(self.head_dims) == len(self.heads) == len(self.hidden) > 0:
            raise SpecError("vit-resnas: widths, head_dims, heads and hidden are given for each stage")
        for heads, hidden in zip(self.heads, self.hidden, strict=True):
            if not len(heads) == len(hidden) > 0:
                raise SpecError("vit-resnas: every stage has blocks, and each of them heads and a hidden width")
            if min(*heads, *hidden) < 1:
                raise SpecError("vit-resnas: heads and hidden are at least 1; leave a skipped block out")
        if min(self.patch, self.classes, self.channels, *self.size, *self.widths, *self.head_dims) < 1 or self.mid < 0:
            raise SpecError("vit-resnas: widths, head_dims, patch, classes, channels and size are at least 1, mid 0")
        if self.mid and self.patch % 2:
            raise SpecError(f"vit-resnas: a stem of convolutions needs even patches, not of {self.patch}; or mid = 0")
        if any(after < before for before, after in zip(self.widths, self.widths[1:], strict=False)):
            raise SpecError("vit-resnas: a stage is at least as wide as the one before it")
        self.grid(self.size, 0)

    @property
    def tokens(self) -> int:
        """How many tokens there are beside the patches: they stand first."""
        return 1 + self.distilled

    def grid(self, size: Size, stage: int) -> Size:
        """The map of a stage for an image; raises SpecError for sides that the last stage's patches do not cover."""
        whole = self.patch * 2 ** (len(self.widths) - 1)
        if size[0] % whole or size[1] % whole:
            sides = "x".join(map(str, size))
            raise SpecError(f"vit-resnas: images of {sides} do not fit; use sides that are multiples of {whole}")
        stride = self.patch * 2**stage
        return size[0] // stride, size[1] // stride

    def blocks(self) -> Iterator[Site]:
        """Every block, written out."""
        for stage, (width, key) in enumerate(zip(self.widths, self.head_dims, strict=True)):
            for block, (heads, hidden) in enumerate(zip(self.heads[stage], self.hidden[stage], strict=True)):
                yield Site(stage, block, width, heads, key, hidden)

    def stem_path(self) -> Path:
        """The convolutions and the projection of patches."""
        layers: dict[str, Layer] = {}
        for i in range(CONVS if self.mid else 0):
            conv = UniformConv(self.mid if i else self.channels, self.mid, 3, 1 if i else 2)
            layers |= {f"patch_embed.conv{i + 1}": conv, f"patch_embed.bn{i + 1}": Norm(self.mid)}
        given, side = (self.mid, self.patch // 2) if self.mid else (self.channels, self.patch)
        return Path({**layers, "patch_embed.proj": Patches(given, self.widths[0], side)})

    def embedding_path(self, size: Size) -> Path:
        """The tokens and the positions of all."""
        width, (rows, columns) = self.widths[0], self.grid(size, 0)
        tokens = {name: Parameters((1, 1, width)) for name in ("cls_token", "dist_token")[: self.tokens]}
        return Path({**tokens, "pos_embed": Parameters((1, self.tokens + rows * columns, width))})

    def reduction_path(self, stage: int, size: Size) -> Path:
        """What leads into a stage but the first: a norm, a path for patches, one for tokens, new positions."""
        before, width = self.widths[stage - 1 : stage + 1]
        rows, columns = self.grid(size, stage)
        name = f"stages.{stage}.reduction"
        return Path(
            {
                f"{name}.norm": LayerNorm(before, EPS),
                f"{name}.conv": UniformConv(before, width, 3, 2, bias=True),
                f"{name}.token": Dense(before, width),
                f"{name}.pos_embed": Parameters((1, rows * columns, width)),
            }
        )

    def end_path(self) -> Path:
        """The norm, then the classifiers on a token each."""
        width = self.widths[-1]
        heads = {name: Dense(width, self.classes) for name in self.classifiers()}
        return Path({"norm": LayerNorm(width, EPS), **heads}, pooled=True)

    def classifiers(self) -> tuple[str, ...]:
        """The names of the classifiers."""
        return ("head", "head_dist")[: self.tokens]

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width), by a network built for that size."""
        total, size = Tally(convention), size or self.size
        count_paths((self.stem_path(), self.embedding_path(size)), total, size)
        for site in self.blocks():
            if site.stage and not site.block:
                for name, layer in self.reduction_path(site.stage, size).layers.items():
                    layer.add_to(
                        total, (self.tokens, 1) if name.endswith(".token") else self.grid(size, site.stage - 1)
                    )
            rows, columns = self.grid(size, site.stage)
            for layers in site.parts().values():
                count_paths((Path(layers),), total, (self.tokens + rows * columns, 1))
        count_paths((self.end_path(),), total, size)
        return total

    def build(self) -> ViTResNASBackbone:
        """The module, its weights not written yet: ``models.network.build`` or a checkpoint does that."""
        return ViTResNASBackbone(self)


def vit_resnas(
    widths: Sequence[int], head_dims: Sequence[int], heads: Sequence[Sequence[int]], hidden: Sequence[Sequence[int]]
) -> ViTResNAS:
    """A network of patches of 14 behind a stem of convolutions of 24 channels, with one class token."""
    return ViTResNAS(tuple(widths), tuple(head_dims), tuple(map(tuple, heads)), tuple(map(tuple, hidden)))


class ViTResNASBackbone(TransformerBackbone):
    """The network of a ``ViTResNAS`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem``, ``stage1.1`` … one per block and ``norm``, all tokens (batch, tokens + patches, width) with the
    class token first, then the one for distillation; and ``pool``, those tokens side by side. The grid is reduced on
    the way into a stage, after the last seam of the one before. Training and serving both average two classifiers.
    """

    embeddings = ("cls_token", "dist_token", "pos_embed")

    def __init__(self, spec: ViTResNAS) -> None:
        super().__init__()
        self.spec = spec
        place_paths(self, (spec.embedding_path(spec.size), spec.stem_path()))
        self.inputs = ("patch_embed.conv1" if spec.mid else "patch_embed.proj",)
        self.readouts = spec.classifiers()
        blocks, seams = dict[str, str](), list[Seam]()
        port = Port("x", "stream", spec.widths[0], "NLC", spec.patch, prefix=spec.tokens)
        seams.append(Seam("stem", 0, (port,)))
        self._reducing: dict[str, int] = {}
        for site in spec.blocks():
            name, path = f"stage{site.stage + 1}.{site.block + 1}", f"stages.{site.stage}.blocks.{site.block}"
            if site.stage and not site.block:
                place_paths(self, (spec.reduction_path(site.stage, spec.size),))
                self._reducing[name] = site.stage
            place(self, path, ViTBlock(site.parts(), site.heads))
            blocks[name] = path
            port = Port("x", "stream", site.width, "NLC", spec.patch * 2**site.stage, prefix=spec.tokens)
            seams.append(Seam(name, site.stage + 1, (port,)))
        place_paths(self, (spec.end_path(),))
        self._walk(blocks, ("norm",))
        last, pooled = len(spec.widths), Port("x", "stream", spec.tokens * spec.widths[-1], "ND", 0)
        self.seams = (*seams, Seam("norm", last, (port,)), Seam("pool", last, (pooled,)))

    def initialise(self) -> None:
        """Called when the weights are drawn: tokens and positions."""
        super().initialise()
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2] in self.embeddings:
                nn.init.normal_(parameter, 0.0, STD)

    def fit_state(self, state: dict[str, Tensor]) -> list[str]:
        """Resize the positions of every stage, in a checkpoint's ``state``, where they are of another square grid."""
        spec = self.spec
        said = fit_positions(state, "pos_embed", self.pos_embed, spec.grid(spec.size, 0), spec.tokens)
        for stage in self._reducing.values():
            key = f"stages.{stage}.reduction.pos_embed"
            said += fit_positions(state, key, self.get_parameter(key), spec.grid(spec.size, stage), 0)
        return said

    def _run_stem(self, x: Tensor) -> Tensor:
        stem, x = self.patch_embed, self._sized(x)
        if self.spec.mid:
            first = F.relu(stem.bn1(stem.conv1(x)))
            x = F.relu(stem.bn2(stem.conv2(first)))
            x = first + F.relu(stem.bn3(stem.conv3(x)))
        tokens = [self.cls_token, self.dist_token] if self.spec.distilled else [self.cls_token]
        patches = stem.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), patches], 1) + self.pos_embed
        return F.dropout(x, self.spec.dropout, self.training) if self.spec.dropout else x

    def _enter(self, step: str, x: Tensor) -> Tensor:
        if step not in self._reducing:
            return x
        spec, stage = self.spec, self._reducing[step]
        down: Any = self.get_submodule(f"stages.{stage}.reduction")
        grid, normed = spec.grid(spec.size, stage - 1), down.norm(x)
        patches = _as_tokens(down.conv(_as_map(normed[:, spec.tokens :], grid))) + down.pos_embed
        out = torch.cat([down.token(normed[:, : spec.tokens]), patches], 1)
        if not spec.residual:
            return out
        pooled = _as_tokens(F.avg_pool2d(_as_map(x[:, spec.tokens :], grid), 2))
        shortcut = torch.cat([x[:, : spec.tokens], pooled], 1)
        return out + F.pad(shortcut, (0, spec.widths[stage] - spec.widths[stage - 1]))

    def _run_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)  # type: ignore[no-any-return]

    def _run_pool(self, x: Tensor) -> Tensor:
        return x[:, : self.spec.tokens].flatten(1)

    def _run_head(self, x: Tensor) -> Tensor:
        x = self._scaled(x)
        if not self.spec.distilled:
            return self.head(x)  # type: ignore[no-any-return]
        width = self.spec.widths[-1]
        return (self.head(x[:, :width]) + self.head_dist(x[:, width:])) / 2  # type: ignore[no-any-return]


def _as_map(tokens: Tensor, grid: Size) -> Tensor:
    """(batch, height * width, channels) as (batch, channels, height, width)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def _as_tokens(x: Tensor) -> Tensor:
    """The inverse."""
    return x.flatten(2).transpose(1, 2)
