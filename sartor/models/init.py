"""Weight initialisation by module type."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn


def initialise(network: nn.Module, fan: Literal["fan_out", "fan_in"] = "fan_out", fc_std: float = 0.0) -> None:
    """Convolutions from N(0, 2 / fan), norms 1 and 0, linear biases 0; draws from torch's global generator.

    ``fan`` is kernel area times output (He et al. 2015) or input channels per group. Linear weights come from
    N(0, fc_std^2), or from the framework's uniform +-1/sqrt(fan_in) when ``fc_std`` is 0. Writes every parameter
    and buffer, so it may follow ``to_empty``.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            width = module.out_channels if fan == "fan_out" else module.in_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (area * width)))
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            if fc_std:
                nn.init.normal_(module.weight, 0.0, fc_std)
            else:
                bound = 1.0 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
