"""Cost as arithmetic: what layers add, from their widths and map sizes, without building them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sartor.core.cost import Cost, counted

Size = tuple[int, int]  # height and width of a map
Convention = Literal["sartor", "pycls"]
FLOAT_BYTES = 4


@dataclass(slots=True)
class Tally:
    """Running totals for one example.

    The ``sartor`` convention counts multiply-adds of convolutions and linear layers without biases, and as
    activations their outputs. ``cio`` is the values that convolutions read and write, a map once each time it is read
    (Chao et al. 2019, arXiv 1909.00948, section 3); ``traffic`` is the bytes of these, of their weights and of linear
    layers. The two products of attention, queries with keys and weights with values, are counted
    likewise; their traffic is queries, keys, values and result, since fused kernels keep the attention weights to
    themselves. Norms, softmax and additions are free. ``pycls`` also counts bias additions and max-pool outputs
    (it exists for parity).
    """

    convention: Convention = "sartor"
    params: int = 0
    macs: int = 0
    activations: int = 0
    traffic: int = 0
    cio: int = 0

    def conv(self, w_in: int, w_out: int, weights: int, bias: bool, size_in: Size, size_out: Size) -> None:
        """A 2-D convolution with so many weights from ``size_in`` to ``size_out``."""
        pixels = size_out[0] * size_out[1]
        out = w_out * pixels
        self.params += weights
        self.macs += weights * pixels
        self.activations += out
        moved = w_in * size_in[0] * size_in[1] + out
        self.cio += moved
        self.traffic += FLOAT_BYTES * (moved + weights)
        if bias:
            self.params += w_out
            if self.convention == "pycls":
                self.macs += out

    def transposed_conv(self, w_in: int, w_out: int, weights: int, size_in: Size, size_out: Size) -> None:
        """A transposed convolution with a bias: each weight meets every pixel it reads."""
        read, out = size_in[0] * size_in[1], w_out * size_out[0] * size_out[1]
        moved = w_in * read + out
        self.params += weights + w_out
        self.macs += weights * read + (out if self.convention == "pycls" else 0)
        self.activations += out
        self.cio += moved
        self.traffic += FLOAT_BYTES * (moved + weights)

    def linear(self, w_in: int, w_out: int, bias: bool, tokens: int = 1) -> None:
        """A matrix product, with its bias, on each of so many tokens."""
        self.params += w_in * w_out + (w_out if bias else 0)
        self.macs += tokens * (w_in * w_out + (w_out if bias and self.convention == "pycls" else 0))
        self.activations += tokens * w_out
        self.traffic += FLOAT_BYTES * (tokens * (w_in + w_out) + w_in * w_out)

    def attention(self, heads: int, key: int, value: int, lengths: tuple[int, int, int]) -> None:
        """Dot-product attention with keys and values of a width per head.

        ``lengths`` are the numbers of queries, of keys that each sees, and of keys in all.
        """
        queries, seen, keys = lengths
        self.macs += heads * queries * seen * (key + value)
        self.activations += heads * queries * (seen + value)
        self.traffic += FLOAT_BYTES * heads * (queries + keys) * (key + value)

    def table(self, shape: tuple[int, ...]) -> None:
        """Parameters that are added to something: positions, tokens."""
        self.params += math.prod(shape)

    def norm(self, width: int) -> None:
        """A normalisation with a scale and a shift per channel."""
        self.params += 2 * width

    def max_pool(self, width: int, size_out: Size) -> None:
        """A max-pooling: free but in the pycls convention, which counts its outputs."""
        if self.convention == "pycls":
            self.activations += width * size_out[0] * size_out[1]

    def add(self, other: Tally, times: int = 1) -> None:
        """Add another tally ``times`` times."""
        self.params += times * other.params
        self.macs += times * other.macs
        self.activations += times * other.activations
        self.traffic += times * other.traffic
        self.cio += times * other.cio

    def cost(self) -> Cost:
        """The totals as a counted cost."""
        names = ("params", "macs", "activations", "traffic", "cio")
        return counted(**{name: getattr(self, name) for name in names})


def out_size(size: Size, kernel: int, stride: int, padding: int) -> Size:
    """The map size a convolution or pooling gives (floor rule)."""
    height, width = size
    border = 2 * padding - kernel
    return (height + border) // stride + 1, (width + border) // stride + 1
