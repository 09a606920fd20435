"""Bounds on gradients, whichever optimiser then uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Clip = Literal["norm", "unit"]
_LEAST = 1e-3  # norm of a unit's weights, so that those which are 0 can leave it
_TINY = 1e-6


@torch.no_grad()
def clip_gradients(groups: Iterable[Mapping[str, Any]], bound: float, by: Clip = "norm") -> None:
    """Bound the gradients of an optimiser's groups in place.

    "norm": the norm of all gradients together is at most ``bound``. "unit": see ``clip_units``; groups whose
    ``clipped`` is False are left alone.
    """
    if by == "norm":
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], bound)
    else:
        clip_units([p for group in groups if group.get("clipped", True) for p in group["params"]], bound)


@torch.no_grad()
def clip_units(parameters: Iterable[Tensor], share: float) -> None:
    """Adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171, section 4.1), in place.

    A unit is what gives one output: a row of a matrix, a filter, or a whole vector. Its gradient's norm is at most
    ``share`` of its weights' norm, which counts as 0.001 where it is less.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            most = unit_norms(parameter).clamp_(min=_LEAST).mul_(share)
            norms = unit_norms(parameter.grad)
            parameter.grad.mul_(torch.where(norms < most, 1.0, most / norms.clamp(min=_TINY)))


def unit_norms(tensor: Tensor) -> Tensor:
    """The norm of each unit, shaped to be multiplied with the tensor."""
    inside = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=inside, keepdim=inside is not None)
    return norms
