import numpy as np
import pytest

from sartor.report import design_space as pictures
from sartor.search.design_space_analysis import AnalysisOptions, analyse


def records(n, shift):
    rng = np.random.default_rng(n)
    for index in range(n):
        depth = int(rng.integers(4, 20))
        error = 0.2 + shift + 0.01 * abs(depth - 10) + 0.01 * float(rng.random())
        yield {
            "index": index,
            "error": error,
            "curve": [0.9, 0.5, error],
            "config": {"depth": depth, "w0": 16, "wa": 8.0},
            "complexity": {"macs": 1e6 * depth, "params": 1e5 * depth, "activations": 1e4 * depth},
            "network": {"depths": [depth - 2, 2], "widths": [16, 64], "total_depth": depth},
        }


@pytest.fixture(scope="module")
def analysis():
    options = AnalysisOptions(metrics=("depth", "config.w0*wa"), best=3, worst=1)
    return analyse({"small": list(records(30, 0.1)), "large": list(records(20, 0.0))}, options)


def test_distribution_has_a_curve_to_one_for_every_population(analysis):
    (ax,) = pictures.plot_edf(analysis).axes
    assert len(ax.lines) == 2
    for line, edf in zip(ax.lines, analysis.edfs.values(), strict=True):
        assert line.get_ydata()[-1] == 1.0
        assert np.array_equal(line.get_xdata()[1:], edf.errors)
    assert ax.lines[0].get_label().startswith("small   n 30, best ")


def test_every_network_is_a_point_beside_its_best_range(analysis):
    axes = pictures.plot_values(analysis, ("depth", "params")).axes
    assert [len(ax.collections[0].get_offsets()) for ax in axes] == [30, 20, 30, 20]
    for ax, name in zip(axes, ("small", "large"), strict=False):
        band = analysis.spreads["depth"][name].band
        assert ax.lines[0].get_xdata()[0] == band.median
        assert ax.get_title(loc="left") == f"best {band.median:g} ({band.low:g} to {band.high:g})"


def test_trends_stand_where_they_are_told(analysis):
    ax, *_ = pictures.plot_trends(analysis, ("depth", "params"), places=(1e6, 1e9)).axes
    assert list(ax.lines[0].get_xdata()) == [1e6, 1e9]
    assert ax.get_xscale() == "log"
    beside, *_ = pictures.plot_trends(analysis, ("depth",)).axes
    assert [label.get_text() for label in beside.get_xticklabels()] == ["small", "large"]


def test_networks_and_curves_are_drawn_from_their_records(analysis):
    best = analysis.best["large"]
    axes = [ax for ax in pictures.plot_networks(best).axes if ax.get_visible()]
    assert len(axes) == 3
    assert len(axes[0].lines[0].get_xdata()) == best[0]["config"]["depth"]  # the line w0 + wa j
    (curves,) = pictures.plot_curves(best).axes
    assert [line.get_ydata()[-1] for line in curves.lines] == [record["error"] for record in best]


def test_scaling_names_the_exponent():
    costs = [{"macs": m, "activations": 3 * m**0.5} for m in (4e9, 1e8, 1e9)]
    (ax,) = pictures.plot_scaling({"square root": costs}, "activations").axes
    assert ax.get_legend().get_texts()[0].get_text() == "square root: power 0.50"
    assert list(ax.lines[1].get_xdata()) == [1e8, 1e9, 4e9]


def test_pictures_are_written_alike(analysis):
    drawn, again = (pictures.svg(pictures.plot_edf(analysis)) for _ in range(2))
    assert drawn == again
    assert "<svg" in drawn
    assert "error at most" in drawn
