"""Search spaces: genes and rules that give a spec, and its counted cost before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sartor.core.budget import Budget
from sartor.core.cost import Cost
from sartor.core.errors import ImpossibleBudget, SpecError, unknown
from sartor.core.genes import Gene, frozen
from sartor.core.spec import digest

Rng = np.random.Generator
_NEIGHBOURS = 100  # tries of one mutation or crossover before a parent is returned


class Config(Mapping[str, Any]):
    """An immutable mapping from gene to value; ``dict(config)`` is ready for JSON. Inactive genes are absent."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, Config) else other)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Config({self._values})"

    @property
    def id(self) -> str:
        """Twelve hexadecimal characters that equal configurations share."""
        return digest(self._values)


@runtime_checkable
class SearchSpace(Protocol):
    """What searchers need of a space. Every operation is a pure function of its arguments and the generator."""

    genes: tuple[Gene, ...]

    def sample(self, rng: Rng) -> Config:
        """A valid configuration."""

    def mutate(self, config: Config, rng: Rng, rate: float | None = None) -> Config:
        """A valid neighbour of a configuration."""

    def cross(self, a: Config, b: Config, rng: Rng) -> Config:
        """A valid mixture of two configurations."""

    def encode(self, config: Config) -> NDArray[np.int64]:
        """The configuration as a vector of whole numbers."""

    def decode(self, vector: NDArray[Any]) -> Config:
        """The inverse of ``encode``, for any numbers."""

    def spec(self, config: Config) -> Any:
        """The spec; equal configurations give equal specs."""

    def count(self, config: Config) -> Cost:
        """The counted cost of the spec."""

    def within(self, budget: Budget, floor: Budget | None = None) -> SearchSpace:
        """The part of the space whose counted cost is inside a budget and not below a floor."""


@dataclass(frozen=True)
class Space:
    """Genes, the rules among them, and functions from a configuration to its spec and from a spec to its cost.

    ``active`` gives, for some genes, when they exist, judged by the genes before them. ``repair`` changes values that
    do not go together; it must leave its own results as they are. ``valid`` refuses what is left. ``budget`` and
    ``floor`` bound the counted cost; ``tries`` draws without a valid one end in an error.
    """

    name: str
    genes: tuple[Gene, ...]
    to_spec: Callable[[Config], Any]
    counter: Callable[[Any], Cost]
    active: Mapping[str, Callable[[Mapping[str, Any]], bool]] = field(default_factory=dict)
    repair: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    valid: Callable[[Config], bool] | None = None
    budget: Budget = field(default_factory=Budget)
    floor: Budget = field(default_factory=Budget)
    tries: int = 50_000

    def __post_init__(self) -> None:
        names = [gene.name for gene in self.genes]
        if len({*names}) != len(names):
            raise SpecError(f"space {self.name}: two genes have one name")
        for name in self.active:
            if name not in names:
                raise SpecError(f"space {self.name}: {unknown('gene', name, names)}")

    @property
    def entries(self) -> int:
        """The length of an encoded configuration."""
        return sum(gene.entries for gene in self.genes)

    @property
    def levels(self) -> NDArray[np.int64]:
        """How many values each entry of an encoded configuration has; entries count from 0, -1 is inactive."""
        return np.repeat([gene.levels for gene in self.genes], [gene.entries for gene in self.genes])

    def size(self) -> int:
        """The number of combinations of gene values, before rules and bounds."""
        return math.prod(gene.size for gene in self.genes)

    def sample(self, rng: Rng) -> Config:
        """A configuration drawn by the genes' laws, given that it is valid and within bounds.

        Raises ImpossibleBudget, naming the nearest draw, or SpecError after ``tries`` draws.
        """
        nearest, least = None, math.inf
        for _ in range(self.tries):
            config = self._settle(self._draw(rng))
            if (excess := self._excess(config)) <= 1.0:
                return config
            if excess < least:
                nearest, least = config, excess
        raise self._nothing(nearest)

    def attempt(self, rng: Rng) -> Config | None:
        """One draw by the genes' laws; None where it is not valid and within bounds."""
        config = self._settle(self._draw(rng))
        return config if self._excess(config) <= 1.0 else None

    def mutate(self, config: Config, rng: Rng, rate: float | None = None) -> Config:
        """A neighbour: one entry moved, or each with probability ``rate`` (at least one).

        An entry moves a random part of the way towards a fresh draw. The configuration itself is returned where no
        valid neighbour was found.
        """
        present = self.encode(config)
        active = np.flatnonzero(present >= 0)
        for _ in range(_NEIGHBOURS):
            fresh = self._draw(rng)
            chosen = rng.random(len(active)) < (rate or 0.0)
            chosen[rng.integers(len(active))] = True
            moved = active[chosen]
            reach = np.ceil(np.abs(fresh[moved] - present[moved]) * rng.random(len(moved)) ** 2)
            child = np.where(present >= 0, present, fresh)
            child[moved] += (np.sign(fresh[moved] - present[moved]) * reach).astype(np.int64)
            if (settled := self._settle(child)) != config and self._excess(settled) <= 1.0:
                return settled
        return config

    def cross(self, a: Config, b: Config, rng: Rng) -> Config:
        """A mixture of two configurations, entry by entry; ``a`` where no mixture tried is valid."""
        left, right = self.encode(a), self.encode(b)
        left, right = np.where(left < 0, right, left), np.where(right < 0, left, right)
        for _ in range(_NEIGHBOURS):
            child = self._settle(np.where(rng.random(len(left)) < 0.5, left, right))
            if self._excess(child) <= 1.0:
                return child
        return a

    def encode(self, config: Mapping[str, Any]) -> NDArray[np.int64]:
        """The index of every value, gene after gene, -1 for inactive ones. Raises SpecError for foreign values."""
        vector: list[int] = []
        for gene in self.genes:
            vector += gene.encode(config[gene.name]) if gene.name in config else (-1,) * gene.entries
        return np.array(vector, dtype=np.int64)

    def decode(self, vector: NDArray[Any]) -> Config:
        """The configuration of a vector: rounded, clipped and repaired. Raises SpecError if it is still not valid."""
        if len(vector) != self.entries:
            raise SpecError(f"space {self.name}: a configuration has {self.entries} entries, not {len(vector)}")
        config = self._settle(np.rint(vector).astype(np.int64))
        if self._excess(config) > 1.0:
            raise SpecError(f"space {self.name}: {dict(config)} is not valid or not within its bounds")
        return config

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration with these values, for instance from JSON. Raises SpecError if it is none of this space."""
        names = [gene.name for gene in self.genes]
        for name in values:
            if name not in names:
                raise SpecError(f"space {self.name}: {unknown('gene', name, names)}")
        config = self.decode(self.encode(values))
        if config != {name: frozen(value) for name, value in values.items()}:
            raise SpecError(f"space {self.name}: {dict(values)} is not {dict(config)}, which its rules make of it")
        return config

    def spec(self, config: Config) -> Any:
        """The spec of a configuration."""
        return self.to_spec(config)

    def count(self, config: Config) -> Cost:
        """The counted cost of a configuration's spec."""
        return self.counter(self.to_spec(config))

    def within(self, budget: Budget, floor: Budget | None = None) -> Space:
        """The part of the space inside the budget's counted bounds, and at or above the limits of ``floor``."""
        upper, lower = budget.of("counted").bounds, (floor or Budget()).of("counted").bounds
        return replace(self, budget=Budget((*self.budget.bounds, *upper)), floor=Budget((*self.floor.bounds, *lower)))

    def _draw(self, rng: Rng) -> NDArray[np.int64]:
        uniforms, indices, start = rng.random(self.entries).tolist(), list[int](), 0
        for gene in self.genes:
            indices += gene.draw(uniforms[start : start + gene.entries])
            start += gene.entries
        return np.array(indices, dtype=np.int64)

    def _settle(self, vector: NDArray[np.int64]) -> Config:
        """The configuration of indices after repair, without inactive genes."""
        indices, values, start = vector.tolist(), dict[str, Any](), 0
        for gene in self.genes:
            part = [min(max(0, i), gene.levels - 1) for i in indices[start : start + gene.entries]]
            values[gene.name] = gene.decode(part)
            start += gene.entries
        if self.repair is not None:
            values = self.repair(values)
        for name, exists in self.active.items():
            if not exists(values):
                del values[name]
        return Config(values)

    def _excess(self, config: Config) -> float:
        """How far from allowed: at most 1 inside the bounds, else the worst ratio to a bound; infinite if not valid."""
        if self.valid is not None and not self.valid(config):
            return math.inf
        if not self.budget.bounds and not self.floor.bounds:
            return 0.0
        cost = self.count(config)
        if self.budget.verdict(cost) == "out":
            return max(self.budget.distance(cost), math.nextafter(1.0, 2.0))  # a strict bound may be met exactly
        return self._shortfall(cost)

    def _shortfall(self, cost: Cost) -> float:
        """The largest ratio of a lower limit to its amount."""
        amounts = ((bound, cost.get(bound.quantity)) for bound in self.floor.bounds)
        return max((b.limit / max(a.value, 1e-9) for b, a in amounts if a is not None), default=0.0)

    def _nothing(self, nearest: Config | None) -> SpecError | ImpossibleBudget:
        if nearest is None:
            return SpecError(f"space {self.name}: none of {self.tries} draws is valid; widen its genes")
        bounds = str(self.budget) + (f", not below {self.floor}" if self.floor.bounds else "")
        has = Budget((*self.budget.bounds, *self.floor.bounds)).describe(self.count(nearest))
        return ImpossibleBudget(
            f"space {self.name}: none of {self.tries} draws is within {bounds}; the nearest has {has}"
        )
