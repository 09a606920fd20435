"""Schedules: the share of the full learning rate, or of any value, in each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sartor.core.errors import SpecError
from sartor.core.spec import spec_kind
from sartor.training.plan import Schedule


@spec_kind
@dataclass(frozen=True)
class Constant:
    """Always 1."""

    kind: ClassVar[str] = "constant"

    def value(self, step: int, total: int) -> float:
        """1."""
        return 1.0


@spec_kind
@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to ``floor`` (Loshchilov and Hutter 2017)."""

    kind: ClassVar[str] = "cosine"
    floor: float = 0.0

    def value(self, step: int, total: int) -> float:
        """floor + (1 - floor) (1 + cos(pi step / total)) / 2."""
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total)))


@spec_kind
@dataclass(frozen=True)
class Steps:
    """1, multiplied by ``factor`` at each of the shares ``at`` of the run."""

    kind: ClassVar[str] = "steps"
    at: tuple[float, ...] = (1 / 3, 2 / 3)
    factor: float = 0.1

    def value(self, step: int, total: int) -> float:
        """factor^(number of shares passed)."""
        return self.factor ** sum(step >= round(share * total) for share in self.at)


@spec_kind
@dataclass(frozen=True)
class Staircase:
    """1, multiplied by ``factor`` after every share ``every`` of the run: an exponential fall in steps.

    The clock is the whole run's, as timm's is without ``warmup_prefix``.
    """

    kind: ClassVar[str] = "staircase"
    every: float = 0.01
    factor: float = 0.97

    def __post_init__(self) -> None:
        if not 0.0 < self.every <= 1.0:
            raise SpecError(f"staircase: every is a share of the run, above 0 and at most 1, not {self.every:g}")

    def value(self, step: int, total: int) -> float:
        """factor^(number of whole shares passed)."""
        return self.factor ** math.floor(step / (self.every * total) + 1e-9)


@spec_kind
@dataclass(frozen=True)
class OneCycle:
    """A rise along a cosine from 1 / ``start`` in the share ``rise`` of the run, then a fall to that over ``end``.

    As PyTorch's OneCycleLR (Smith and Topin 2018), whose first step has the least and whose last the final value.
    """

    kind: ClassVar[str] = "one-cycle"
    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        if not 0.0 < self.rise < 1.0 or min(self.start, self.end) < 1.0:
            raise SpecError("one-cycle: rise is a share between 0 and 1; start and end are divisors of at least 1")

    def value(self, step: int, total: int) -> float:
        """Half a cosine up, then half a cosine down."""
        top, last = max(self.rise * total - 1.0, 0.0), max(total - 1.0, 1.0)
        if step <= top and top:
            return _half_cosine(1.0 / self.start, 1.0, step / top)
        return _half_cosine(1.0, 1.0 / self.start / self.end, min(1.0, (step - top) / (last - top)))


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))


@spec_kind
@dataclass(frozen=True)
class StableDecay:
    """1 until the last share ``decay`` of the run, then a straight line to ``floor``.

    With a decay of 0 a run can be continued to any later end as if it had been planned so.
    """

    kind: ClassVar[str] = "stable-decay"
    decay: float = 0.6
    floor: float = 0.0

    def value(self, step: int, total: int) -> float:
        """The smaller of 1 and the falling line."""
        if self.decay == 0.0:
            return 1.0
        return self.floor + (1.0 - self.floor) * max(0.0, min(1.0, (1.0 - step / total) / self.decay))


@spec_kind
@dataclass(frozen=True)
class Poly:
    """(1 - t)^power, t the share of the run that is over."""

    kind: ClassVar[str] = "poly"
    power: float = 0.9

    def value(self, step: int, total: int) -> float:
        """From 1 to 0."""
        return math.pow(max(0.0, 1.0 - step / total), self.power)


@spec_kind
@dataclass(frozen=True)
class Exponential:
    """end^t, t the share of the run that is over."""

    kind: ClassVar[str] = "exponential"
    end: float = 0.1

    def value(self, step: int, total: int) -> float:
        """From 1 to ``end``."""
        return math.pow(self.end, min(1.0, step / total))


@dataclass(frozen=True)
class Warmup:
    """In the first ``steps``, a straight line from ``start`` to 1 (or constantly ``start``); then ``then``.

    The schedule after it runs on the clock of the whole run, as timm's does without ``warmup_prefix``.
    """

    then: Schedule
    steps: int
    start: float = 0.0
    constant: bool = False

    def value(self, step: int, total: int) -> float:
        """start + (1 - start) step / steps, then ``then``."""
        if step >= self.steps:
            return self.then.value(step, total)
        return self.start if self.constant else self.start + (1.0 - self.start) * step / self.steps


@dataclass(frozen=True)
class Held:
    """The value of ``of`` at the last multiple of ``every``: a schedule stepped by epochs."""

    of: Schedule
    every: int

    def value(self, step: int, total: int) -> float:
        """The held value."""
        return self.of.value(step // self.every * self.every, total)


@dataclass(frozen=True)
class Scaled:
    """``of``, times ``by``."""

    of: Schedule
    by: float

    def value(self, step: int, total: int) -> float:
        """The product."""
        return self.by * self.of.value(step, total)
