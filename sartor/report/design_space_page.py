"""The page of one design space: what its networks cost and, where they were trained, what their errors say."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sartor.core.files import write_atomic
from sartor.report.design_space import (
    plot_curves,
    plot_edf,
    plot_networks,
    plot_scaling,
    plot_trends,
    plot_values,
    svg,
)
from sartor.report.plot import LOG_FROM
from sartor.report.text import amount_text, label
from sartor.search.design_space_analysis import Analysis, AnalysisOptions, Record, analyse, metric_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
_PARTS, _LEAST = 3, 12  # populations of at least so many are cut in parts by multiply-adds, for trends
_SHOWN = 10  # rows of the table


@dataclass(frozen=True)
class Picture:
    """A figure with its title and what it says."""

    title: str
    text: str
    figure: Figure


def write_space_page(folder: Path, title: str, facts: Sequence[str], records: Sequence[Record], options: Any) -> Path:
    """Write ``index.html`` of a population's records, trained or only counted; returns its path.

    ``options`` are the ``AnalysisOptions``; without metrics, all that vary in the records are looked at. Raises
    DataError where trained records are to be analysed and none is left.
    """
    from jinja2 import Environment

    trained = any("error" in record for record in records)
    pictures = _trained(title, records, options) if trained else _counted(title, records)
    text = files("sartor.report").joinpath("templates", "space.html.j2").read_text()
    page = Environment(autoescape=True).from_string(text).render(
        title=f"Design space {title}",
        facts=facts,
        pictures=[
            {"title": p.title, "text": p.text, "data": base64.b64encode(svg(p.figure).encode()).decode()}
            for p in pictures
        ],
        table={"title": "The best networks" if trained else "Cost", "rows": table_rows(records)},
    )  # fmt: skip
    write_atomic(folder / PAGE, page)
    return folder / PAGE


def table_rows(records: Sequence[Record]) -> list[dict[str, str]]:
    """The best networks of trained records, or else the least, median and most of what the networks cost."""
    trained = sorted((r for r in records if "error" in r), key=lambda r: (r["error"], r["index"]))
    if trained:
        return [_network_row(record) for record in trained[:_SHOWN]]
    rows = []
    for metric in ("macs", "params", "activations", "total_depth"):
        values = metric_values(records, metric)
        shown = [f"{v:g}" if metric == "total_depth" else amount_text(metric, float(v)) for v in
                 (values.min(), np.median(values), values.max())]  # fmt: skip
        name = "blocks" if metric == "total_depth" else label(metric)
        rows.append({"": name, **dict(zip(("least", "median", "most"), shown, strict=True))})
    return rows


def varied(records: Sequence[Record]) -> tuple[str, ...]:
    """The metrics in which records differ: blocks, numeric genes that all have, distance from a quantised line."""
    genes = [name for name in records[0]["config"] if all(_numeric(r["config"].get(name)) for r in records)]
    names = ["total_depth", *(f"config.{name}" for name in genes if name not in ("depth", "depths"))]
    return tuple(name for name in names if len({*metric_values(records, name).tolist()}) > 1)


def _trained(title: str, records: Sequence[Record], options: AnalysisOptions) -> list[Picture]:
    found = replace(options, metrics=options.metrics or varied(records))
    analysis = analyse({title: records}, found)
    first = next(iter(analysis.best.values()))
    pictures = [
        Picture("Distribution of errors", "The share of networks with at most an error.", plot_edf(analysis)),
        Picture("Errors against the genes", _BAND, plot_values(analysis, found.metrics)),
        Picture("Errors against cost", _BAND, plot_values(analysis, found.complexity)),
        *_trends(analysis, found),
        Picture("The best networks", "Width of each block, first to last.", plot_networks(first)),
    ]
    if all(len(record.get("curve", ())) > 1 for record in first):
        pictures.append(Picture("Their learning", "Error after each epoch.", plot_curves(first)))
    return pictures


_BAND = "One point a network; shaded is where the best lies in 95 % of resampled populations, the line its median."


def _trends(analysis: Analysis, options: AnalysisOptions) -> list[Picture]:
    """How the best range of the genes moves with multiply-adds, if the population is large and spans enough."""
    records = [record for group in analysis.populations.values() for record in group]
    macs = metric_values(records, "macs")
    if len(analysis.populations) > 1 or len(records) < _LEAST or macs.max() / macs.min() < LOG_FROM**0.5:
        return []
    parts = [[records[i] for i in part] for part in np.array_split(np.argsort(macs, kind="stable"), _PARTS)]
    places = [float(np.median(metric_values(part, "macs"))) for part in parts]
    named = {amount_text("macs", place): part for place, part in zip(places, parts, strict=True)}
    if len(named) < _PARTS:
        return []
    kept = replace(options, split_filters={}, pre_filters={})
    figure = plot_trends(analyse(named, kept), options.metrics, places)
    text = "The population cut in three by multiply-adds; the best range of each part at its median."
    return [Picture("Trends", text, figure)]


def _counted(title: str, records: Sequence[Record]) -> list[Picture]:
    costs = [record["complexity"] for record in records]
    if len({cost["macs"] for cost in costs}) < 2:
        return []
    return [
        Picture(f"{label(metric).capitalize()} against multiply-adds", "One point a network, and the fitted power law.",
                plot_scaling({title: costs}, metric))
        for metric in ("params", "activations")
    ]  # fmt: skip


def _network_row(record: Record) -> dict[str, str]:
    depths, widths = record["network"]["depths"], record["network"]["widths"]
    return {
        "network": str(record["index"]),
        "error": f"{100 * record['error']:.2f} %",
        **{label(name): amount_text(name, value) for name, value in record["complexity"].items()},
        "blocks × width": " · ".join(f"{d}×{w}" for d, w in zip(depths, widths, strict=True)),
    }


def _numeric(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
