"""Orders of examples: functions of (seed, epoch) without state.

An order gives keys: ``key % length`` is the example, ``key // length`` counts its copies within the epoch, so that
every copy draws its own augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sartor.core.rng import generator
from sartor.training.plan import Keys


class Order(Protocol):
    """In which order an epoch visits the examples."""

    def keys(self, length: int, seed: int, epoch: int, world: int) -> Keys:
        """The epoch's keys for all ranks; of every batch, rank r of ``world`` takes keys r, r + world, …"""


@dataclass(frozen=True)
class Sequential:
    """As they are stored."""

    def keys(self, length: int, seed: int, epoch: int, world: int) -> Keys:
        """0 to length - 1."""
        return np.arange(length)


@dataclass(frozen=True)
class Shuffled:
    """Every example once, permuted anew in each epoch."""

    def keys(self, length: int, seed: int, epoch: int, world: int) -> Keys:
        """A permutation of 0 to length - 1."""
        return generator(seed, "order", epoch).permutation(length)


@dataclass(frozen=True)
class Repeated:
    """Repeated augmentation (Hoffer et al. 2020; Wightman et al. 2021): ``times`` copies of each example in a row.

    Copies fall on different ranks; each rank keeps the first floor(floor(N / block) * block / world) of its list, so
    an epoch has about N examples of which N / times are distinct. Fewer than ``block`` examples are not rounded.
    """

    times: int = 3
    block: int = 256
    shuffle: bool = True

    def keys(self, length: int, seed: int, epoch: int, world: int) -> Keys:
        """The kept keys, ranks interleaved; the list wraps around if it does not divide by ``world``."""
        order = Shuffled().keys(length, seed, epoch, world) if self.shuffle else np.arange(length)
        copies = (order[:, None] + length * np.arange(self.times)).ravel()
        rounded = length // self.block * self.block if length >= self.block else -(-length // world) * world
        return np.resize(copies, min(rounded // world, -(-copies.size // world)) * world)
