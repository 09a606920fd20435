"""How candidates learned, and where the time of a run went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from sartor.core.candidate import Candidate
from sartor.core.spec import Json
from sartor.core.units import format_duration
from sartor.report.findings import Findings, family_of, seconds_of
from sartor.report.plot import Frame, QualityAxis, Scale, join, labelled, path, picture, tag
from sartor.report.text import quality_text

_SIZE, _FRAME = (540.0, 340.0), Frame(58, 44, 524, 292)
_MOST_CURVES, _MOST_POINTS = 60, 80
_BARS, _LANE = 200, 12.0
_RUNGS = 5  # shades of a rung


def draw_rungs(findings: Findings) -> Markup:
    """Validation quality against training time: one line per candidate, a mark where a rung ended."""
    chains = [[c for c in findings.lineage(leaf) if findings.quality(c) is not None] for leaf in best_leaves(findings)]
    timed = [[(seconds_of(findings.lineage(c)), findings.quality(c) or 0.0, c) for c in chain] for chain in chains]
    timed = [[point for point in points if point[0] > 0] for points in timed]
    timed = [points for points in timed if points]
    if not timed:
        return Markup("")
    everything = [point for points in timed for point in points]
    x = Scale.fit([seconds for seconds, _, _ in everything], _FRAME.left, _FRAME.right)
    n = max((c.quality.n for *_, c in everything if c.quality), default=1)
    y = QualityAxis(findings.metric, [value for _, value, _ in everything], n, _FRAME.bottom, _FRAME.top)
    lines = []
    for points in reversed(timed):  # the best is drawn last, above the others
        places = [(x(seconds), y(value)) for seconds, value, _ in points]
        last = points[-1]
        text = f"{family_of(last[2])}: {quality_text(findings.metric, last[1])} after {format_duration(last[0])}"
        dots = [tag("circle", cx=px, cy=py, r=2.6) for px, py in places]
        lines.append(tag("g", tag("title", text), path(places), *dots, class_=_class(findings, last[2])))
    return picture(
        _SIZE,
        _FRAME.up(y.ticks(), f"{findings.metric.name} on validation data"),
        _FRAME.across(labelled(x, format_duration, 6), "training time"),
        *lines,
        describe=f"{findings.metric.name} against training time of {len(lines)} candidates",
    )


def draw_losses(findings: Findings) -> Markup:
    """Training loss against epochs (steps where epochs are unknown) of the candidates that have a history."""
    curves = [(leaf, _loss(_history(findings, leaf))) for leaf in best_leaves(findings)]
    curves = [(leaf, points) for leaf, points in curves if len(points) > 1]
    if not curves:
        return Markup("")
    x = Scale.fit([p[0] for _, points in curves for p in points], _FRAME.left, _FRAME.right, log=False)
    y = Scale.fit([p[1] for _, points in curves for p in points], _FRAME.bottom, _FRAME.top)
    lines = []
    for leaf, points in reversed(curves):
        text = f"{family_of(leaf)}: loss {points[-1][1]:.3g} at the end"
        places = [(x(a), y(b)) for a, b in points]
        lines.append(tag("g", tag("title", text), path(places), class_=_class(findings, leaf)))
    epochs = all("epoch" in line for line in findings.history(curves[0][0].id))
    return picture(
        _SIZE,
        _FRAME.up(labelled(y, "{:.3g}".format), "training loss"),
        _FRAME.across(labelled(x, "{:g}".format), "epochs" if epochs else "steps"),
        *lines,
        describe=f"training loss of {len(lines)} candidates",
    )


def best_leaves(findings: Findings) -> Sequence[Candidate]:
    """The winner, then the best of the others: as many as are drawn."""
    sign = -1.0 if findings.metric.higher_is_better else 1.0
    ranked = sorted(
        findings.leaves, key=lambda c: (c is not findings.chosen, sign * (findings.quality(c) or 0.0), c.id)
    )
    return ranked[:_MOST_CURVES]


def draw_time(findings: Findings) -> Markup:
    """When each candidate trained: bars in as many lanes as ran side by side."""
    bars = sorted(_bars(findings), key=lambda bar: bar[1] - bar[0])[-_BARS:]
    if not bars:
        return Markup("")
    bars.sort(key=lambda bar: (bar[0], bar[2].id))
    end = max(findings.facts["finished"] or 0.0, *(bar[1] for bar in bars))
    x = Scale(0.0, end, 12, 944)
    lanes: list[float] = []
    rects = []
    for begin, until, c in bars:
        lane = next((i for i, free in enumerate(lanes) if free <= begin + 0.05), len(lanes))
        lanes[lane:] = [until, *lanes[lane + 1 :]]
        text = f"{family_of(c)}, rung {c.proposal.rung}: {format_duration(until - begin)}, {c.state}"
        rects.append(
            tag(
                "rect", tag("title", text), class_=f"bar r{min(c.proposal.rung, _RUNGS - 1)}"
                + (" best" if c is findings.chosen else ""),
                x=x(begin), y=8 + lane * (_LANE + 3), width=max(1.0, x(until) - x(begin) - 0.6), height=_LANE, rx=2,
            )
        )  # fmt: skip
    bottom = 14 + len(lanes) * (_LANE + 3)
    frame = Frame(12, 8, 944, bottom)
    return picture(
        (956.0, bottom + 46),
        join(rects),
        frame.across(labelled(x, format_duration, 8), "time since the run began"),
        describe=f"when {len(bars)} candidates trained",
    )


def _bars(findings: Findings) -> Iterator[tuple[float, float, Candidate]]:
    """Begin, end and candidate of every training that ended, in seconds since the run began."""
    ends = {id: used for used, id, _ in findings.events if id is not None}
    for c in findings.candidates:
        spent = c.cost.get("train_seconds")
        if c.id in ends and spent is not None:
            yield max(0.0, ends[c.id] - spent.value), ends[c.id], c


def _class(findings: Findings, leaf: Candidate) -> str:
    return "line best" if leaf is findings.chosen else "line"


def _history(findings: Findings, leaf: Candidate) -> Sequence[Json]:
    """Its own history, or that of the candidate whose weights it serves in another way."""
    return next((found for c in reversed(findings.lineage(leaf)) if (found := findings.history(c.id))), [])


def _loss(history: Sequence[Json]) -> list[tuple[float, float]]:
    """At most ``_MOST_POINTS`` (epoch or step, loss) of a history, the last line among them."""
    points = [
        (float(line["epoch" if "epoch" in line else "step"]), float(line["loss"]))
        for line in history
        if line.get("loss", 0) > 0 and math.isfinite(line["loss"])
    ]
    stride = math.ceil(len(points) / _MOST_POINTS) or 1
    return points[::-1][::stride][::-1]
