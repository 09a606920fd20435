"""Optimisers: each is a frozen rule of plain values; ``Optimiser`` applies one to groups of parameters.

PyTorch's own optimiser classes import its compiler when they are made, which takes as long as PyTorch itself. The
updates of SGD and AdamW are PyTorch's fused functions; LAMB, LARS, Adadelta and TensorFlow's RMSprop are
operations on lists.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from sartor.core.spec import spec_kind

Tensors = list[Tensor]
ParamGroups = list[dict[str, Any]]
State = defaultdict[Tensor, dict[str, Tensor]]


class Rule:
    """How parameters change given their gradients.

    ``normalised`` says that updates do not grow with the gradients (Adam) or do (SGD); None: layer by layer.
    """

    normalised: ClassVar[bool | None] = None

    def __call__(self, groups: ParamGroups) -> Optimiser:
        """The optimiser of these groups."""
        return Optimiser(groups, self)

    def gradient_scale(self, gradients: Tensors) -> Tensor | None:
        """What all gradients are divided by, if anything."""
        return None

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """Change parameters and state in place, the gradients not."""
        raise NotImplementedError


class Optimiser:
    """A rule applied to groups of parameters, each a dict with ``params``, ``lr`` and ``weight_decay``."""

    def __init__(self, groups: ParamGroups, rule: Rule) -> None:
        self.param_groups = [{"lr": 0.0, "weight_decay": 0.0, **group} for group in groups]
        self.state: State = defaultdict(dict)
        self.rule = rule

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        scale = self.rule.gradient_scale([p.grad for g in self.param_groups for p in g["params"] if p.grad is not None])
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                gradients = [p.grad for p in parameters]
                if scale is not None:
                    gradients = list(torch._foreach_div(gradients, scale))
                self.rule.update(self.state, parameters, gradients, group["lr"], group["weight_decay"])


@spec_kind
@dataclass(frozen=True)
class SGD(Rule):
    """Gradient descent with momentum, dampening 0."""

    kind: ClassVar[str] = "sgd"
    normalised: ClassVar[bool | None] = False
    momentum: float = 0.9
    nesterov: bool = True

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step; weight decay is added to the gradient."""
        buffers: list[Tensor | None] = [None] * len(parameters)
        if self.momentum:
            buffers = [*_kept(state, parameters, "momentum_buffer")]
        sgd(
            parameters, gradients, buffers, fused=True, foreach=False, weight_decay=decay, momentum=self.momentum,
            lr=lr, dampening=0.0, nesterov=self.nesterov, maximize=False,
        )  # fmt: skip


@spec_kind
@dataclass(frozen=True)
class AdamW(Rule):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: ClassVar[str] = "adamw"
    normalised: ClassVar[bool | None] = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step; weights shrink by lr decay."""
        first, second = _kept(state, parameters, "exp_avg"), _kept(state, parameters, "exp_avg_sq")
        steps = [state[p].setdefault("step", torch.zeros((), device=p.device)) for p in parameters]
        adamw(
            parameters, gradients, first, second, [], steps, fused=True, foreach=False, amsgrad=False,
            beta1=self.betas[0], beta2=self.betas[1], lr=lr, weight_decay=decay, eps=self.eps, maximize=False,
        )  # fmt: skip


@spec_kind
@dataclass(frozen=True)
class Adam(Rule):
    """Adam as first published (Kingma and Ba 2015), whose weight decay is a part of the gradient."""

    kind: ClassVar[str] = "adam"
    normalised: ClassVar[bool | None] = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step; weight decay is added to the gradient."""
        first, second = _kept(state, parameters, "exp_avg"), _kept(state, parameters, "exp_avg_sq")
        steps = [state[p].setdefault("step", torch.zeros((), device=p.device)) for p in parameters]
        adam(
            parameters, gradients, first, second, [], steps, fused=True, foreach=False, amsgrad=False,
            beta1=self.betas[0], beta2=self.betas[1], lr=lr, weight_decay=decay, eps=self.eps, maximize=False,
        )  # fmt: skip


@spec_kind
@dataclass(frozen=True)
class Lamb(Rule):
    """Layer-wise adaptive moments (You et al. 2020) in timm's variant.

    All gradients are first divided by max(1, global norm / max_grad_norm). With Adam's bias-corrected moments the
    update is u = m / (sqrt(v) + eps) + decay w; parameters with a weight decay (or all, ``always_adapt``) scale it by
    the trust ratio |w| / |u|, which is 1 where a norm is 0 and at most 1 with ``trust_clip``. ``decoupled`` shrinks w
    by lr decay before instead of adding decay w; without ``averaging`` m sums whole gradients.
    """

    kind: ClassVar[str] = "lamb"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    max_grad_norm: float = 1.0
    trust_clip: bool = False
    always_adapt: bool = False
    decoupled: bool = False
    bias_correction: bool = True
    averaging: bool = True

    def gradient_scale(self, gradients: Tensors) -> Tensor | None:
        """max(1, global norm / max_grad_norm)."""
        if not self.max_grad_norm or not gradients:
            return None
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return torch.clamp(norm / self.max_grad_norm, min=1.0)

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step of a group; the first parameter counts its steps."""
        beta1, beta2 = self.betas
        first, second = _kept(state, parameters, "exp_avg"), _kept(state, parameters, "exp_avg_sq")
        step = state[parameters[0]].setdefault("step", torch.zeros(())).add_(1.0).item()
        if self.averaging:
            torch._foreach_lerp_(first, gradients, 1.0 - beta1)
        else:
            torch._foreach_mul_(first, beta1)
            torch._foreach_add_(first, gradients)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
        below = torch._foreach_sqrt(second)
        torch._foreach_div_(below, (1.0 - beta2**step) ** 0.5 if self.bias_correction else 1.0)
        torch._foreach_add_(below, self.eps)
        updates = torch._foreach_div(first, 1.0 - beta1**step if self.bias_correction else 1.0)
        torch._foreach_div_(updates, below)
        if decay and self.decoupled:
            torch._foreach_mul_(parameters, 1.0 - lr * decay)
        elif decay:
            torch._foreach_add_(updates, parameters, alpha=decay)
        if decay or self.always_adapt:
            torch._foreach_mul_(updates, self._trust(parameters, updates).unbind())
        torch._foreach_add_(parameters, updates, alpha=-lr)

    def _trust(self, parameters: Tensors, updates: tuple[Tensor, ...]) -> Tensor:
        old, new = torch.stack(torch._foreach_norm(parameters)), torch.stack(torch._foreach_norm(updates))
        ratios = torch.where((old > 0) & (new > 0), old / new, 1.0)
        return ratios.clamp_(max=1.0) if self.trust_clip else ratios


@spec_kind
@dataclass(frozen=True)
class Lars(Rule):
    """Layer-wise adaptive rates (You et al. 2017, arXiv 1708.03888) around gradient descent with momentum.

    Parameters with a weight decay (or all, ``always_adapt``) have the gradient g + decay w multiplied by
    trust |w| / (|g| + decay |w|), which is 1 where a norm is 0; the others are plain gradient descent.
    """

    kind: ClassVar[str] = "lars"
    momentum: float = 0.9
    trust: float = 0.001
    always_adapt: bool = False

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step; the momentum holds adapted gradients, without the learning rate."""
        if decay or self.always_adapt:
            old, new = torch.stack(torch._foreach_norm(parameters)), torch.stack(torch._foreach_norm(gradients))
            ratios = torch.where((old > 0) & (new > 0), self.trust * old / (new + decay * old), 1.0)
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
            torch._foreach_mul_(gradients, ratios.unbind())
        momenta = _kept(state, parameters, "momentum_buffer")
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(parameters, momenta, alpha=-lr)


@spec_kind
@dataclass(frozen=True)
class RMSpropTF(Rule):
    """RMSprop as TensorFlow 1 has it.

    Squares start at 1, epsilon is under the root, and the learning rate inside the momentum.
    """

    kind: ClassVar[str] = "rmsprop-tf"
    normalised: ClassVar[bool | None] = True
    alpha: float = 0.9
    momentum: float = 0.9
    eps: float = 1e-3

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step; weight decay is added to the gradient."""
        if decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
        squares, momenta = _kept(state, parameters, "square_avg", 1.0), _kept(state, parameters, "momentum_buffer")
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1.0 - self.alpha)
        steps = torch._foreach_div(gradients, torch._foreach_sqrt(torch._foreach_add(squares, self.eps)))
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, steps, alpha=lr)
        torch._foreach_sub_(parameters, momenta)


@spec_kind
@dataclass(frozen=True)
class Adadelta(Rule):
    """Steps in units of the parameters (Zeiler 2012): gradients times the ratio of two running roots of squares."""

    kind: ClassVar[str] = "adadelta"
    rho: float = 0.9
    eps: float = 1e-3

    def update(self, state: State, parameters: Tensors, gradients: Tensors, lr: float, decay: float) -> None:
        """One step; weight decay is added to the gradient."""
        if decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
        squares, travelled = _kept(state, parameters, "square_avg"), _kept(state, parameters, "acc_delta")
        torch._foreach_mul_(squares, self.rho)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - self.rho)
        steps = torch._foreach_sqrt(torch._foreach_add(travelled, self.eps))
        torch._foreach_div_(steps, torch._foreach_sqrt(torch._foreach_add(squares, self.eps)))
        torch._foreach_mul_(steps, gradients)
        torch._foreach_mul_(travelled, self.rho)
        torch._foreach_addcmul_(travelled, steps, steps, 1.0 - self.rho)
        torch._foreach_add_(parameters, steps, alpha=-lr)


def _kept(state: State, parameters: Tensors, name: str, start: float = 0.0) -> Tensors:
    """State tensors of a name, made on first use."""
    for p in parameters:
        if name not in state[p]:
            state[p][name] = torch.full_like(p, start)
    return [state[p][name] for p in parameters]
