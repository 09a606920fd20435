"""Stateless random numbers: every draw is a function of a seed and of where it is used.

Nothing has to be saved for a resume, and the number of workers changes no draw.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that has a stable ``repr``: ``seed_of(seed, "augment", epoch)``."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def generator(*parts: object) -> np.random.Generator:
    """A NumPy generator seeded by ``seed_of(*parts)``."""
    return np.random.Generator(np.random.Philox(seed_of(*parts)))


def uniforms(seed: int, indices: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) of shape (len(indices), draws), each a function of (seed, index, draw) alone.

    Counter mode of the SplitMix64 mixer (Steele, Lea and Flood 2014): vectorised and without state.
    """
    with np.errstate(over="ignore"):
        place = np.arange(draws, dtype=np.uint64)
        counter: NDArray[np.uint64] = indices.astype(np.uint64)[:, None] * np.uint64(draws) + place
        mixed = _mix(_mix(counter * _GOLDEN + np.uint64(seed)) + np.uint64(seed) * _GOLDEN)
    return np.ldexp((mixed >> np.uint64(11)).astype(np.float64), -53)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
