"""Configurations near a budget: drawn structures widened to it, and what costs least in a space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from sartor.core.budget import Budget
from sartor.core.cost import Cost
from sartor.core.errors import ImpossibleBudget, SpecError
from sartor.core.genes import Gene
from sartor.core.rng import generator
from sartor.core.space import Config, Rng, Space

_STRUCTURES = 12  # drawn for one configuration; the most promising is kept
_TRIES = 200
_DRAWN, _STARTS = 300, 6  # of so many draws the least are where descents start
_MANY = 64  # values of a gene beyond which only the two ends are tried


def near(space: Space, budget: Budget, fraction: float, rng: Rng) -> Config:
    """A drawn structure whose ``width`` brings it as near under ``fraction`` of the counted bounds as it can.

    All bounded fields that can be counted are respected at once; without any this is a plain draw. Of several
    structures the one is kept that uses the bounds most fully for its activations: these say better than
    multiply-adds how long a network takes (RegNet, section 4; here a correlation of 0.86 with the time of a training
    step on a CPU, against 0.53). Raises ImpossibleBudget, naming the nearest possible, where nothing in the space is
    inside the bounds.
    """
    target = Budget(tuple(replace(bound, limit=bound.limit * fraction) for bound in budget.of("counted").bounds))
    if not target.bounds:
        return space.sample(rng)
    found: list[Config] = []
    for _ in range(_TRIES):
        config = widened(space, space.sample(rng), target)
        if config is not None:
            found.append(config)
        if len(found) == _STRUCTURES:
            break
    if not found:
        least = nearest(space, target)
        if target.verdict(space.count(least)) == "out":
            has = target.describe(space.count(least))
            raise ImpossibleBudget(f"no {space.name} is within {target}; the nearest possible has {has}")
        found = [least]
    return max(found, key=lambda config: _promise(space.count(config), target))


def widened(space: Space, config: Config, budget: Budget) -> Config | None:
    """The configuration with the largest ``width`` inside the budget; None if the smallest is outside.

    Found by bisection: no counted cost falls when the width grows.
    """
    gene = next(gene for gene in space.genes if gene.name == "width")

    def with_width(index: int) -> Config:
        return Config({**config, "width": gene.decode((index,))})

    low, high = -1, gene.levels
    while high - low > 1:
        middle = (low + high) // 2
        if budget.verdict(space.count(with_width(middle))) == "out":
            high = middle
        else:
            low = middle
    return with_width(low) if low >= 0 else None


def smallest(space: Space, field: str = "params") -> Config:
    """The configuration with the least counted ``field``, as coordinate descents from the least draws find it."""
    return _least(space, lambda cost: cost.value(field))


def nearest(space: Space, budget: Budget) -> Config:
    """The configuration whose worst ratio of cost to bound is least, found likewise."""
    return _least(space, budget.distance)


def _promise(cost: Cost, budget: Budget) -> float:
    """The logarithm of the product of the ratios to the bounds, over the activations."""
    amounts = ((bound, cost.get(bound.quantity)) for bound in budget.bounds)
    use = sum(math.log(max(amount.value, 1.0) / bound.limit) for bound, amount in amounts if amount is not None)
    return use - math.log(max(1.0, cost.value("activations")))


def _least(space: Space, key: Callable[[Cost], float]) -> Config:
    rng = generator(0, "least", space.name)
    narrowest = next(gene for gene in space.genes if gene.name == "width").decode((0,))
    drawn = {Config({**space.sample(rng), "width": narrowest}): None for _ in range(_DRAWN)}
    starts = sorted(drawn, key=lambda config: key(space.count(config)))[:_STARTS]
    ends = [_descended(space, config, key) for config in starts]
    return min(ends, key=lambda config: key(space.count(config)))


def _descended(space: Space, config: Config, key: Callable[[Cost], float]) -> Config:
    """The end of a descent along one gene after another until none helps."""
    best = key(space.count(config))
    while True:
        before = best
        for gene in space.genes:
            for other in _changed(space, config, gene):
                value = key(space.count(other))
                if value < best:
                    config, best = other, value
        if best == before:
            return config


def _changed(space: Space, config: Config, gene: Gene) -> Iterator[Config]:
    """The valid configurations that differ in a gene, or for one of many values those with its ends."""
    if gene.name not in config:
        return
    vector = space.encode(config)
    start = sum(other.entries for other in space.genes[: [g.name for g in space.genes].index(gene.name)])
    for entry in range(start, start + gene.entries):
        for index in range(gene.levels) if gene.levels <= _MANY else (0, gene.levels - 1):
            moved = vector.copy()
            moved[entry] = index
            try:
                yield space.decode(moved)
            except SpecError:
                continue
