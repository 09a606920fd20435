import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.errors import DataError
from sartor.reproduce.statistics import Estimate, difference, t_quantile


@pytest.mark.parametrize(
    ("freedom", "p", "value"),
    [(1, 0.975, 12.7062), (2, 0.975, 4.30265), (2.5, 0.975, 3.57464), (30, 0.975, 2.04227), (5, 0.95, 2.01505)],
)
def test_quantiles_are_those_of_the_tables(freedom, p, value):
    assert t_quantile(freedom, p) == pytest.approx(value, rel=2e-5)


def test_intervals_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, (2000, 3))
    inside = [e.low <= 3.0 <= e.high for e in (Estimate.of(list(sample)) for sample in samples)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_differences_are_welchs():
    a, b = [20.1, 19.4, 20.9, 18.8], [18.0, 18.9, 17.2]
    gap = difference(a, b)
    stats = pytest.importorskip("scipy.stats")
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert gap.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (gap.low, gap.high) == pytest.approx((interval.low, interval.high), rel=1e-4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6))
def test_differences_change_sign_when_turned_round(a, b):
    there, back = difference(a, b), difference(b, a)
    assert there.mean == -back.mean
    if min(len(a), len(b)) > 1:
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
        assert there.low <= there.mean <= there.high
    else:
        assert math.isnan(there.low)


def test_one_value_has_no_spread():
    estimate = Estimate.of([0.5])
    assert estimate.text(1, 100) == "50.0"
    assert estimate.to_json() == {"mean": 0.5, "deviation": None, "low": None, "high": None, "n": 1}
    with pytest.raises(DataError, match="at least one"):
        Estimate.of([])


def test_text_gives_mean_deviation_and_interval():
    assert Estimate(0.5, 0.01, 0.475, 0.525, 3).text(1, 100) == "50.0 ± 1.0 [47.5, 52.5]"
