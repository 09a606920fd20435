"""Exponential moving averages of networks."""

from __future__ import annotations

import torch
from torch import nn


class Average:
    """Makes ``follower`` the moving average of ``leader``: weights and floating-point buffers; counters are copied.

    After update t (from 0) the average has moved a share 1 - min(decay, (1 + t) / (10 + t)) of the way, so that it
    forgets the random start at once (the warm-up of TensorFlow's ExponentialMovingAverage). Without ``buffers`` only
    the weights follow.
    """

    def __init__(self, follower: nn.Module, leader: nn.Module, decay: float = 0.0, *, buffers: bool = True) -> None:
        pairs = list(zip(_tensors(follower, buffers), _tensors(leader, buffers), strict=True))
        self.decay = decay
        self.old, self.new = _split([(a, b) for a, b in pairs if a.is_floating_point()])
        self.old_counters, self.new_counters = _split([(a, b) for a, b in pairs if not a.is_floating_point()])

    def update(self, t: int) -> None:
        """Move the average after update ``t``."""
        self.move(1.0 - min(self.decay, (1 + t) / (10 + t)))

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Move a share of the way to the leader."""
        if self.old:  # the list operations refuse empty lists
            torch._foreach_lerp_(self.old, self.new, share)
        if self.old_counters:
            torch._foreach_copy_(self.old_counters, self.new_counters)


def _tensors(module: nn.Module, buffers: bool) -> list[torch.Tensor]:
    return [p.detach() for p in module.parameters()] + (list(module.buffers()) if buffers else [])


def _split(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [a for a, _ in pairs], [b for _, b in pairs]
