"""What the errors of a population say about its design space (Radosavovic et al. 2020, section 3.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sartor.core.errors import DataError
from sartor.core.rng import generator

Floats = NDArray[np.float64]
# The grid of the line fit: block widths of published networks lie well inside it.
_W0 = np.arange(8.0, 328.0, 8.0)
_WA = np.arange(0.0, 260.0, 4.0)
_WM = np.arange(30, 61) / 20.0


@dataclass(frozen=True)
class Edf:
    """An empirical distribution function: ``fractions[i]`` of the population has an error of at most ``errors[i]``."""

    errors: Floats
    fractions: Floats

    @classmethod
    def of(cls, errors: ArrayLike) -> Edf:
        """The function of a population's errors; raises DataError for an empty or non-finite one."""
        values = np.sort(np.asarray(errors, dtype=np.float64))
        if not len(values) or not np.isfinite(values).all():
            raise DataError("a distribution of errors needs at least one, and all of them finite")
        return cls(values, np.arange(1, len(values) + 1) / len(values))

    def __call__(self, error: ArrayLike) -> Floats:
        """The fraction of the population with an error of at most ``error``."""
        return np.searchsorted(self.errors, error, side="right") / len(self.errors)

    @property
    def lowest(self) -> float:
        """The best error."""
        return float(self.errors[0])

    @property
    def mean(self) -> float:
        """The mean error."""
        return float(self.errors.mean())


class Band(NamedTuple):
    """Where the best networks lie: 2.5, 50 and 97.5 % of the bootstrap's best values."""

    low: float
    median: float
    high: float


def best_band(
    values: ArrayLike, errors: ArrayLike, *, share: float = 0.25, repeats: int = 10_000, seed: int = 0
) -> Band:
    """The empirical bootstrap of section 3.1: the values of the best network of many resampled populations.

    Each draws ``share`` of the pairs with replacement and keeps the value of the lowest error.
    """
    x, e = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if x.shape != e.shape or not len(x):
        raise DataError(f"a bootstrap needs as many values as errors and at least one, not {len(x)} and {len(e)}")
    drawn = generator(seed, "bootstrap").integers(0, len(x), (repeats, max(1, round(share * len(x)))))
    best = drawn[np.arange(repeats), e[drawn].argmin(axis=1)]
    return Band(*map(float, np.percentile(x[best], (2.5, 50.0, 97.5))))


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """The exponent p of the best y = c x^p: the least-squares slope in logarithms."""
    log_x, log_y = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    return float(np.polyfit(log_x, log_y, 1)[0])


class LineFit(NamedTuple):
    """The quantised line nearest to block widths: its mean absolute log ratio to them, and its parameters."""

    error: float
    w0: float
    wa: float
    wm: float


def fit_lines(networks: Sequence[Sequence[int]]) -> list[LineFit]:
    """The e_fit of every network, given the widths of its blocks (section 3.3): a grid over w0, wa and wm."""
    by_depth: dict[int, list[int]] = defaultdict(list)
    for number, widths in enumerate(networks):
        by_depth[len(widths)].append(number)
    fits: dict[int, LineFit] = {}
    for depth, numbers in by_depth.items():
        grid, lines = _lines(depth)
        for number in numbers:
            observed = np.log(np.asarray(networks[number], dtype=np.float32))
            errors = np.abs(lines - observed).mean(axis=1)
            best = int(errors.argmin())
            fits[number] = LineFit(float(errors[best]), *map(float, grid[best]))
    return [fits[number] for number in range(len(networks))]


@lru_cache(maxsize=2)
def _lines(depth: int) -> tuple[Floats, NDArray[np.float32]]:
    """The grid of (w0, wa, wm), shape (n, 3), and the log widths of its lines, shape (n, depth)."""
    grid = np.stack(np.meshgrid(_W0, _WA, _WM, indexing="ij"), axis=-1).reshape(-1, 3)
    w0, wa, wm = grid[:, :1], grid[:, 1:2], grid[:, 2:]
    level = np.round(np.log((w0 + wa * np.arange(depth)) / w0) * (1.0 / np.log(wm)))
    widths = np.maximum(1.0, np.round(w0 * wm**level / 8.0)) * 8.0  # in the order of quantised_line: ties count
    return grid, np.log(widths).astype(np.float32)
