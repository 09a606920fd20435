"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict what a slower self says of another view."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from sartor.core.errors import TrainingError
from sartor.core.spec import spec_kind
from sartor.pretraining.losses import byol_loss
from sartor.pretraining.method import Encoding
from sartor.pretraining.trunk import Encoder, Trunk, draw_truncated, perceptron
from sartor.training.plan import Batch, Context, Member, Modules, Schedule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rising:
    """From ``start`` to 1 along half a cosine: 1 - (1 - start) (1 + cos(pi step / total)) / 2."""

    start: float

    def value(self, step: int, total: int) -> float:
        """The decay of the moving average."""
        return 1.0 - (1.0 - self.start) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total)))


@spec_kind
@dataclass(frozen=True)
class BYOL(Encoding):
    """Projector and predictor are Linear with bias, batch norm, ReLU, Linear without.

    The target is the average of the online encoder's weights by a decay that rises from ``tau`` to 1; its batch norms
    use their own batches. ``own_start`` draws all weights anew by ``draw_truncated``. ``probe`` trains a linear
    classifier on the features, which learn nothing from it, to watch how good they are.
    """

    kind: ClassVar[str] = "byol"
    hidden: int = 4096
    out: int = 256
    tau: float = 0.99
    own_start: bool = True
    probe: bool = False

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """Online encoder, its predictor, the target and, if wanted, the probe. Raises TrainingError without labels."""
        if self.probe and not classes:
            raise TrainingError("method.probe: a probe needs images with labels; set it to false")
        trunk = Trunk(backbone)
        encoder = Encoder(trunk, perceptron(trunk.width, self.hidden, self.out, norm=True, biases=(True, False)))
        predictor = perceptron(self.out, self.hidden, self.out, norm=True, biases=(True, False))
        for module in (encoder if self.own_start else encoder.projector, predictor):
            draw_truncated(module)
        members = {
            "model": Member(encoder),
            "predictor": Member(predictor),
            "target": Member(copy.deepcopy(encoder), "target", "model", "tau"),
        }
        return members | ({"probe": Member(nn.Linear(trunk.width, classes))} if self.probe else {})

    def schedules(self) -> Mapping[str, Schedule]:
        """The target's decay."""
        return {"tau": Rising(self.tau)}

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """Either view predicts the other; the probe reads the features of the first, without gradient."""
        views = batch["view0"], batch["view1"]
        (features, first), (_, second) = (modules["model"](view) for view in views)
        with torch.no_grad():
            targets = [modules["target"](view)[1] for view in views]
        predict = modules["predictor"]
        terms = {"byol": byol_loss(predict(first).float(), targets[1]) + byol_loss(predict(second).float(), targets[0])}
        if self.probe:
            logits = modules["probe"](features.detach()).float()
            known = (batch["label"] >= 0).sum().clamp_min(1)
            terms["probe"] = F.cross_entropy(logits, batch["label"], ignore_index=-1, reduction="sum") / known
        return terms
