"""Genes: finite ordered sets of values with a law to draw from.

Every gene numbers its values from 0, and every law maps a uniform number in [0, 1) to such an index, so that
searchers and predictors work on vectors of integers whatever the genes mean. The laws are those of pycls's sweeps:
closed ranges quantised so that both ends and all multiples of the quantum between them can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import NormalDist
from typing import Any, ClassVar, Literal, Protocol

from sartor.core.errors import SpecError

Law = Literal["uniform", "log_uniform", "power2_uniform", "power2_or_log_uniform", "normal", "log_normal"]
Order = Literal["free", "increasing", "decreasing", "constant"]
LAWS: tuple[Law, ...] = ("uniform", "log_uniform", "power2_uniform", "power2_or_log_uniform", "normal", "log_normal")
_NORMAL = NormalDist()
_TAIL = _NORMAL.cdf(-3.0)  # the ranges of normal laws are six standard deviations wide


class Gene(Protocol):
    """A named variable of a space."""

    @property
    def name(self) -> str:
        """Its key in configurations."""

    @property
    def entries(self) -> int:
        """How many integers encode it."""

    @property
    def levels(self) -> int:
        """How many values each entry has."""

    @property
    def size(self) -> int:
        """How many values the gene has."""

    def draw(self, uniforms: Sequence[float]) -> tuple[int, ...]:
        """The indices that ``entries`` uniform numbers in [0, 1) stand for."""

    def decode(self, indices: Sequence[int]) -> Any:
        """The value of indices; any indices below ``levels`` have one."""

    def encode(self, value: Any) -> tuple[int, ...]:
        """The indices of a value; raises SpecError for a value the gene does not have."""


class Scalar:
    """What genes of one entry share: subclasses number their values and invert their law."""

    name: str
    entries: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """How many values the gene has."""
        return self.levels

    @property
    def levels(self) -> int:
        """How many values the gene has."""
        raise NotImplementedError

    def at(self, index: int) -> Any:
        """The value with an index."""
        raise NotImplementedError

    def index(self, value: Any) -> int:
        """The index of a value; raises SpecError if there is none."""
        raise NotImplementedError

    def quantile(self, uniform: float) -> int:
        """The index at which the cumulative law passes ``uniform``."""
        raise NotImplementedError

    def draw(self, uniforms: Sequence[float]) -> tuple[int, ...]:
        """One index."""
        return (self.quantile(uniforms[0]),)

    def decode(self, indices: Sequence[int]) -> Any:
        """The value of the index."""
        return self.at(indices[0])

    def encode(self, value: Any) -> tuple[int, ...]:
        """The index of the value."""
        return (self.index(value),)

    def _missing(self, value: Any, valid: str) -> SpecError:
        return SpecError(f"gene {self.name}: {value!r} is not {valid}")


@dataclass(frozen=True)
class Choice(Scalar):
    """One of several values, in a sensible order where there is one; ``weights`` make some more likely."""

    name: str
    values: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    _cumulative: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = self.weights or (1.0,) * len(self.values)
        if not self.values or len(weights) != len(self.values) or min(weights) < 0 or not sum(weights):
            raise SpecError(f"gene {self.name}: needs values, and for each a weight that is not negative")
        if len(set(self.values)) != len(self.values):
            raise SpecError(f"gene {self.name}: a value is given twice; use weights to make it more likely")
        shares = [math.fsum(weights[: i + 1]) / math.fsum(weights) for i in range(len(weights))]
        object.__setattr__(self, "_cumulative", tuple(shares))

    @property
    def levels(self) -> int:
        """How many values there are."""
        return len(self.values)

    def at(self, index: int) -> Any:
        """The value with an index."""
        return self.values[index]

    def index(self, value: Any) -> int:
        """The index of a value; a list stands for the tuple it was before JSON."""
        value = frozen(value)
        if value not in self.values:
            raise self._missing(value, "one of " + ", ".join(map(repr, self.values)))
        return self.values.index(value)

    def quantile(self, uniform: float) -> int:
        """The index at which the summed weights pass ``uniform``."""
        return next((i for i, share in enumerate(self._cumulative) if uniform < share), self.levels - 1)


@dataclass(frozen=True)
class Real(Scalar):
    """Multiples of ``quantum`` from ``low`` to ``high``, both included, under a law.

    ``power2_uniform`` has the powers of two in the range instead; ``power2_or_log_uniform`` powers of two below the
    quantum and its multiples from there. Normal laws are centred (``log_normal`` in the logarithm), the range being
    six standard deviations. Raises SpecError where ends are no multiples, or no powers of two where they must be.
    """

    name: str
    low: float
    high: float
    quantum: float
    law: Law = "uniform"
    _ratio: tuple[int, int] = field(init=False, repr=False, compare=False)  # the quantum as a fraction
    _powers: int = field(init=False, repr=False, compare=False)  # how many values are powers of two
    _first: int = field(init=False, repr=False, compare=False)  # the first multiple, in quanta
    _levels: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        low, high, quantum = (Fraction(repr(end)) for end in (self.low, self.high, self.quantum))
        powers, first, levels = 0, low / quantum, int((high - low) / quantum) + 1
        if self.law == "power2_uniform":
            powers = levels = int(math.log2(high / low)) + 1
        elif self.law == "power2_or_log_uniform":
            powers = min(max(0, int(math.log2(quantum / low))), int(math.log2(high / low)) + 1)
            first = max(low, quantum) / quantum
            levels = powers + (int(high / quantum - first) + 1 if high >= quantum else 0)
        object.__setattr__(self, "_ratio", (quantum.numerator, quantum.denominator))
        object.__setattr__(self, "_powers", powers)
        object.__setattr__(self, "_first", int(first))
        object.__setattr__(self, "_levels", levels)

    def _check(self) -> None:
        ends = (self.low, self.high, self.quantum)
        where = f"gene {self.name}: {self.law} from {self.low:g} to {self.high:g} in steps of {self.quantum:g}"
        if self.law not in LAWS:
            raise SpecError(f"gene {self.name}: unknown law {self.law!r}; use one of {', '.join(LAWS)}")
        if self.quantum <= 0 or self.low > self.high or not all(map(math.isfinite, ends)):
            raise SpecError(f"{where}: needs low <= high and a positive step")
        if self.law not in ("uniform", "normal") and self.low <= 0:
            raise SpecError(f"{where}: the low end must be positive")
        if self.law.startswith("power2"):
            if any(not math.log2(end).is_integer() for end in ends):
                raise SpecError(f"{where}: both ends and the step must be powers of two")
        elif any(Fraction(repr(end)) % Fraction(repr(self.quantum)) for end in ends[:2]):
            raise SpecError(f"{where}: both ends must be multiples of the step")

    @property
    def levels(self) -> int:
        """How many values there are."""
        return self._levels

    def at(self, index: int) -> float:
        """The value with an index: the float nearest to the exact multiple."""
        return float(self._exact(index))

    def index(self, value: Any) -> int:
        """The index of a value."""
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            index = self._nearest(value)
            if self._exact(index) == value:
                return index
        raise self._missing(value, f"on the grid from {self.low:g} to {self.high:g} in steps of {self.quantum:g}")

    def quantile(self, uniform: float) -> int:
        """The index at which the cumulative law passes ``uniform``."""
        if self.law in ("uniform", "power2_uniform"):
            return int(uniform * self._levels)
        if self.law == "power2_or_log_uniform":
            steps = uniform * (math.log2(self.high / self.low) + 1)
            if steps < self._powers:
                return int(steps)
            share = (steps - self._powers) / (math.log2(self.high / self.low) + 1 - self._powers)
            return self._powers + self._log_uniform(share, self._first * self.quantum)
        if self.law == "log_uniform":
            return self._log_uniform(uniform, self.low)
        score = _NORMAL.inv_cdf(_TAIL + uniform * (1.0 - 2.0 * _TAIL)) / 6.0
        value = (self.low + self.high) / 2 + score * (self.high - self.low)
        if self.law == "log_normal":
            value = math.sqrt(self.low * self.high) * math.exp(score * math.log(self.high / self.low))
        return self._clipped(round(value / self.quantum) - self._first)

    def _log_uniform(self, uniform: float, low: float) -> int:
        """Steps above ``low``: a number log-uniform from one step below it (at most half of it), rounded up."""
        below = low - min(self.quantum, low / 2)
        value = below * math.exp(uniform * math.log(self.high / below))
        top = self._levels - 1 - self._powers
        return min(max(0, math.ceil(value / self.quantum) - self._first), top)

    def _exact(self, index: int) -> int | float:
        if index < self._powers:
            return self.low * (1 << index)
        numerator, denominator = self._ratio
        return (self._first + index - self._powers) * numerator / denominator

    def _nearest(self, value: float) -> int:
        if self._powers and (value < self.quantum or self._powers == self._levels):
            return self._clipped(round(math.log2(value / self.low)))
        return self._clipped(self._powers + round(value / self.quantum) - self._first)

    def _clipped(self, index: int) -> int:
        return min(max(0, index), self._levels - 1)


@dataclass(frozen=True)
class Int(Real):
    """Whole multiples of a whole ``quantum``: ``Real`` with int values."""

    low: int
    high: int
    quantum: int = 1

    def __post_init__(self) -> None:
        if any(not isinstance(value, int) for value in (self.low, self.high, self.quantum)):
            raise SpecError(f"gene {self.name}: the ends and the step of whole numbers must be whole")
        super().__post_init__()

    def at(self, index: int) -> int:
        """The value with an index."""
        return int(self._exact(index))


@dataclass(frozen=True)
class Repeat:
    """A tuple of ``length`` values of one gene: free, in increasing or decreasing order, or all the same.

    Ordered tuples are free ones sorted, so every vector of indices has a value.
    """

    item: Choice | Real
    length: int
    order: Order = "free"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise SpecError(f"gene {self.name}: a length of at least 1 is needed, not {self.length}")

    @property
    def name(self) -> str:
        """The name of the repeated gene."""
        return self.item.name

    @property
    def entries(self) -> int:
        """One integer per value, or one for all."""
        return 1 if self.order == "constant" else self.length

    @property
    def levels(self) -> int:
        """How many values each entry has."""
        return self.item.levels

    @property
    def size(self) -> int:
        """How many tuples there are; sorted ones are multisets."""
        n, k = self.item.levels, self.entries
        return n**k if self.order in ("free", "constant") else math.comb(n + k - 1, k)

    def draw(self, uniforms: Sequence[float]) -> tuple[int, ...]:
        """The indices of independent draws, in order."""
        return self._ordered([self.item.quantile(u) for u in uniforms])

    def decode(self, indices: Sequence[int]) -> tuple[Any, ...]:
        """The tuple of the indices, in order."""
        values = tuple(map(self.item.at, self._ordered(indices)))
        return values * self.length if self.order == "constant" else values

    def encode(self, value: Any) -> tuple[int, ...]:
        """The indices of the values."""
        indices = tuple(map(self.item.index, value)) if isinstance(value, list | tuple) else ()
        short = indices[: self.entries]
        if len(indices) != self.length or self._ordered(short) != short or {*indices} != {*short}:
            raise SpecError(f"gene {self.name}: {value!r} is not a list of {self.length}, {self.order}")
        return short

    def _ordered(self, indices: Sequence[int]) -> tuple[int, ...]:
        if self.order in ("increasing", "decreasing"):
            return tuple(sorted(indices, reverse=self.order == "decreasing"))
        return tuple(indices)


def frozen(value: Any) -> Any:
    """Lists as tuples, all the way down: what JSON made of a value, as it was."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value
