"""Scales, axes and elements of the report's own SVG.

Drawn by hand rather than by a plotting library: colours follow the reader's light or dark setting, marks can be
reached by keyboard and script, equal runs give equal bytes, and a page is rendered in the time matplotlib needs to
be imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from sartor.core.candidate import Metric
from sartor.report.text import GAP, is_share, shown

LOG_FROM = 6.0  # a ratio of largest to smallest from which a logarithmic scale reads better
_MANTISSAS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))  # of ticks, densest first


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """An element. ``class_`` is written ``class``, other underscores as hyphens.

    Text and attributes are cleaned, cut and escaped unless they are ``Markup``.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_safe(v)}"' for key, v in attributes.items() if v is not None
    )
    inner = "".join(map(_safe, content))
    return Markup(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def _safe(value: str | float) -> str:
    if isinstance(value, Markup):
        return value
    return escape(shown(value, 400)) if isinstance(value, str) else number(value)


def join(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("").join(parts)


def picture(size: tuple[float, float], *content: Markup, describe: str, interactive: bool = False) -> Markup:
    """An ``svg`` element; ``describe`` is what a screen reader says of it."""
    return tag(
        "svg", *content, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {number(size[0])} {number(size[1])}",
        role="group" if interactive else "img", aria_label=describe,
    )  # fmt: skip


def path(points: Iterable[tuple[float, float]], **attributes: str | float) -> Markup:
    """A polyline."""
    return tag("path", d=Markup("M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)), **attributes)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values in [low, high] to pixels in [start, end]; values beyond are held at the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def fit(cls, values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Scale:
        """The scale that shows these values with a small margin; logarithmic if they span much, unless told."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if log is None:
            log = low > 0 and high / low >= LOG_FROM
        if log and low > 0:
            margin = (high / low) ** 0.04 if high > low else 2.0
            return cls(low / margin, high * margin, start, end, True)
        margin = 0.05 * (high - low) or abs(high) / 2 or 1.0
        return cls(0.0 if 0 <= low < 0.4 * high else low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values in the range, at most so many (and a few for a narrow one)."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for mantissas in _MANTISSAS:
                found = [m * 10.0**k for k in decades for m in mantissas if self.low <= m * 10.0**k <= self.high]
                if 3 <= len(found) <= most:
                    return found
            if found:
                return found[:: math.ceil(len(found) / most)]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


class QualityAxis:
    """The vertical axis of a metric. A share is drawn by its errors on a logarithmic scale, so that 98 % and 99 %
    lie as far apart as 50 % and 75 %; an error of none is drawn at half an example's.
    """

    def __init__(self, metric: Metric, values: Sequence[float], n: int, bottom: float, top: float) -> None:
        self.metric, self.least = metric, 0.5 / max(n, 1)
        places = [self._place(value) for value in values]
        if is_share(metric):
            fitted = Scale.fit(places, top, bottom, log=True)
            self.scale = replace(fitted, high=min(fitted.high, 1.0))
        else:
            ends = (bottom, top) if metric.higher_is_better else (top, bottom)
            self.scale = Scale.fit(places, *ends, log=False)

    def _place(self, value: float) -> float:
        return max(1.0 - value, self.least) if is_share(self.metric) else value

    def __call__(self, value: float) -> float:
        """The height of a quality."""
        return self.scale(self._place(value))

    def ticks(self) -> list[tuple[float, str]]:
        """Heights with their text."""
        ticks = self.scale.ticks()
        if not is_share(self.metric):
            return [(self.scale(tick), f"{tick:g}") for tick in ticks]
        return [(self.scale(tick), f"{round(100 * (1.0 - tick), 9):g}{GAP}%") for tick in ticks]


@dataclass(frozen=True, slots=True)
class Frame:
    """The room between the axes of a plot, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def across(self, ticks: Iterable[tuple[float, str]], title: str) -> Markup:
        """The horizontal axis: ticks as (place, text) and its title."""
        marks = [
            tag("text", text, class_="tick", x=x, y=self.bottom + 18, text_anchor="middle") for x, text in ticks
        ]  # fmt: skip
        line = tag("path", class_="axis", d=f"M{number(self.left)} {number(self.bottom)}H{number(self.right)}")
        middle = (self.left + self.right) / 2
        name = tag("text", title, class_="title", x=middle, y=self.bottom + 38, text_anchor="middle")
        return join([line, *marks, name])

    def up(self, ticks: Iterable[tuple[float, str]], title: str) -> Markup:
        """The vertical axis: a fine line across at every tick; its title stands above."""
        lines, texts = [], []
        for y, text in ticks:
            lines.append(tag("path", class_="grid", d=f"M{number(self.left)} {number(y)}H{number(self.right)}"))
            texts.append(tag("text", text, class_="tick", x=self.left - 8, y=y + 4, text_anchor="end"))
        name = tag("text", title, class_="title", x=4, y=self.top - 24)
        return join([*lines, *texts, name])


def labelled(scale: Scale, text: Callable[[float], str], most: int = 7) -> list[tuple[float, str]]:
    """A scale's ticks as places with text."""
    return [(scale(value), text(value)) for value in scale.ticks(most)]
