"""How initial weights, factors and learning rates depend on a network's depth and width.

Under the standard parametrization they do not, and the best learning rate of a small network is too high for a deep
or wide one. Depth-muP (Yang, Yu, Zhu and Hayou 2023, arXiv 2310.02244) with muP for the width (Yang and Hu 2021,
arXiv 2203.03466) lets it carry over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from sartor.core.errors import SpecError, TrainingError
from sartor.core.protocols import Role
from sartor.core.spec import spec_kind
from sartor.training.optimisers import Rule

FACTORS = ("branch_scale", "readout_scale")


@spec_kind
@dataclass(frozen=True)
class Standard:
    """One learning rate for all, and the factors that the network's spec has."""

    kind: ClassVar[str] = "standard"

    def check(self, rule: Rule) -> None:
        """Any optimiser will do."""

    def spec_for(self, spec: Any) -> Any:
        """The spec as it is."""
        return spec

    def lr_factors(self, roles: Mapping[str, Role], rule: Rule) -> dict[str, float]:
        """1 for every parameter."""
        return dict.fromkeys(roles, 1.0)


@spec_kind
@dataclass(frozen=True)
class DepthMup:
    """Depth-muP relative to a base network of ``base_depth`` residual branches and ``base_width``.

    With L branches, r = L / base_depth and m = width / base_width (1 where ``base_width`` is 0; the width is what the
    classifier reads), every branch is multiplied by ``constant`` / L^alpha and the classifier's input by 1/m. The
    learning rate of weights in blocks is divided by m r^(1 - alpha) under normalised updates (AdamW, RMSprop) and
    multiplied by r^(2 alpha - 1) under SGD; norms and biases of blocks have the same factor of r alone, with SGD
    times m; under SGD so have, without a factor of r, the input layer and the classifier's weights.

    ``alpha`` 1/2 is Depth-muP, the only one of these that keeps features diverse along the depth; 1 is the limit of
    an ordinary differential equation. The default ``constant`` makes the base network the one that it would be
    without. Carrying over is proven for blocks of one layer; with more it holds in part. All widths inside a network
    grow together, and with them the number of attention's heads, not the width of one.
    """

    kind: ClassVar[str] = "depth-mup"
    base_depth: int = 1
    base_width: int = 0
    alpha: float = 0.5
    constant: float | None = None

    def __post_init__(self) -> None:
        if self.base_depth < 1 or self.base_width < 0:
            raise SpecError("depth-mup: base_depth must be at least 1 and base_width not negative")
        if not 0.5 <= self.alpha <= 1.0:
            raise SpecError(f"depth-mup: alpha must be from 0.5 to 1, not {self.alpha:g}: nothing else is stable")

    def check(self, rule: Rule) -> None:
        """Raises SpecError for an optimiser whose learning rates the theory does not give."""
        if rule.normalised is None:
            raise SpecError("depth-mup is for sgd, adamw and rmsprop-tf, not for updates scaled layer by layer")

    def spec_for(self, spec: Any) -> Any:
        """The spec with the factors on branches and readout.

        Raises TrainingError for a network without residual branches, or one that knows no such factors.
        """
        fields = {field.name for field in dataclasses.fields(spec)}
        if not fields.issuperset(FACTORS):
            raise TrainingError(f"depth-mup: a {spec.kind} network has no factors on branches and readout")
        depth, width = _shape(spec.replace(branch_scale=1.0, readout_scale=1.0))
        if not depth:
            raise TrainingError("depth-mup: the network has no residual branches")
        constant = self.base_depth**self.alpha if self.constant is None else self.constant
        return spec.replace(branch_scale=constant / depth**self.alpha, readout_scale=1.0 / self._widening(width))

    def lr_factors(self, roles: Mapping[str, Role], rule: Rule) -> dict[str, float]:
        """What the learning rate of each parameter is multiplied by."""
        readouts = [name for name, role in roles.items() if role.kind == "readout"]
        own_biases = {f"{name.removesuffix('.weight')}.bias" for name in readouts}
        wider = self._widening(roles[readouts[0]].fan_in)
        return {
            name: 1.0 if name in own_biases else self._factor(role, wider, bool(rule.normalised))
            for name, role in roles.items()
        }

    def _factor(self, role: Role, wider: float, normalised: bool) -> float:
        deeper = role.branches / self.base_depth if role.block >= 0 else 1.0
        matrix = role.kind == "hidden"
        if normalised:
            return math.pow(deeper, self.alpha - 1.0) / (wider if matrix else 1.0)
        return math.pow(deeper, 2.0 * self.alpha - 1.0) * (1.0 if matrix else wider)

    def _widening(self, width: int) -> float:
        return width / self.base_width if self.base_width else 1.0


def base_of(spec: Any) -> DepthMup:
    """Depth-muP with this network as the base, which so is trained as without."""
    depth, width = _shape(spec)
    return DepthMup(base_depth=max(1, depth), base_width=width)


@lru_cache(maxsize=256)
def _shape(spec: Any) -> tuple[int, int]:
    """How many residual branches a network has, and how wide the classifier's input is."""
    from sartor.models.network import build

    roles = build(spec, device="meta").roles().values()
    return next((role.branches, role.fan_in) for role in roles if role.kind == "readout")
