"""What a method may plug into the training loop: modules, streams, turns, schedules, hooks, an end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sartor.core.errors import TrainingError
from sartor.core.rng import generator
from sartor.core.spec import Json, digest
from sartor.training.clipping import Clip

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sartor.training.orders import Order

Batch = dict[str, "Tensor"]
Modules = Mapping[str, "nn.Module"]
NumberFormat = Literal["float32", "bfloat16", "float16"]
Memory = dict[str, dict[str, "Tensor"]]
Keys = NDArray[np.int64]


class Examples(Protocol):
    """A split of a task as the loop reads it. If it has ``prefetch(indices)``, it is told the next batch early."""

    def __len__(self) -> int: ...

    def batch(self, indices: Keys) -> Mapping[str, Tensor]:
        """The examples at these positions: for images ``image`` (n, C, H, W) uint8 and ``label`` (n,) int64."""


@dataclass(frozen=True)
class Member:
    """A module and its part in the plan.

    ``train`` modules are trained, ``frozen`` ones run in eval mode without gradient, and a ``follow`` one is the
    exponential moving average of the member ``of``: weights and floating-point buffers move a share
    1 - min(decay, (1 + t) / (10 + t)) of the way after step t (from 0).

    A ``target`` is what a self-supervised student is compared with: it runs as in training, by statistics of its own
    batches, has no gradient, and its weights (not its buffers) move a share 1 - decay of the way to those of ``of``
    after each step. Its ``decay`` is a number or the name of a schedule.
    """

    module: nn.Module
    mode: Literal["train", "frozen", "follow", "target"] = "train"
    of: str = "model"
    decay: float | str = 0.999


@dataclass(frozen=True)
class Stream:
    """Batches of ``batch`` examples, counted over all processes and accumulated parts, in an order without state.

    An incomplete last batch of an epoch is left out. ``workers`` threads prepare coming batches.
    """

    examples: Examples
    order: Order
    batch: int = 128
    workers: int = 0


@dataclass(frozen=True)
class Group:
    """Parameters that share a factor on the learning rate and a weight decay.

    ``clipped`` says whether a bound on single units ("unit") is meant for them too.
    """

    parameters: Sequence[nn.Parameter]
    lr_factor: float = 1.0
    weight_decay: float = 0.0
    clipped: bool = True

    def table(self) -> dict[str, Any]:
        """What an optimiser is given of it."""
        rest = {"lr_factor": self.lr_factor, "weight_decay": self.weight_decay, "clipped": self.clipped}
        return {"params": list(self.parameters), **rest}


class Loss(Protocol):
    """Named terms of the loss of one batch; the loop adds them up."""

    def __call__(self, modules: Modules, batch: Batch, context: Context, /) -> Mapping[str, Tensor]:
        """The terms, scalars."""


Groups = Callable[[Modules], Sequence[Group]]


class Stepper(Protocol):
    """An optimiser, ours or PyTorch's: ``param_groups`` with ``params`` and ``lr``, and tensors by parameter."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups; the loop sets ``lr`` before each step."""

    @property
    def state(self) -> MutableMapping[Any, Any]:
        """What the optimiser remembers: parameter -> name -> tensor."""

    def step(self) -> Any:
        """Update the parameters that have a gradient."""


OptimiserOf = Callable[[list[dict[str, Any]]], Stepper]


@dataclass(frozen=True)
class Turn:
    """One update of some parameters in every step.

    ``clip`` bounds the norm of all gradients or, with ``clip_by`` "unit", that of each unit's as a share of its
    weights' (0: no bound). ``accumulate`` splits the batch in so many parts whose gradients are averaged; ``lr``
    names the schedule.
    """

    loss: Loss
    groups: Groups
    optimiser: OptimiserOf
    stream: str = "train"
    lr: str = "lr"
    clip: float = 0.0
    clip_by: Clip = "norm"
    accumulate: int = 1


class Schedule(Protocol):
    """A value that changes during training."""

    def value(self, step: int, total: int) -> float:
        """Its value in ``step`` (from 0) of ``total``."""


@runtime_checkable
class ObservingSchedule(Schedule, Protocol):
    """A schedule that steers by metrics; what it remembers is plain values."""

    state: Json

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Told what ``Hooks.at_epoch`` measured."""


def _same(batch: Batch, context: Context) -> Batch:
    return batch


def _nothing(modules: Modules, context: Context) -> None:
    pass


def _unmeasured(modules: Modules, context: Context) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Hooks:
    """Places where a method's own code runs.

    ``configure`` runs before the turns of a step; ``transform`` turns raw examples into a batch, perhaps in a
    thread and ahead of time, so it draws only from ``Context``; ``at_epoch`` may return metrics.
    """

    transform: Callable[[Batch, Context], Batch] = _same
    configure: Callable[[Modules, Context], None] = _nothing
    after_backward: Callable[[Modules, Context], None] = _nothing
    after_step: Callable[[Modules, Context], None] = _nothing
    at_epoch: Callable[[Modules, Context], Mapping[str, float]] = _unmeasured


@dataclass(frozen=True)
class Until:
    """When training ends: after so many steps, epochs, examples or seconds; exactly one is given.

    With ``seconds`` the schedules see the total number of steps that the pace so far promises, so such a run is
    not repeated bit for bit.
    """

    steps: int | None = None
    epochs: float | None = None
    examples: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.steps, self.epochs, self.examples, self.seconds) if v is not None]
        if len(given) != 1 or given[0] <= 0:
            raise TrainingError("until: give one of steps, epochs, examples or seconds, more than zero")

    def total(self, steps_per_epoch: int, batch: int) -> int | None:
        """The number of steps; None if only the clock decides."""
        if self.seconds is not None:
            return None
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * steps_per_epoch))
        return max(1, math.ceil((self.examples or 0) / batch))


@dataclass(frozen=True)
class Keep:
    """Which weights are kept: the last, the averaged (of the member that follows ``model``) or the best.

    ``best`` needs the name of a metric that ``Hooks.at_epoch`` returns; it takes the averaged weights if any.
    """

    weights: Literal["last", "averaged", "best"] = "last"
    metric: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True)
class Numerics:
    """Number format of the forward and backward pass (weights stay float32) and layout of images in memory."""

    dtype: NumberFormat = "float32"
    channels_last: bool = False


FORMATS = [Numerics(dtype, last) for dtype in get_args(NumberFormat) for last in (False, True)]


@dataclass(frozen=True)
class Plan:
    """All that the training loop needs; it knows no model, task or method beside this.

    ``identity`` is plain values that say what is trained and how. A checkpoint continues a plan of equal identity,
    seed and numerics; it resumes one whose schedules and end are equal too. The schedule ``lr`` gives the learning
    rate unless a turn names another.
    """

    modules: Mapping[str, Member]
    streams: Mapping[str, Stream]
    turns: Sequence[Turn]
    schedules: Mapping[str, Schedule]
    until: Until
    hooks: Hooks = field(default_factory=Hooks)
    keep: Keep = field(default_factory=Keep)
    numerics: Numerics = field(default_factory=Numerics)
    identity: Json = field(default_factory=dict)
    seed: int = 0
    log_every: int = 50

    def lineage(self) -> str:
        """A hash that stays when only the schedules or the end change."""
        streams = {name: [len(s.examples), repr(s.order), s.batch] for name, s in self.streams.items()}
        return digest([self.identity, self.seed, repr(self.numerics), streams], 16)

    def digest(self) -> str:
        """A hash of all plain values in the plan."""
        schedules = {name: repr(s) for name, s in self.schedules.items()}
        return digest([self.lineage(), schedules, repr(self.until), repr(self.keep), self.log_every], 16)


@dataclass(frozen=True)
class Context:
    """What code in a plan may know of the step it works for; ``total`` is 0 while only the clock decides.

    ``epoch`` counts passes over the first turn's stream (in ``transform``: over the stream of the batch). What is
    put into ``memory`` outlives the step and is part of the checkpoint.
    """

    step: int
    total: int
    epoch: int
    seed: int
    device: torch.device
    rank: int
    world: int
    memory: Memory
    value: Callable[[str], float]

    @cached_property
    def rng(self) -> np.random.Generator:
        """Random numbers of this step, equal on all ranks."""
        return generator(self.seed, "step", self.step)
