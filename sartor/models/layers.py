"""Layers as values: each counts itself and builds itself, so the two cannot drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import nn

from sartor.cost.counters import Size, Tally, out_size

if TYPE_CHECKING:
    from torch import Tensor


class UnsetConv2d(nn.Conv2d):
    """A convolution whose weights are left to ``initialise`` or a checkpoint to write: once, not twice."""

    def reset_parameters(self) -> None:
        """Nothing."""


class UnsetConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution likewise; it starts from N(0, 2 / fan_out) and a bias of 0."""

    def reset_parameters(self) -> None:
        """Nothing."""

    def initialise(self) -> None:
        """Called when the weights are drawn."""
        nn.init.normal_(self.weight, 0.0, (2.0 / self.weight[0].numel()) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class UnsetLinear(nn.Linear):
    """A linear layer likewise."""

    def reset_parameters(self) -> None:
        """Nothing."""


class Layer(Protocol):
    """A description of one layer."""

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Add the layer's cost on maps of ``size``; return the size it gives."""

    def build(self) -> nn.Module | nn.Parameter:
        """The module, or a parameter that stands alone."""


class Conv(NamedTuple):
    """A 2-D convolution; ``padding`` None means "same" for stride 1: (kernel - 1) // 2."""

    w_in: int
    w_out: int
    kernel: int
    stride: int = 1
    groups: int = 1
    bias: bool = False
    padding: int | None = None

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        w_in, w_out, kernel, stride, groups, bias, padding = self
        out = out_size(size, kernel, stride, (kernel - 1) // 2 if padding is None else padding)
        tally.conv(w_in, w_out, kernel * kernel * w_in // groups * w_out, bias, size, out)
        return out

    def build(self) -> nn.Module:
        """The module."""
        w_in, w_out, kernel, stride, groups, bias, padding = self
        same = (kernel - 1) // 2 if padding is None else padding
        return UnsetConv2d(w_in, w_out, kernel, stride, same, groups=groups, bias=bias)


class Norm(NamedTuple):
    """Batch normalisation of ``width`` channels; ``momentum`` is the share of a new batch in the statistics."""

    width: int
    momentum: float = 0.1

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        tally.norm(self.width)
        return size

    def build(self) -> nn.Module:
        """The module."""
        return nn.BatchNorm2d(self.width, momentum=self.momentum)


class MaxPool(NamedTuple):
    """A max-pooling with stride 2, by default 3x3 with padding 1; with ``ceil`` the last window may jut out."""

    width: int
    kernel: int = 3
    padding: int = 1
    ceil: bool = False

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        more = 1 if self.ceil else 0
        out = out_size((size[0] + more, size[1] + more), self.kernel, 2, self.padding)
        tally.max_pool(self.width, out)
        return out

    def build(self) -> nn.Module:
        """The module."""
        return nn.MaxPool2d(self.kernel, 2, self.padding, ceil_mode=self.ceil)


class AvgPool(NamedTuple):
    """An average-pooling: zeros of the padding are counted in the mean, what a window (``ceil``) juts out is not."""

    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Nothing is counted."""
        kernel, stride, padding, ceil = self
        more = stride - 1 if ceil else 0
        height, width = size
        return out_size((height + more, width + more), kernel, stride, padding)

    def build(self) -> nn.Module:
        """The module."""
        return nn.AvgPool2d(*self, count_include_pad=self.padding > 0)


class TransposedConv(NamedTuple):
    """A transposed 3x3 convolution of stride 2 with a bias: maps of 2n + 1 pixels a side from n."""

    w_in: int
    w_out: int

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        out = 2 * size[0] + 1, 2 * size[1] + 1
        tally.transposed_conv(self.w_in, self.w_out, 9 * self.w_in * self.w_out, size, out)
        return out

    def build(self) -> nn.Module:
        """The module."""
        return UnsetConvTranspose2d(self.w_in, self.w_out, 3, 2)


class Linear(NamedTuple):
    """A matrix product with bias on pooled features."""

    w_in: int
    w_out: int

    def add_to(self, tally: Tally, size: Size) -> Size:
        """Count the layer."""
        tally.linear(self.w_in, self.w_out, True)
        return size

    def build(self) -> nn.Module:
        """The module."""
        return UnsetLinear(self.w_in, self.w_out)


class Path(NamedTuple):
    """Layers applied one after another, from the block's input or (``pooled``) from a map pooled to 1x1.

    Names may be dotted (``downsample.0``); they are the state-dict names.
    """

    layers: Mapping[str, Layer]
    pooled: bool = False


def count_paths(paths: tuple[Path, ...], tally: Tally, size: Size) -> Size:
    """Add what all paths cost; return the size the first one, the main branch, gives."""
    main = None
    for layers, pooled in paths:
        here = (1, 1) if pooled else size
        for layer in layers.values():
            here = layer.add_to(tally, here)
        main = main or here
    return main or size


def place(root: nn.Module, name: str, module: nn.Module | nn.Parameter) -> None:
    """Register a module or a parameter under a dotted name, making plain containers on the way."""
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if isinstance(module, nn.Parameter):
        root.register_parameter(last, module)
    else:
        root.add_module(last, module)


def place_paths(root: nn.Module, paths: tuple[Path, ...]) -> None:
    """Build every layer of every path under its name."""
    for path in paths:
        for name, layer in path.layers.items():
            place(root, name, layer.build())


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def activation(name: str, inplace: bool = True) -> nn.Module:
    """``relu``, ``relu6``, ``silu`` or ``gelu``; ``inplace`` where the module can."""
    module = _ACTIVATIONS[name]
    return module() if module is nn.GELU else module(inplace=inplace)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (Huang et al. 2016): zero whole examples of a residual branch, rescale the others."""
    if not training or rate == 0.0:
        return x
    keep = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1.0 - rate)
    return x * keep.div_(1.0 - rate)
