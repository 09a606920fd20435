"""Layers of transformers as values, counted as they are built: matrix products on tokens, layer norms, attention.

Tokens are (batch, length, width). A size of n tokens is written (n, 1), or as the height and width of their grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.models.layers import Conv, Path, UnsetConv2d, UnsetLinear, drop_path, place_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sartor.cost.counters import Size, Tally
    from sartor.models.layers import Layer


class Dense(NamedTuple):
    """A matrix product on every token."""

    w_in: int
    w_out: int
    bias: bool = True

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        tally.linear(self.w_in, self.w_out, self.bias, size[0] * size[1])
        return size

    def build(self) -> nn.Module:
        """The module."""
        return UnsetLinear(self.w_in, self.w_out, bias=self.bias)


class LayerNorm(NamedTuple):
    """Layer normalisation of ``width`` channels."""

    width: int
    eps: float = 1e-5

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        tally.norm(self.width)
        return size

    def build(self) -> nn.Module:
        """The module."""
        return nn.LayerNorm(self.width, self.eps)


class TokenNorm(NamedTuple):
    """Batch normalisation of ``width`` channels over the tokens of all images."""

    width: int

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        tally.norm(self.width)
        return size

    def build(self) -> nn.Module:
        """The module."""
        return nn.BatchNorm1d(self.width)


class Patches(NamedTuple):
    """A convolution whose stride is its kernel: one vector for each patch of the image."""

    w_in: int
    w_out: int
    side: int

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        out = size[0] // self.side, size[1] // self.side
        tally.conv(self.w_in, self.w_out, self.side**2 * self.w_in * self.w_out, True, size, out)
        return out

    def build(self) -> nn.Module:
        """The module."""
        return UniformConv2d(self.w_in, self.w_out, self.side, self.side)


class UniformConv(Conv):
    """A convolution with the framework's initial weights."""

    __slots__ = ()

    def build(self) -> nn.Module:
        """The module."""
        w_in, w_out, kernel, stride, groups, bias, padding = self
        same = (kernel - 1) // 2 if padding is None else padding
        return UniformConv2d(w_in, w_out, kernel, stride, same, groups=groups, bias=bias)


class UniformConv2d(UnsetConv2d):
    """A convolution that starts from the framework's uniform +-1/sqrt(fan_in), its bias too."""

    def initialise(self) -> None:
        """Called when the weights are drawn."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)


class Attention(NamedTuple):
    """Scaled dot-product attention of ``heads`` heads with keys of width ``key`` and values of width ``value``.

    A query sees ``seen`` keys (0: as many as there are queries) out of ``keys`` in all (0: one for each query).
    """

    heads: int
    key: int
    value: int
    seen: int = 0
    keys: int = 0

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count both matrix products."""
        queries = size[0] * size[1]
        tally.attention(self.heads, self.key, self.value, (queries, self.seen or queries, self.keys or queries))
        return size

    def build(self) -> nn.Module:
        """The module."""
        return Attend()


class Attend(nn.Module):
    """softmax(q k / sqrt(key width) + bias) v; it has no weights. Hooks that count find attention here."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Of queries, keys and values (batch, heads, length, width each) the attended values, shaped as queries."""
        return F.scaled_dot_product_attention(q, k, v, bias)


class Parameters(NamedTuple):
    """A free-standing parameter of a shape, such as a class token or a table of positions."""

    shape: tuple[int, ...]

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the parameters; adding them to something costs no multiply-adds."""
        tally.table(self.shape)
        return size

    def build(self) -> nn.Parameter:
        """The parameter, unset."""
        return nn.Parameter(torch.empty(self.shape))


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(batch, length, parts * heads * width) as that many tensors (batch, heads, length, width)."""
    return x.reshape(x.shape[0], x.shape[1], parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, width) as (batch, length, heads * width)."""
    return x.transpose(1, 2).flatten(2)


def constant_device() -> torch.device:
    """Where a module's constants are made: a network without memory has them all the same, on the CPU."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


class TokenBlock(nn.Module):
    """Branches one after another, each added to its own input: ``x + attn(x)``, then ``x + mlp(x)``.

    ``parts`` are the layers of each branch by state-dict name; ``run_<branch>`` of a family computes one.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    replacing: tuple[str, ...] = ()  # branches that are not added, for they change the shape

    def __init__(self, parts: Mapping[str, Mapping[str, Layer]]) -> None:
        super().__init__()
        self.parts, self.drop_rate, self.branch_scale = parts, 0.0, 1.0
        place_paths(self, tuple(Path(layers) for layers in parts.values()))

    def branch(self, name: str, x: Tensor) -> Tensor:
        """The output of one branch; of one that is added, with the block's factor and stochastic depth on it."""
        out: Tensor = getattr(self, f"run_{name}")(x)
        if name in self.replacing:
            return out
        if self.branch_scale != 1.0:
            out = out * self.branch_scale
        return drop_path(out, self.drop_rate, self.training)

    def join(self, name: str, x: Tensor, branch: Tensor) -> Tensor:
        """What follows from a branch and its input."""
        return branch if name in self.replacing else x + branch

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        for name in self.parts:
            x = self.join(name, x, self.branch(name, x))
        return x
