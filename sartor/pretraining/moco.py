"""MoCo v2 (Chen et al. 2020, arXiv 2003.04297): a view is found among a queue of earlier keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from sartor.core.rng import generator
from sartor.core.spec import spec_kind
from sartor.pretraining.losses import info_nce
from sartor.pretraining.method import Encoding
from sartor.pretraining.trunk import Encoder, Trunk, perceptron
from sartor.training.plan import Batch, Context, Member, Modules

if TYPE_CHECKING:
    from torch import Tensor


@spec_kind
@dataclass(frozen=True)
class MoCo(Encoding):
    """Keys come from a moving average of the encoder; the last ``queue`` of them are what a query is told from.

    The projector is Linear, ReLU, Linear, as wide as the features where ``hidden`` is 0. Keys are normalised as one
    batch: batches are not shuffled between processes.
    """

    kind: ClassVar[str] = "moco-v2"
    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 65536
    hidden: int = 0
    out: int = 128

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """The encoder and the one that gives keys."""
        trunk = Trunk(backbone)
        encoder = Encoder(trunk, perceptron(trunk.width, self.hidden or trunk.width, self.out, norm=False))
        return {
            "model": Member(encoder),
            "target": Member(copy.deepcopy(encoder), "target", "model", self.momentum),
        }

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The queue begins with random directions and takes the batch's keys afterwards."""
        memory = context.memory.setdefault("queue", {})
        if not memory:
            start = generator(context.seed, "queue").standard_normal((self.queue, self.out), dtype="float32")
            memory["keys"] = F.normalize(torch.from_numpy(start), dim=1).to(context.device)
            memory["at"] = torch.zeros((), dtype=torch.int64)
        _, query = modules["model"](batch["view0"])
        with torch.no_grad():
            key = F.normalize(modules["target"](batch["view1"])[1], dim=1)
        loss = info_nce(query, key, memory["keys"], self.temperature)
        kept, at = key[-self.queue :], int(memory["at"])
        keys = memory["keys"].clone()  # the backward pass still reads the old one
        keys[(at + torch.arange(len(kept), device=keys.device)) % self.queue] = kept
        memory["keys"], memory["at"] = keys, torch.tensor((at + len(kept)) % self.queue)
        return {"info_nce": loss}
