"""Residual multi-layer perceptron on flattened images, the model of depth parametrizations.

Yang, Yu, Zhu and Hayou 2023 (arXiv 2310.02244): x_0 = U xi, x_l = x_(l-1) + c MS(phi(W_l x_(l-1))), f = V x_L, where
MS subtracts the mean over the coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.checkpointing import checkpointed
from sartor.models.image_spec import ImageSpec
from sartor.models.layers import UnsetLinear
from sartor.models.stepwise import Stepwise

Nonlinearity = Literal["relu", "abs", "identity"]
NONLINEARITIES = {"relu": torch.relu, "abs": torch.abs, "identity": torch.clone}


@spec_kind
@dataclass(frozen=True, slots=True)
class ResidualMLP(ImageSpec):
    """``depth`` residual blocks of ``layers`` matrices each, all ``width`` wide.

    A block of one layer adds MS(act(W x)); one of more adds W_k act( ... act(W_1 x)), without MS. ``center`` False
    leaves MS out. Weights start from N(0, 1 / fan_in), the classifier's from 0 with ``zero_readout``. For
    ``branch_scale`` and ``readout_scale`` see ``AnyNet``; the acts are positively homogeneous, so that deploying can
    take both into the weights.
    """

    kind: ClassVar[str] = "residual-mlp"
    width: int
    depth: int
    layers: int = 1
    act: Nonlinearity = "relu"
    center: bool = True
    zero_readout: bool = False
    classes: int = 10
    channels: int = 3
    size: tuple[int, int] = (32, 32)
    branch_scale: float = 1.0
    readout_scale: float = 1.0
    init: ClassVar[str] = "fan_in"
    fc_std: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.layers, self.classes, self.channels, *self.size) < 1:
            raise SpecError("residual-mlp: width, depth, layers, classes, channels and size must be at least 1")

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image; raises SpecError for another size than the spec's."""
        if size not in (None, self.size):
            raise SpecError(f"residual-mlp: takes images of {self.size}, not {size}; set the spec's size")
        total, block = Tally(convention), Tally(convention)
        total.linear(self.channels * prod(self.size), self.width, False)
        block.linear(self.width, self.width, False)
        total.add(block, self.depth * self.layers)
        total.linear(self.width, self.classes, True)
        return total

    def build(self) -> ResidualMLPBackbone:
        """The module, its weights not written yet."""
        return ResidualMLPBackbone(self)


class MLPBlock(nn.Module):
    """What a block adds to its input, before the factor."""

    def __init__(self, spec: ResidualMLP) -> None:
        super().__init__()
        self.act, self.center = NONLINEARITIES[spec.act], spec.center and spec.layers == 1
        self.layers = nn.ModuleList(UnsetLinear(spec.width, spec.width, bias=False) for _ in range(spec.layers))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to (batch, width)."""
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else self.act(x))
        if len(self.layers) == 1:
            x = self.act(x)
        return x - x.mean(1, keepdim=True) if self.center else x


class ResidualMLPBackbone(Stepwise):
    """The network of a ``ResidualMLP``. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stem`` and ``block1`` …; taps: ``block1.branch`` ….
    """

    def __init__(self, spec: ResidualMLP) -> None:
        super().__init__()
        self.spec = spec
        self.ends = {"stem": "input", "head": "readout"}
        self.stem = UnsetLinear(spec.channels * prod(spec.size), spec.width, bias=False)
        self.blocks = nn.ModuleList(MLPBlock(spec) for _ in range(spec.depth))
        self.head = UnsetLinear(spec.width, spec.classes)
        names = [f"block{number + 1}" for number in range(spec.depth)]
        self.steps = ("stem", *names, "head")
        port = (Port("x", "stream", spec.width, "ND", 0),)
        self.seams = (Seam("stem", 0, port), *(Seam(name, 1, port) for name in names))
        self.branches = [f"blocks.{number}" for number in range(spec.depth)]
        self.taps = tuple(f"{name}.branch" for name in names)

    def initialise(self) -> None:
        """N(0, 1 / fan_in), the readout enlarged by the root of what its input is divided by, or zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
        with torch.no_grad():
            self.head.weight.mul_(0.0 if self.spec.zero_readout else self.spec.readout_scale**-0.5)

    def advance(self, step: str, x: Tensor) -> Tensor:
        """One step."""
        if step == "stem":
            return self.stem(x.flatten(1))  # type: ignore[no-any-return]
        if step == "head":
            return self.head(self.spec.readout_scale * x)  # type: ignore[no-any-return]
        return self.advance_tapped(step, x)[1]

    def advance_tapped(self, step: str, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """A block's branch, with its factor, and its output."""
        block = self.blocks[int(step.removeprefix("block")) - 1]
        branch = self.spec.branch_scale * (checkpointed(block, x) if self.checkpointing and self.training else block(x))
        return {f"{step}.branch": branch}, x + branch

    def deploy(self) -> ResidualMLPBackbone:
        """Itself, or with factors other than 1 a copy that has them in its weights."""
        spec = self.spec
        if spec.branch_scale == spec.readout_scale == 1.0:
            return self
        last = f".layers.{spec.layers - 1}.weight"
        factors = {name: spec.branch_scale for name in self.state_dict() if name.endswith(last)}
        factors["head.weight"] = spec.readout_scale
        state = {name: tensor.detach() * factors.get(name, 1) for name, tensor in self.state_dict().items()}
        with torch.device("meta"):
            plain = ResidualMLPBackbone(spec.replace(branch_scale=1.0, readout_scale=1.0))
        plain.load_state_dict(state, assign=True)
        return plain.train(self.training)


def residual_mlp(width: int, depth: int, act: Nonlinearity = "relu", layers: int = 1) -> ResidualMLP:
    """A named one."""
    return ResidualMLP(width, depth, layers, act)
