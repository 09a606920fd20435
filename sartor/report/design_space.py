"""Pictures of design spaces: error distributions, errors against metrics with their best range, trends, networks.

Every function returns a matplotlib ``Figure`` that no window owns; ``svg`` writes it, the same bytes for the same
figure. matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from sartor.search.design_space_analysis import Analysis, Record, value
from sartor.search.design_space_statistics import slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b")  # Okabe and Ito, 2008
_INK, _FAINT, _BAND = "#2b2b2b", "#9a9a9a", "#4c8bf5"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7e7e7",
    "grid.linewidth": 0.8,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "sartor",
    "svg.fonttype": "none",
}
_LOG_FROM = 6.0  # a ratio of largest to smallest from which a logarithmic axis reads better
_LABELS = {"macs": "multiply-adds", "params": "parameters", "line_error": "distance from a line (e_fit)", "wm": "w_m"}


def plot_edf(analysis: Analysis) -> Figure:
    """The error distribution of every population; the legend gives n, the lowest and the mean error."""
    with panels(1, 1, (5.6, 3.6)) as (figure, ((ax,),)):
        for (name, edf), colour in zip(analysis.edfs.items(), _colours(len(analysis.edfs)), strict=True):
            label = f"{name}   n {len(edf.errors)}, best {_percent(edf.lowest)}, mean {_percent(edf.mean)}"
            steps = np.concatenate([[0.0], edf.fractions])
            ax.step(np.concatenate([edf.errors[:1], edf.errors]), steps, where="post", color=colour, label=label)
        ax.set_xlabel("error at most")
        ax.set_ylabel("share of networks")
        ax.set_ylim(0, 1.02)
        ax.xaxis.set_major_formatter(lambda e, _: f"{100 * e:g}%")
        ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", fontsize=8.5)
    return figure


def plot_values(analysis: Analysis, metrics: Sequence[str]) -> Figure:
    """Errors against metrics with the bootstrap's best range: a row per metric and a column per population.

    Of a single population the metrics stand side by side, three in a row.
    """
    names = list(analysis.populations)
    columns = len(names) if len(names) > 1 else min(3, len(metrics))
    rows = -(-len(metrics) * len(names) // columns)
    with panels(rows, columns, (3.1, 2.3), sharey=True, sharex="row" if len(names) > 1 else False) as (figure, axes):
        flat = iter([ax for row in axes for ax in row])
        for metric in metrics:
            log = _spans([analysis.values(metric, name)[0] for name in names])
            for name, colour in zip(names, _colours(len(names)), strict=True):
                x, errors = analysis.values(metric, name)
                low, median, high = analysis.spreads[metric][name].band
                ax = next(flat)
                ax.axvspan(low, high, color=_BAND, alpha=0.12, lw=0)
                ax.axvline(median, color=_INK, lw=1.2)
                ax.scatter(x, errors, s=14, color=colour, alpha=0.75, lw=0)
                best = f"best {_short(median)} ({_short(low)} to {_short(high)})"
                ax.set_title(best, fontsize=8, loc="left", color=_INK)
                ax.set_xlabel(_label(metric))
                _scale(ax, "x", log)
                ax.yaxis.set_major_formatter(lambda e, _: f"{100 * e:g}%")
        for ax in flat:
            ax.set_visible(False)
        for row in axes:
            row[0].set_ylabel("error")
        if len(names) > 1:
            for ax, name in zip(axes[0], names, strict=True):
                ax.annotate(name, (0, 1), (0, 20), xycoords="axes fraction", textcoords="offset points", weight="bold")
    return figure


def plot_trends(
    analysis: Analysis, metrics: Sequence[str], places: Sequence[float] | None = None, across: str = "multiply-adds"
) -> Figure:
    """How the best range of metrics moves from population to population.

    ``places`` gives the populations positions ``across`` a quantity; without, they stand side by side.
    """
    names = list(analysis.populations)
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    x = np.array(range(len(names)) if places is None else places, dtype=float)
    with panels(rows, columns, (3.1, 2.4)) as (figure, axes):
        flat = [ax for row in axes for ax in row]
        for ax in flat[len(metrics) :]:
            ax.set_visible(False)
        for ax, metric in zip(flat, metrics, strict=False):
            spreads = [analysis.spreads[metric][name] for name in names]
            ends = [np.array([getattr(s, end) for s in spreads]) for end in ("lowest", "highest")]
            low, median, high = np.array([s.band for s in spreads]).T
            ax.fill_between(x, *ends, color=_FAINT, alpha=0.15, lw=0, label="all networks")
            ax.fill_between(x, low, high, color=_BAND, alpha=0.25, lw=0, label="best (95 %)")
            ax.plot(x, median, "o-", color=_INK, ms=4, label="best (median)")
            ax.set_title(_label(metric), fontsize=9, loc="left")
            _scale(ax, "y", _spans(ends))
            if places is None:
                ax.set_xticks(x, names, rotation=20, ha="right")
            else:
                _scale(ax, "x", _spans([x]))
                ax.set_xlabel(across)
        figure.legend(*flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=8.5)
    return figure


def plot_networks(records: Sequence[Record], columns: int = 3) -> Figure:
    """Block widths of networks from first to last block, as their records give them."""
    rows = -(-len(records) // columns)
    with panels(rows, columns, (2.9, 2.0)) as (figure, axes):
        flat = [ax for row in axes for ax in row]
        for ax in flat[len(records) :]:
            ax.set_visible(False)
        for ax, record in zip(flat, records, strict=False):
            depths, widths = record["network"]["depths"], record["network"]["widths"]
            edges = np.concatenate([[0], np.cumsum(depths)])
            ax.stairs(widths, edges, fill=True, color=COLOURS[0], alpha=0.25)
            ax.stairs(widths, edges, color=COLOURS[0], lw=1.8)
            config = record.get("config", {})
            if {"w0", "wa"} <= config.keys():
                j = np.arange(sum(depths))
                ax.plot(j + 0.5, config["w0"] + config["wa"] * j, ":", color=_INK, lw=1.2)
            cost = ", ".join(f"{_short(value(record, m))} {_label(m)}" for m in ("macs", "params"))
            ax.set_title(f"{_percent(record['error'])} error\n{cost}", fontsize=8, loc="left")
            ax.set_xlabel("block")
        for row in axes:
            row[0].set_ylabel("width")
    return figure


def plot_curves(records: Sequence[Record]) -> Figure:
    """Errors after each epoch, of records with a ``curve``."""
    with panels(1, 1, (4.8, 3.2)) as (figure, ((ax,),)):
        for record, colour in zip(records, _colours(len(records)), strict=True):
            epochs = range(1, len(record["curve"]) + 1)
            label = f"network {record['index']}: {_percent(record['error'])}"
            ax.plot(epochs, record["curve"], "o-", ms=3, color=colour, label=label)
        ax.set_xlabel("epoch")
        ax.set_ylabel("error")
        ax.yaxis.set_major_formatter(lambda e, _: f"{100 * e:g}%")
        ax.legend(loc="upper right", fontsize=8)
    return figure


def plot_scaling(families: Mapping[str, Sequence[Mapping[str, float]]], metric: str) -> Figure:
    """A cost against multiply-adds on logarithmic axes, with the exponent of each family of networks."""
    with panels(1, 1, (4.8, 3.4)) as (figure, ((ax,),)):
        for (name, costs), colour in zip(families.items(), _colours(len(families)), strict=True):
            x, y = np.array(sorted((cost["macs"], cost[metric]) for cost in costs)).T
            exponent = slope(x, y)
            fit = np.exp(np.log(y).mean() + exponent * (np.log(x) - np.log(x).mean()))
            ax.plot(x, fit, "--", color=colour, lw=1.2)
            ax.plot(x, y, "o", color=colour, ms=5, label=f"{name}: power {exponent:.2f}")
        ax.set_xlabel(_label("macs"))
        ax.set_ylabel(_label(metric))
        for axis in "xy":
            _scale(ax, axis, True)
        ax.legend(loc="upper left")
    return figure


def svg(figure: Figure) -> str:
    """The figure as SVG text, without a date."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


@contextmanager
def panels(rows: int, columns: int, size: tuple[float, float], **axes: Any) -> Iterator[tuple[Figure, Any]]:
    """A styled figure of rows and columns of axes, each of a size in inches (width, height)."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **axes)


def _colours(n: int) -> tuple[str, ...]:
    return tuple(COLOURS[i % len(COLOURS)] for i in range(n))


def _spans(values: Sequence[Any]) -> bool:
    """Whether positive values span so much that a logarithmic axis is better."""
    low, high = min(map(np.min, values)), max(map(np.max, values))
    return bool(low > 0 and high / low >= _LOG_FROM)


def _scale(ax: Axes, axis: str, log: bool) -> None:
    """A linear or logarithmic axis with few, short tick labels."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    which = ax.xaxis if axis == "x" else ax.yaxis
    if log:
        ax.set(**{f"{axis}scale": "log"})
        which.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=12))
        which.set_minor_formatter(NullFormatter())
    else:
        which.set_major_locator(MaxNLocator(5))
    which.set_major_formatter(lambda v, _: _short(v))


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric.split(".")[-1].replace("*", " × ").replace("_", " "))


def _short(number: float) -> str:
    """Three significant digits with a unit prefix: 12.5k, 400M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def _percent(error: float) -> str:
    return f"{100 * error:.1f}%"
