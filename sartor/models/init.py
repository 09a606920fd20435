"""Weight initialisation by module type."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


Fan = Literal["fan_out", "fan_in", "xavier"]


def initialise(network: Any, fan: Fan = "fan_out", fc_std: float = 0.0) -> None:
    """Convolutions from N(0, 2 / fan), norms 1 and 0, biases 0; draws from torch's global generator.

    ``fan`` is kernel area times output (He et al. 2015) or input channels per group; ``xavier`` draws convolutions
    uniformly with the variance 4 / (fan_in + fan_out) instead, and biases from the framework's uniform. The
    classifier, whether a matrix or a 1x1 convolution, comes from N(0, fc_std^2), or from the framework's uniform
    +-1/sqrt(fan_in) when ``fc_std`` is 0. Writes every parameter and buffer of a
    backbone, so it may follow ``to_empty``.
    """
    readouts = {name for name, role in network.roles().items() if role.kind == "readout"}
    for path, module in network.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            draw_weight(module.weight, f"{path}.weight" in readouts or isinstance(module, nn.Linear), fan, fc_std)
            if module.bias is not None and fan == "xavier":
                _draw_uniform(module.bias, module.weight)
            elif module.bias is not None:
                nn.init.zeros_(module.bias)


def draw_weight(weight: Tensor, readout: bool, fan: str, fc_std: float) -> None:
    """Draw one convolution's or matrix's weight by the rule of ``initialise``."""
    if not readout and fan == "xavier":
        nn.init.xavier_uniform_(weight, math.sqrt(2.0))
    elif not readout:
        connections = weight[:, 0].numel() if fan == "fan_out" else weight[0].numel()
        nn.init.normal_(weight, 0.0, math.sqrt(2.0 / connections))
    elif fc_std:
        nn.init.normal_(weight, 0.0, fc_std)
    else:
        _draw_uniform(weight, weight)


def _draw_uniform(values: Tensor, weight: Tensor) -> None:
    """The framework's uniform for the inputs that a layer's ``weight`` has."""
    bound = 1.0 / math.sqrt(weight[0].numel())
    nn.init.uniform_(values, -bound, bound)
