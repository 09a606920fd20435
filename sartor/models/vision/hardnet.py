"""HarDNet (Chao et al. 2019, arXiv 1909.00948): dense blocks whose links follow powers of two, for little traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.cost.counters import Size, Tally
from sartor.models.anynet import AnyNet, Block, Site, Stage, Stem
from sartor.models.layers import Conv, Layer, MaxPool, Norm, Path, count_paths


def links(layer: int) -> tuple[int, ...]:
    """The layers whose outputs a layer takes, nearest first: those 2^n before it, where 2^n divides it (section 3.1).

    Layer 0 is the block's input and takes none.
    """
    return tuple(layer - 2**n for n in range(layer.bit_length()) if layer % 2**n == 0) if layer else ()


def layer_width(layer: int, growth: int, multiplier: float) -> int:
    """The width of a layer from 1: growth times multiplier^n, 2^n the largest power that divides it, made even."""
    width = float(growth)
    for _ in range(len(links(layer)) - 1):
        width *= multiplier  # one after another: the rounding of the sum of factors is part of the released models
    return (int(width + 1) // 2) * 2


@spec_kind
@dataclass(frozen=True, slots=True)
class Harmonic:
    """A harmonic dense block of ``layers`` convolutions, then a 1x1 convolution to the block's width.

    Its dense part gives the odd layers and the last. Where the block has a stride, its input is pooled first, by a 2x2
    maximum. ``depthwise`` (DS) makes each layer a 1x1 convolution, normalised and activated, and a normalised
    depthwise 3x3 one, and the pooling such a depthwise one. ``dropout`` acts before the last convolution.
    """

    kind: ClassVar[str] = "harmonic"
    layers: int
    growth: int
    multiplier: float = 1.7
    depthwise: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.layers < 1 or self.layers & (self.layers - 1):
            raise SpecError(f"harmonic: the number of layers is a power of two, not {self.layers}")
        if self.growth < 1 or self.multiplier < 1.0:
            raise SpecError(
                f"harmonic: growth and multiplier are at least 1, not {self.growth} and {self.multiplier:g}"
            )

    def widths(self, w_in: int) -> tuple[int, ...]:
        """The widths of the input and of every layer."""
        return w_in, *(layer_width(layer, self.growth, self.multiplier) for layer in range(1, self.layers + 1))

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers whose outputs the dense part gives, in this order."""
        return tuple(layer for layer in range(1, self.layers + 1) if layer % 2 or layer == self.layers)

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The pooling where there is one, the dense layers, the 1x1 convolution."""
        path = self.down_path(site)
        widths = self.widths(site.w_in)
        for layer in range(1, self.layers + 1):
            w_in, name = sum(widths[other] for other in links(layer)), f"layers.{layer - 1}"
            if self.depthwise:
                path |= _conv(f"{name}.layer1", Conv(w_in, widths[layer], 1))
                path |= _conv(f"{name}.layer2", Conv(widths[layer], widths[layer], 3, groups=widths[layer]))
            else:
                path |= _conv(name, Conv(w_in, widths[layer], 3))
        return (Path(path | _conv("transition", Conv(sum(widths[i] for i in self.kept), site.w_out, 1))),)

    def down_path(self, site: Site) -> dict[str, Layer]:
        """The pooling, if the block has a stride."""
        if site.stride == 1:
            return {}
        if site.stride != 2:
            raise SpecError(f"harmonic: the stride is 1 or 2, not {site.stride}")
        return (
            _conv("down", Conv(site.w_in, site.w_in, 3, 2, site.w_in))
            if self.depthwise
            else {"down": MaxPool(site.w_in, 2, 0)}
        )

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return HarmonicBlock(self, site, act)


def _conv(name: str, conv: Conv) -> dict[str, Layer]:
    """A convolution and its norm under the names of the released models."""
    return {f"{name}.dwconv" if conv.groups > 1 else f"{name}.conv": conv, f"{name}.norm": Norm(conv.w_out)}


class HarmonicBlock(Block):
    """A layer's output is let go of after the last layer that reads it, so that few are alive at once."""

    kind: Harmonic

    def __init__(self, kind: Harmonic, site: Site, act: str) -> None:
        super().__init__(kind, site, act)
        last = {i: layer for layer in range(1, kind.layers + 1) for i in links(layer)}
        self._done = {n: [i for i, reader in last.items() if reader == n and i not in kind.kept] for n in last.values()}

    @property
    def residual(self) -> bool:
        """Nothing is added to the branch."""
        return False

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """No shortcut, and the last convolution's output before the activation."""
        if self.site.stride > 1:
            x = self.down.norm(self.down.dwconv(x)) if self.kind.depthwise else self.down(x)
        x = self.dense(x)
        if self.kind.dropout:
            x = F.dropout(x, self.kind.dropout, self.training)
        return None, self.transition.norm(self.transition.conv(x))

    def dense(self, x: Tensor) -> Tensor:
        """The dense part on a pooled input: the odd layers' outputs and the last's, concatenated."""
        maps = {0: x}
        for layer in range(1, self.kind.layers + 1):
            maps[layer] = self._layer(layer, [maps[i] for i in links(layer)])
            for i in self._done.get(layer, ()):
                del maps[i]
        return torch.cat([maps[i] for i in self.kind.kept], 1)

    def _layer(self, layer: int, given: list[Tensor]) -> Tensor:
        x = torch.cat(given, 1) if len(given) > 1 else given[0]
        module: Any = self.layers.get_submodule(str(layer - 1))
        if not self.kind.depthwise:
            return self._activated(module, x)
        return module.layer2.norm(module.layer2.dwconv(self._activated(module.layer1, x)))  # type: ignore[no-any-return]

    def _activated(self, module: Any, x: Tensor) -> Tensor:
        return self.act(module.norm(module.conv(x)))  # type: ignore[no-any-return]


class Row(NamedTuple):
    """One block: the number and growth of its layers, the width after it, the stride before it."""

    layers: int
    growth: int
    width: int
    stride: int


def hardnet(
    stem: tuple[int, int],
    rows: Sequence[Sequence[int]],
    multiplier: float,
    depthwise: bool = False,
    dropout: float = 0.1,
    last_dropout: float = 0.0,
) -> AnyNet:
    """A HarDNet of blocks as ``Row`` says them.

    ``stem`` has the widths of the two first convolutions, ``dropout`` is the classifier's and ``last_dropout`` the
    last block's. A network of standard convolutions ends its stem by a 3x3 max-pooling, so its first stride is 1; a
    ``depthwise`` one begins its first block by the depthwise pooling. Every block is a stage: seam ``stage2.1`` is
    after the second, before the pooling.
    """
    blocks = [Row(*row) for row in rows]
    stages = tuple(
        Stage(
            Harmonic(row.layers, row.growth, multiplier, depthwise, last_dropout if row is blocks[-1] else 0.0),
            1,
            row.width,
            row.stride,
        )
        for row in blocks
    )
    first = Stem(stem[1], 3, 2, pool=not depthwise, before=(stem[0],), last=1 if depthwise else 3)
    return AnyNet(first, stages, act="relu6", dropout=dropout, names="hardnet")


def published_cio(spec: AnyNet, size: Size | None = None) -> int:
    """The CIO of the paper's tables, which leave out the depthwise convolutions that halve the maps of DS networks.

    ``count(spec).value("cio")`` has them too. The size is (height, width).
    """
    here = count_paths((spec.stem_path(),), Tally(), size or spec.size)
    left_out = Tally()
    for _, _, kind, site in spec.blocks():
        if isinstance(kind, Harmonic):
            count_paths((Path(kind.down_path(site)),), left_out, here)
        here = count_paths(kind.paths(site), Tally(), here)
    return spec.tally(size).cio - left_out.cio


@lru_cache(maxsize=16)
def released_names(spec: AnyNet) -> Mapping[str, str]:
    """From the authors' names of layers (a list ``base``, poolings and dropouts in it too) to ours."""
    ours = {"base.0.conv": "stem.conv.0", "base.0.norm": "stem.conv.1", "base.1.conv": "stem.conv.3"}
    ours["base.1.norm"] = "stem.norm"
    place = 2
    for number, (s, b, kind, site) in enumerate(spec.blocks()):
        if not isinstance(kind, Harmonic):
            raise SpecError(f"released_names: only harmonic blocks have names there, {kind.kind} has none")
        block = spec.block_path(s, b)
        parts = {"down": place} if number == 0 or site.stride > 1 else {}
        parts["layers"] = place + len(parts)
        parts["transition"] = parts["layers"] + (2 if kind.dropout else 1)
        place = parts["transition"] + 1
        for layer, description in kind.paths(site)[0].layers.items():
            if isinstance(description, MaxPool):
                continue
            part, _, leaf = layer.partition(".")
            ours[f"base.{parts[part]}.{layer if part == 'layers' else leaf}"] = f"{block}.{layer}"
    ours[f"base.{place}.3"] = "head.fc"
    return ours
