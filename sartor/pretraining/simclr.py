"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image should be nearer than views of any others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sartor.core.spec import spec_kind
from sartor.pretraining.losses import nt_xent
from sartor.pretraining.method import Encoding
from sartor.pretraining.trunk import Encoder, Trunk, perceptron
from sartor.training.plan import Batch, Context, Member, Modules

if TYPE_CHECKING:
    from torch import Tensor


@spec_kind
@dataclass(frozen=True)
class SimCLR(Encoding):
    """The projector is Linear, batch norm, ReLU, Linear, as wide as the features where ``hidden`` is 0."""

    kind: ClassVar[str] = "simclr"
    temperature: float = 0.5
    hidden: int = 0
    out: int = 128

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """The encoder."""
        trunk = Trunk(backbone)
        head = perceptron(trunk.width, self.hidden or trunk.width, self.out, norm=True, biases=(False, True))
        return {"model": Member(Encoder(trunk, head))}

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """Both views are normalised as one batch."""
        _, projected = modules["model"](torch.cat([batch["view0"], batch["view1"]]))
        first, second = projected.chunk(2)
        return {"nt_xent": nt_xent(first, second, self.temperature)}
