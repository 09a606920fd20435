"""Activation checkpointing that leaves batch-norm statistics as they would be without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, keeping only ``x`` for the backward pass; gradients and running statistics are unchanged."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch statistics are used but not accumulated: the second forward pass must not count twice."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    kept = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, (momentum, tracked) in zip(norms, kept, strict=True):
            m.momentum, m.num_batches_tracked = momentum, tracked
