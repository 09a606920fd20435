"""The picture of the front: quality against one cost, every judged candidate a mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from sartor.core.candidate import Candidate
from sartor.core.errors import BudgetError, unknown
from sartor.report.findings import Findings, family_of, gather
from sartor.report.plot import Frame, QualityAxis, Scale, join, labelled, number, path, picture, tag
from sartor.report.text import amount_text, label, quality_text, shown

SIZE = (720.0, 420.0)
_NONE = Markup("")
MOST = 240  # marks drawn; of more, those on the front and the best are kept
_FRAME = Frame(58, 64, 700, 366)
_FAR = 20.0  # a limit so many times away from all candidates is named, not drawn
SHAPES = (  # one per family, beside its colour
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "M-4-4h8v8h-8z",
    "M0-5.4L5 3.9H-5z",
    "M0-5.8L5.2 0L0 5.8L-5.2 0z",
    "M-5-3.9H5L0 5.4z",
    "M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z",
)


def front_svg(run_folder: Path | str, axis: str | None = None) -> str:
    """The front of a run as a standalone SVG file that suits light and dark pages.

    ``axis`` is a written quantity such as ``params`` or ``latency.p95@8``; by default the first the budget bounds.
    Empty where nothing was judged. Raises RunError if the folder is no run, BudgetError for an axis it has not.
    """
    findings = gather(run_folder)
    if not findings.axes:
        return ""
    if axis is not None and axis not in findings.axes:
        raise BudgetError(unknown("cost axis of this run", axis, findings.axes))
    style = files("sartor.report").joinpath("templates/figures.css").read_text(encoding="utf-8")
    ground = tag("rect", class_="ground", width=SIZE[0], height=SIZE[1])
    under = join([Markup(f"<style>{style}</style>"), ground])
    return str(draw_front(findings, Marks.of(findings, axis or findings.axes[0]), under))


@dataclass(frozen=True, slots=True)
class Marks:
    """What is drawn on one axis: candidates, the front on this axis alone (cheapest first), and the scales."""

    axis: str
    drawn: Sequence[Candidate]
    edge: Sequence[Candidate]
    x: Scale
    y: QualityAxis

    @classmethod
    def of(cls, findings: Findings, axis: str) -> Marks:
        """The marks of a run on one of its axes."""
        sign = -1.0 if findings.metric.higher_is_better else 1.0
        edge = sorted(findings.front((axis,)), key=lambda c: c.cost.value(axis))
        keep = {c.id for c in (*edge, *findings.members, findings.chosen) if c}
        placed = [c for c in findings.leaves if c.cost.get(axis)]
        drawn = sorted(placed, key=lambda c: (c.id not in keep, sign * _quality(findings, c), c.id))[:MOST]
        values = [c.cost.value(axis) for c in drawn]
        limit = findings.bound(axis)
        if limit is not None and min(values) / _FAR <= limit <= max(values) * _FAR:
            values.append(limit)
        n = max((c.quality.n for c in drawn if c.quality), default=1)
        y = QualityAxis(findings.metric, [_quality(findings, c) for c in drawn], n, _FRAME.bottom, _FRAME.top)
        return cls(axis, drawn, edge, Scale.fit(values, _FRAME.left, _FRAME.right), y)


def draw_front(findings: Findings, marks: Marks, under: Markup = _NONE) -> Markup:
    """Quality against one quantity: marks with titles, the front's edge, the budget's limit, the winner named.

    ``under`` is put before all this.
    """
    axis = marks.axis
    at = {c.id: (marks.x(c.cost.value(axis)), marks.y(_quality(findings, c))) for c in marks.drawn}
    strong = {c.id for c in (*marks.edge, *findings.members)}
    ordered = sorted(marks.drawn, key=lambda c: (c.id in strong, c is findings.chosen, at[c.id][0]))
    numbers = families(findings)
    points = [_mark(findings, axis, c, at[c.id], number=numbers[family_of(c)], strong=c.id in strong) for c in ordered]
    return picture(
        SIZE,
        under,
        _limit(findings, axis, marks.x),
        _FRAME.up(marks.y.ticks(), f"{findings.metric.name} on validation data"),
        _FRAME.across(labelled(marks.x, partial(amount_text, axis)), label(axis)),
        _edge([at[c.id] for c in marks.edge]),
        *points,
        _named(at.get(findings.chosen.id) if findings.chosen else None),
        _legend(numbers),
        describe=f"{findings.metric.name} against {label(axis)}: {len(marks.drawn)} candidates, "
        f"{len(marks.edge)} of them on the front",
        interactive=True,
    )


def families(findings: Findings) -> Mapping[str, int]:
    """Every family of a run with its number, in the order of first appearance."""
    return {name: i for i, name in enumerate(dict.fromkeys(family_of(c) for c in findings.candidates))}


def _quality(findings: Findings, candidate: Candidate) -> float:
    value = findings.quality(candidate)
    assert value is not None  # leaves were judged
    return value


def _mark(findings: Findings, axis: str, c: Candidate, at: tuple[float, float], *, number: int, strong: bool) -> Markup:
    """One candidate: its title is the tooltip without the script and what a screen reader says."""
    chosen = c is findings.chosen
    text = f"{family_of(c)}: {quality_text(findings.metric, _quality(findings, c))}, "
    text += amount_text(axis, c.cost.value(axis)) + (", chosen" if chosen else "")
    kind = "chosen" if chosen else "member" if strong else "other"
    ring = [tag("circle", class_="ring", r=10)] if chosen else []
    return tag(
        "g", tag("title", text), *ring, _shape(number), class_=f"mark {kind}",
        data_id=c.id, role="img", transform=f"translate({_xy(at)})",
    )  # fmt: skip


def _shape(number: int, **attributes: str) -> Markup:
    """A family's mark: after the sixth, colours meet other shapes."""
    n = len(SHAPES)
    return tag("path", class_=f"f{number % n}", d=SHAPES[(number + number // n) % n], **attributes)


def _xy(at: tuple[float, float]) -> str:
    return " ".join(map(number, at))


def _edge(corners: Sequence[tuple[float, float]]) -> Markup:
    """The front as steps: what quality so much cost buys."""
    steps = list(corners[:1])
    for x, y in corners[1:]:
        steps += [(x, steps[-1][1]), (x, y)]
    steps.append((_FRAME.right, steps[-1][1]))
    return path(steps, class_="edge")


def _limit(findings: Findings, axis: str, x: Scale) -> Markup:
    """The budget's limit as a line with the region beyond it shaded, or a note where it lies out of the picture."""
    limit = findings.bound(axis)
    if limit is None:
        return _NONE
    text, height = f"budget {amount_text(axis, limit)}", _FRAME.bottom - _FRAME.top
    if limit >= x.high or limit <= x.low:
        beyond = limit >= x.high
        place, anchor = (_FRAME.right, "end") if beyond else (_FRAME.left, "start")
        text = f"{text}, further right" if beyond else f"{text}, further left"
        return tag("text", text, class_="limit-name", x=place, y=_FRAME.top - 8, text_anchor=anchor)
    at = x(limit)
    left = at > (_FRAME.left + _FRAME.right) / 2
    return join([
        tag("rect", class_="beyond", x=at, y=_FRAME.top, width=_FRAME.right - at, height=height),
        tag("path", class_="limit", d=f"M{number(at)} {number(_FRAME.top - 4)}V{number(_FRAME.bottom)}"),
        tag("text", text, class_="limit-name", x=at, y=_FRAME.top - 8, text_anchor="end" if left else "start"),
    ])  # fmt: skip


def _named(at: tuple[float, float] | None) -> Markup:
    """The word beside the winner's mark."""
    if at is None:
        return _NONE
    left = at[0] > _FRAME.right - 80
    where = {"x": at[0] + (-14 if left else 14), "y": at[1] + 17}
    return tag("text", "chosen", class_="chosen-name", text_anchor="end" if left else "start", **where)


def _legend(numbers: Mapping[str, int]) -> Markup:
    """Shape and colour of each family, in a row above the plot."""
    items, x = [], 10.0
    for name, i in numbers.items():
        text = shown(name, 24)
        if x + 7 * len(text) > SIZE[0] - 40:
            items.append(tag("text", "…", class_="tick", x=x, y=20))
            break
        items.append(
            tag("path", class_=f"f{i % len(SHAPES)}", d=SHAPES[i % len(SHAPES)], transform=f"translate({_xy((x, 16))})")
        )
        items.append(tag("text", text, class_="tick", x=x + 10, y=20))
        x += 30 + 7 * len(text)
    return tag("g", *items, class_="legend")
