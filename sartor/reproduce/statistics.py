"""Means over few seeds, honestly: with their spread and Student's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from sartor.core.errors import DataError
from sartor.core.spec import Json

_GRID = 200_001


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of ``n`` values, their standard deviation, and the 95 % interval of the mean (nan where n is 1)."""

    mean: float
    deviation: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of independent values; raises DataError without any."""
        if not values:
            raise DataError("a mean needs at least one value; did every training diverge?")
        mean, n = float(np.mean(values)), len(values)
        if n == 1:
            return cls(mean, math.nan, math.nan, math.nan, 1)
        deviation = float(np.std(values, ddof=1))
        reach = t_quantile(n - 1) * deviation / math.sqrt(n)
        return cls(mean, deviation, mean - reach, mean + reach, n)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.n)

    def text(self, digits: int = 1, factor: float = 1.0) -> str:
        """``52.8 ± 0.6 [51.3, 54.3]``: mean, standard deviation and interval, all times ``factor``."""
        mean, deviation, low, high = (
            f"{factor * v:.{digits}f}" for v in (self.mean, self.deviation, self.low, self.high)
        )
        return mean if self.n == 1 else f"{mean} ± {deviation} [{low}, {high}]"

    def to_json(self) -> Json:
        """Plain values; what is not known is None."""
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(self).items()}


def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of ``a`` less that of ``b`` with Welch's interval; the deviation is that of one difference.

    Raises DataError where either is empty.
    """
    first, second = Estimate.of(a), Estimate.of(b)
    mean, n = first.mean - second.mean, min(len(a), len(b))
    if n == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    deviation, error = math.hypot(first.deviation, second.deviation), math.hypot(first.error, second.error)
    if not error:
        return Estimate(mean, 0.0, mean, mean, n)
    shares = (first.error / error) ** 2, (second.error / error) ** 2
    reach = error * t_quantile(1.0 / (shares[0] ** 2 / (len(a) - 1) + shares[1] ** 2 / (len(b) - 1)))
    return Estimate(mean, deviation, mean - reach, mean + reach, n)


@lru_cache(maxsize=64)
def t_quantile(freedom: float, p: float = 0.975) -> float:
    """The p-quantile (p >= 1/2) of Student's t distribution, to about six digits.

    With t = sqrt(freedom) tan(a), the density of the angle is proportional to cos(a)^(freedom - 1).
    """
    angle = np.linspace(0.0, math.pi / 2, _GRID)
    density = np.cos(angle) ** (freedom - 1.0)
    area = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(2.0 * p - 1.0, area / area[-1], angle)))
