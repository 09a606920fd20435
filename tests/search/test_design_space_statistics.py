import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sartor.core.errors import DataError
from sartor.models.network import list_models, spec_of
from sartor.models.vision.regnet import quantised_line
from sartor.search.design_space_statistics import Edf, best_band, fit_lines, slope

RECORDED = json.loads((Path(__file__).parents[1] / "models" / "pycls_complexity.json").read_text())["models"]


@pytest.mark.parametrize(
    ("family", "acts", "params"), [("RegNetX", 0.550, 0.694), ("RegNetY", 0.516, 0.758), ("EN", 0.82, None)]
)
def test_published_families_scale_as_the_paper_says(family, acts, params):
    rows = [row for name, row in RECORDED.items() if name.startswith(family)]
    flops = [row["flops"] for row in rows]
    assert slope(flops, [row["acts"] for row in rows]) == pytest.approx(acts, abs=6e-4 if params else 6e-3)
    if params:
        assert slope(flops, [row["params"] for row in rows]) == pytest.approx(params, abs=6e-4)


@given(p=st.floats(-3, 3), c=st.floats(0.1, 10))
def test_slope_of_a_power_law_is_its_exponent(p, c):
    x = np.array([1.0, 2.0, 5.0, 40.0])
    assert slope(x, c * x**p) == pytest.approx(p, abs=1e-9)


@given(errors=st.lists(st.floats(0, 1), min_size=1, max_size=50), at=st.floats(-0.1, 1.1))
def test_edf_is_a_step_function_to_one(errors, at):
    edf = Edf.of(errors)
    assert (np.diff(edf.errors) >= 0).all()
    assert (np.diff(edf.fractions) > 0).all()
    assert edf.fractions[-1] == 1.0
    assert edf(at) == np.mean(np.array(errors) <= at)
    assert edf(max(errors)) == 1.0
    assert edf.lowest == min(errors)
    assert edf.mean == pytest.approx(np.mean(errors))


@pytest.mark.parametrize("errors", [[], [0.1, float("nan")]])
def test_edf_refuses_what_has_no_order(errors):
    with pytest.raises(DataError, match="at least one, and all of them finite"):
        Edf.of(errors)


def test_bootstrap_finds_the_best_value_of_a_synthetic_population():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 40, 500)
    errors = 0.3 + 0.001 * (x - 20) ** 2 + rng.normal(0, 0.02, 500)
    band = best_band(x, errors)
    assert band.low < 20 < band.high
    assert band.median == pytest.approx(20, abs=4)
    assert band.high - band.low < 14
    assert best_band(x, errors) == band
    blind = best_band(x, rng.permutation(errors))
    assert blind.high - blind.low > 20


def test_bootstrap_of_one_network_is_that_network():
    assert best_band([3.0], [0.5], repeats=10) == (3.0, 3.0, 3.0)
    with pytest.raises(DataError, match="not 0 and 0"):
        best_band([], [])


def test_bootstrap_percentiles_are_those_of_the_order_statistics():
    """Of the best of m = 25 draws from 100 ranks, P(rank < k) is 1 - (1 - k / 100)^25."""
    ranks = np.arange(100.0)
    band = best_band(ranks, ranks, repeats=20_000)
    expected = [100 * (1 - (1 - share) ** (1 / 25)) for share in (0.025, 0.5, 0.975)]
    assert band == pytest.approx(expected, abs=1.01)


@settings(deadline=None, max_examples=15)
@example(depth=8, w0=2, wa=6, wm=50)  # 16 x 2.5^2 / 8 is a tie
@given(depth=st.sampled_from([8, 12, 16]), w0=st.integers(1, 32), wa=st.integers(0, 60), wm=st.integers(30, 60))
def test_lines_fit_themselves(depth, w0, wa, wm):
    line = quantised_line(depth, 8 * w0, 4.0 * wa, wm / 20)
    widths = [w for w, d in zip(line.widths, line.depths, strict=True) for _ in range(d)]
    assert fit_lines([widths])[0].error < 1e-6


def test_published_models_are_near_lines_and_descending_ones_are_not():
    names = [name for name in list_models("regnetx_*") if not name.endswith("_tv")]
    networks = [[stage.width for stage in spec_of(name).stages for _ in range(stage.depth)] for name in names]
    fits = fit_lines(networks)
    assert max(fit.error for fit in fits) < 0.08
    assert min(fit.error for fit in fit_lines([widths[::-1] for widths in networks])) > 0.1
    xs = dict(zip(names, fits, strict=True))
    assert xs["regnetx_002"][1:] == pytest.approx((24, 36, 2.5))  # published: 24, 36.44, 2.49
