"""From collected records to what their plots show (pycls's sweep analysis)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sartor.core.errors import DataError, unknown
from sartor.search.design_space_statistics import Band, Edf, Floats, best_band, fit_lines

Record = Mapping[str, Any]


@dataclass(frozen=True)
class AnalysisOptions:
    """What to look at: ``metrics`` and ``complexity`` name numbers of the records, as ``value`` reads them.

    ``pre_filters`` keeps records whose metrics lie in ranges; ``split_filters`` makes a named population of each set
    of ranges. ``best`` and ``worst`` say how many networks to show.
    """

    metrics: tuple[str, ...] = ()
    complexity: tuple[str, ...] = ("macs", "params", "activations")
    pre_filters: Mapping[str, Sequence[float]] = field(default_factory=dict)
    split_filters: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    best: int = 3
    worst: int = 0


def value(record: Record, metric: str) -> float:
    """A number of a record by its path (``config.depth``) or its name one level down; ``lr*weight_decay`` multiplies.

    Lists count by their sum for depths, else by their largest value. Raises DataError for an unknown metric.
    """
    return math.prod(_number(record, factor.strip()) for factor in metric.split("*"))


def _number(record: Record, metric: str) -> float:
    found: Any = record
    for part in metric.split("."):
        places = [found, *(v for v in found.values() if isinstance(v, Mapping))] if isinstance(found, Mapping) else []
        found = next((place[part] for place in places if part in place), None)
        if found is None:
            names = {n for v in (record, *record.values()) if isinstance(v, Mapping) for n in v}
            raise DataError(unknown("metric", metric, names))
    if isinstance(found, list | tuple):
        return float(sum(found) if metric.endswith(("depth", "depths")) else max(found))
    return float(found)


def metric_values(records: Sequence[Record], metric: str) -> Floats:
    """A metric of every record."""
    return np.array([value(record, metric) for record in records])


def kept(records: Sequence[Record], filters: Mapping[str, Sequence[float]]) -> list[Record]:
    """The records whose metrics lie in closed ranges."""
    return [r for r in records if all(ends[0] <= value(r, metric) <= ends[-1] for metric, ends in filters.items())]


def with_line_errors(records: Sequence[Record]) -> list[Record]:
    """The records with ``line_error``: how far their block widths are from a quantised line (e_fit)."""
    networks = [r["network"] for r in records]
    widths = [[w for w, d in zip(n["widths"], n["depths"], strict=True) for _ in range(d)] for n in networks]
    return [{**r, "line_error": fit.error} for r, fit in zip(records, fit_lines(widths), strict=True)]


class Spread(NamedTuple):
    """A metric in a population: its whole range, and where the best networks have it."""

    lowest: float
    band: Band
    highest: float


def spread(records: Sequence[Record], metric: str, *, seed: int = 0) -> Spread:
    """The range of a metric and its bootstrapped best band."""
    x = metric_values(records, metric)
    return Spread(float(x.min()), best_band(x, metric_values(records, "error"), seed=seed), float(x.max()))


@dataclass(frozen=True)
class Analysis:
    """What populations say: everything the plots show, by population.

    ``spreads`` are by metric, then population: one row is a trend. ``failed`` counts records left out.
    """

    populations: Mapping[str, tuple[Record, ...]]
    edfs: Mapping[str, Edf]
    spreads: Mapping[str, Mapping[str, Spread]]
    best: Mapping[str, tuple[Record, ...]]
    worst: Mapping[str, tuple[Record, ...]]
    options: AnalysisOptions
    failed: int = 0

    def values(self, metric: str, population: str) -> tuple[Floats, Floats]:
        """A metric and the errors of a population, two arrays."""
        records = self.populations[population]
        return metric_values(records, metric), metric_values(records, "error")


def analyse(populations: Mapping[str, Sequence[Record]], options: AnalysisOptions, *, seed: int = 0) -> Analysis:
    """Filter, split and summarise collected records. Raises DataError where a population has none left."""
    evaluated = {name: [r for r in records if "error" in r] for name, records in populations.items()}
    failed = sum(map(len, populations.values())) - sum(map(len, evaluated.values()))
    if "line_error" in options.metrics:
        evaluated = {name: with_line_errors(records) for name, records in evaluated.items()}
    groups = {name: kept(records, options.pre_filters) for name, records in evaluated.items()}
    if options.split_filters and len(groups) == 1:
        (records,) = groups.values()
        groups = {name: kept(records, ranges) for name, ranges in options.split_filters.items()}
    for name, records in groups.items():
        if not records:
            raise DataError(f"population {name}: no evaluated record is left to analyse")
    metrics = (*options.metrics, *options.complexity)
    ranked = {name: sorted(records, key=lambda r: (r["error"], r["index"])) for name, records in groups.items()}
    return Analysis(
        populations={name: tuple(records) for name, records in groups.items()},
        edfs={name: Edf.of([r["error"] for r in records]) for name, records in groups.items()},
        spreads={m: {name: spread(records, m, seed=seed) for name, records in groups.items()} for m in metrics},
        best={name: tuple(records[: options.best]) for name, records in ranked.items()},
        worst={name: tuple(records[::-1][: options.worst]) for name, records in ranked.items()},
        options=options,
        failed=failed,
    )
