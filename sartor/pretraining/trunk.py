"""A backbone without its classifier, and the small perceptrons that methods put in its place while they train it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class Trunk(nn.Module):
    """A backbone up to what its classifier reads: images to features (n, ``width``).

    The classifier's layers are taken out of the backbone, so the parameters here are those that pretraining trains.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.width: int = backbone.seams[-1].ports[0].width
        for layer in sorted({k.rpartition(".")[0] for k, role in backbone.roles().items() if role.kind == "readout"}):
            above, _, name = layer.rpartition(".")
            setattr(backbone.get_submodule(above), name, nn.Identity())
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """The features."""
        return self.backbone.run(images, stop="pool").flatten(1)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A trunk and a projector on it; gives the features and their projection."""

    def __init__(self, trunk: Trunk, projector: nn.Module) -> None:
        super().__init__()
        self.trunk, self.projector = trunk, projector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, width) and projections (n, out), the latter in float32 whatever the number format."""
        features = self.trunk(images)
        return features, self.projector(features).float()


def perceptron(w_in: int, hidden: int, w_out: int, *, norm: bool, biases: tuple[bool, bool] = (True, True)) -> Any:
    """Linear, batch norm if wanted, ReLU, Linear."""
    middle = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(w_in, hidden, biases[0]), *middle, nn.ReLU(), nn.Linear(hidden, w_out, biases[1]))


def draw_truncated(module: nn.Module) -> None:
    """Weights from a normal of deviation 1/sqrt(fan_in) cut off at -1 and 1, biases 0, norms 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            deviation = 1.0 / math.sqrt(layer.weight[0].numel())
            nn.init.trunc_normal_(layer.weight, 0.0, deviation, -1.0, 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            layer.reset_parameters()
