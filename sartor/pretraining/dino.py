"""DINO (Caron et al. 2021, arXiv 2104.14294): a student finds the teacher's classes, which nobody named."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from sartor.core.spec import spec_kind
from sartor.pretraining.byol import Rising
from sartor.pretraining.losses import dino_loss
from sartor.pretraining.method import Encoding
from sartor.pretraining.trunk import Encoder, Trunk
from sartor.training.plan import Batch, Context, Member, Modules, Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Prototypes(nn.Module):
    """Three layers with GELU to a narrow unit vector, then cosines with ``out`` directions."""

    def __init__(self, width: int, hidden: int, narrow: int, out: int) -> None:
        super().__init__()
        layers = nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, narrow)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.last = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(out, narrow), a=5**0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Cosines (n, out)."""
        return F.linear(F.normalize(self.mlp(x), dim=1), F.normalize(self.last, dim=1))


@spec_kind
@dataclass(frozen=True)
class DINO(Encoding):
    """Two views of an image, each teaching the other; small extra crops are left out.

    The teacher is the student's average by a decay that rises from ``momentum`` to 1; its outputs are less a moving
    ``centre`` of themselves. In the first ``freeze`` epochs the directions stay.
    """

    kind: ClassVar[str] = "dino"
    hidden: int = 2048
    narrow: int = 256
    out: int = 65536
    momentum: float = 0.996
    student: float = 0.1
    teacher: float = 0.04
    centre: float = 0.9
    freeze: int = 1

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """Student and teacher."""
        trunk = Trunk(backbone)
        student = Encoder(trunk, Prototypes(trunk.width, self.hidden, self.narrow, self.out))
        return {"model": Member(student), "target": Member(copy.deepcopy(student), "target", "model", "momentum")}

    def schedules(self) -> Mapping[str, Schedule]:
        """The teacher's decay."""
        return {"momentum": Rising(self.momentum)}

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The mean of both directions; afterwards the centre moves to the teacher's mean output."""
        views, memory = (batch["view0"], batch["view1"]), context.memory.setdefault("centre", {})
        if not memory:
            memory["value"] = torch.zeros(self.out, device=context.device)
        students = [modules["model"](view)[1] for view in views]
        with torch.no_grad():
            teachers = [modules["target"](view)[1] for view in views]
        temperatures, centre = (self.student, self.teacher), memory["value"]
        pairs = zip(students, reversed(teachers), strict=True)
        losses = torch.stack([dino_loss(student, teacher, centre, temperatures) for student, teacher in pairs])
        memory["value"] = torch.lerp(torch.cat(teachers).mean(0), centre, self.centre)
        return {"dino": losses.mean()}

    def after_backward(self, modules: Modules, context: Context) -> None:
        """Hold the directions still at first."""
        if context.epoch < self.freeze:
            for name, parameter in modules["model"].named_parameters():
                if name.endswith("projector.last"):
                    parameter.grad = None
