"""A network rewritten for oneDNN: norms folded, activations and residual additions fused into the convolutions.

The operators are those PyTorch's own compiler emits when it freezes a network (``torch.ops.mkldnn``). Emitted here
from an fx trace they need no compiler and are ready in a fraction of a second. They are not public, so
``unavailable`` asks whether this build has them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

_MODULES: Mapping[type[nn.Module] | None, str] = {
    nn.ReLU: "relu", nn.SiLU: "swish", nn.Sigmoid: "sigmoid", nn.Hardswish: "hardswish", nn.Tanh: "tanh",
}  # fmt: skip
_FUNCTIONS: Mapping[Any, str] = {
    F.relu: "relu", torch.relu: "relu", "relu": "relu", "relu_": "relu", F.silu: "swish", F.hardswish: "hardswish",
    F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", torch.tanh: "tanh",
}  # fmt: skip
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
_DROPOUTS = (nn.Identity, nn.Dropout, nn.Dropout2d)


def unavailable(dtype: torch.dtype) -> str | None:
    """Why this build or processor cannot run networks lowered to a dtype, or None."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this build of PyTorch has no oneDNN"
    for name in ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight"):
        if not hasattr(torch.ops.mkldnn, name):
            return f"this build of PyTorch has no operator mkldnn.{name}"
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no bfloat16 instructions"
    return None


def trace(network: nn.Module) -> fx.GraphModule:
    """The network as an fx graph of layers, those included that are subclasses of PyTorch's with the same forward."""
    return fx.GraphModule(network, _Tracer().trace(network))


def lower(network: nn.Module, example: Tensor, dtype: torch.dtype) -> fx.GraphModule:
    """A module with the answers of ``network`` in eval mode, for channels-last images of ``dtype``; float32 logits.

    ``network``, whose trace this is, stays as it was; ``example`` is a float32 batch it can run on.
    """
    traced = trace(network)
    with torch.inference_mode():
        ShapeProp(traced).propagate(example)
        return _Lowering(traced, dtype).result()


def fold_norms(network: nn.Module) -> fx.GraphModule:
    """The network in eval mode, each norm that alone reads a convolution folded into it; the rest as it was."""
    traced = trace(network)
    for node in list(traced.graph.nodes):
        norm, conv = _module(traced, node), _module(traced, node.args[0]) if node.args else None
        if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d) and len(node.args[0].users) == 1:
            traced.add_submodule(str(node.args[0].target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution while norms are folded into it."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, module: nn.Conv2d) -> _Convolution:
        padding: Any = module.padding
        places = list(module.stride), list(padding), list(module.dilation)
        return cls(module.weight, module.bias, *places, module.groups)

    @classmethod
    def of_norm(cls, norm: nn.BatchNorm2d) -> _Convolution:
        """A norm that follows no convolution is a depthwise 1x1 convolution: faster, and it fuses further."""
        ones = torch.ones(norm.num_features, 1, 1, 1)
        return cls(ones, None, [1, 1], [0, 0], [1, 1], norm.num_features).then(norm)

    def then(self, norm: nn.BatchNorm2d) -> _Convolution:
        """This convolution and the norm after it as one."""
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        weight, bias = fuse_conv_bn_weights(self.weight, self.bias, mean, variance, norm.eps, norm.weight, norm.bias)
        return replace(self, weight=weight, bias=bias)

    def packed(self, size: list[int], dtype: torch.dtype) -> Tensor:
        """The weights in the order oneDNN prefers for inputs of a size; they serve any batch."""
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        packed: Tensor = reorder(
            self.weight.detach().to(dtype), self.padding, self.stride, self.dilation, self.groups, size
        )
        return packed


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one layer."""
        same = any(isinstance(m, layer) and type(m).forward is layer.forward for layer in _LAYERS)
        return same or super().is_leaf_module(m, module_qualified_name)


class _Lowering:
    """Rewrites a traced network in place, one layer with all that fuses into it after another."""

    def __init__(self, traced: fx.GraphModule, dtype: torch.dtype) -> None:
        self.traced, self.graph, self.dtype = traced, traced.graph, dtype
        self.owners: set[fx.Node] = set()  # nodes whose result shares its memory with no other live value
        self.fused: set[fx.Node] = set()  # nodes that are no longer in the graph
        self.constants = 0

    def result(self) -> fx.GraphModule:
        """The rewritten module."""
        for node in list(self.graph.nodes):
            if isinstance(self._module(node), _DROPOUTS) or node.target is F.dropout:
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
        readout = self._readout()
        for node in list(self.graph.nodes):
            if node is readout:
                with self.graph.inserting_before(node):
                    readout.update_arg(0, self.graph.call_method("float", readout.args[:1]))
            elif node not in self.fused:
                self._lower(node)
        self.traced.delete_all_unused_submodules()
        self.traced.recompile()
        return self.traced

    def _readout(self) -> fx.Node | None:
        """The layer that gives the logits: it stays in float32, so that rounding makes no ties."""
        node: Any = self.graph.output_node().args[0]
        while isinstance(node, fx.Node) and not isinstance(self._module(node), nn.Linear | nn.Conv2d):
            node = node.args[0] if node.args else None
        return node if isinstance(node, fx.Node) else None

    def _lower(self, node: fx.Node) -> None:
        """Fuse a convolution or a lone norm; take anything else as it is, its parameters in the dtype."""
        module = self._module(node)
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            self._fuse(node, _Convolution.of(module))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            self._fuse(node, _Convolution.of_norm(module))
        elif isinstance(module, nn.MaxPool2d):
            self.owners.add(node)
        elif module is not None and any(True for _ in module.parameters()):
            self.traced.add_submodule(str(node.target), copy.deepcopy(module).to(self.dtype))
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.traced)
            if isinstance(value, Tensor) and value.is_floating_point():
                node.target = self._name(value.detach().to(self.dtype))

    def _fuse(self, node: fx.Node, conv: _Convolution) -> None:
        """Replace a layer and those that alone read it: a norm, then an activation, or an addition and a relu."""
        chain, source = [node], node.args[0]
        assert isinstance(source, fx.Node)
        norm = self._module(_reader(node))
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            conv = conv.then(norm)
            chain += node.users
        unary = self._absorb_activation(chain)
        other = self._addend(chain[-1]) if unary == "none" else None
        overwrite = other is not None and other is not source and self._is_free(other, chain[-1])
        if conv.groups > 1 and not overwrite:  # the operator would take these sums apart, and not in every dtype
            other = None
        if other is not None:
            chain += chain[-1].users
            unary = self._absorb_activation(chain, only="relu")
        with self.graph.inserting_before(chain[-1]):
            weight = self._constant(conv.packed(list(_shape(source)), self.dtype))
            bias = None if conv.bias is None else self._constant(conv.bias.detach().to(self.dtype))
            layer = weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups
            self._replace(chain, self.graph.call_function(*_operation(source, other, overwrite, layer, unary)))

    def _absorb_activation(self, chain: list[fx.Node], only: str | None = None) -> str:
        """The activation that alone reads the chain's end, which it then ends; "none" if there is none."""
        reader = _reader(chain[-1])
        if reader is None:
            return "none"
        module = self._module(reader)
        name = _FUNCTIONS.get(reader.target) if module is None else _MODULES.get(type(module))
        if name is None or only not in (None, name):
            return "none"
        chain.append(reader)
        return name

    def _addend(self, term: fx.Node) -> fx.Node | None:
        """The other term of the sum that alone reads ``term``, if it is of one shape and was computed before."""
        total = _reader(term)
        if total is None or total.target not in _ADDITIONS or total.kwargs or len(total.args) != 2:
            return None
        other = total.args[0] if total.args[1] is term else total.args[1]
        fits = isinstance(other, fx.Node) and other < term and _shape(other) == _shape(term)
        return other if fits else None  # type: ignore[return-value]

    def _is_free(self, value: fx.Node, term: fx.Node) -> bool:
        """Whether the sum with ``term`` may be written over ``value``: all else that reads it is done by then."""
        others = [reader for reader in value.users if reader not in term.users]
        return value in self.owners and all(reader in self.owners and reader < term for reader in others)

    def _replace(self, chain: list[fx.Node], new: fx.Node) -> None:
        new.meta = dict(chain[-1].meta)
        chain[-1].replace_all_uses_with(new)
        for node in reversed(chain):
            self.graph.erase_node(node)
        self.fused.update(chain)
        self.owners.add(new)

    def _constant(self, value: Tensor) -> fx.Node:
        return self.graph.create_node("get_attr", self._name(value))

    def _name(self, value: Tensor) -> str:
        """Keep a tensor as a plain attribute of the module, which is read faster than a buffer; its name."""
        name = f"constant{self.constants}"
        self.constants += 1
        setattr(self.traced, name, value)
        return name

    def _module(self, node: fx.Node | None) -> nn.Module | None:
        return _module(self.traced, node)


def _operation(source: fx.Node, other: fx.Node | None, overwrite: bool, layer: tuple[Any, ...], unary: str) -> Any:
    """The operator and its arguments: a convolution, with an activation or added to ``other``, in place or not."""
    if other is None:
        return torch.ops.mkldnn._convolution_pointwise.default, (source, *layer, unary, [], "")
    tail = *layer, "add", 1.0, None if unary == "none" else unary, [], None
    if overwrite:
        return torch.ops.mkldnn._convolution_pointwise_.binary, (other, source, *tail)
    return torch.ops.mkldnn._convolution_pointwise.binary, (source, other, *tail)


def _module(traced: fx.GraphModule, node: Any) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _reader(node: fx.Node) -> fx.Node | None:
    """The node that alone reads this one's result, if there is one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: fx.Node) -> torch.Size:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape
