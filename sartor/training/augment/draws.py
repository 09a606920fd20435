"""The random numbers of a batch's images: functions of seed, epoch and key, by the name of what they are for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartor.core.rng import generator, seed_of, uniforms


@dataclass(frozen=True)
class Draws:
    """Draws for the images ``keys`` (n,) in an epoch."""

    seed: int
    epoch: int
    keys: NDArray[np.int64]

    def __call__(self, what: str, count: int) -> NDArray[np.float64]:
        """Uniform numbers (n, count) in [0, 1)."""
        return uniforms(seed_of(self.seed, "augment", what, self.epoch), self.keys, count)

    def normal(self, what: str, count: int) -> NDArray[np.float64]:
        """Standard normal numbers (n, count)."""
        u = self(what, 2 * count)
        return normals(u[:, :count], u[:, count:])

    def noise(self, what: str, index: int) -> np.random.Generator:
        """A generator for the image at a position of the batch."""
        return generator(self.seed, "augment", what, self.epoch, int(self.keys[index]))


def normals(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard normal numbers from uniform ones in [0, 1) (Box and Muller 1958)."""
    return np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * np.pi * v)
