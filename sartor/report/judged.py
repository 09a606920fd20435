"""The winner on the test split: confusion, accuracy by class, calibration, the worst examples as pictures."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sartor.core.spec import Json
from sartor.report.plot import Frame, Scale, join, number, path, picture, tag
from sartor.report.text import shown, wilson

MOST_CLASSES = 100  # in the heat map; of more, only the most confused pairs are listed
_NUMBERED, _NAMED = 20, 50  # classes up to which the heat map has numbers, and names
_LEVELS = 8  # shades of the heat map
_BARS, _PAIRS, _WORST = 20, 12, 24
_PICTURE = 128  # pixels of the longer side of a worst example
_TINY = 48  # up to here a picture is kept exactly
_LARGE = 4096  # pixels of a side beyond which a file in a run directory is not one of our small pictures
_HEAT, _TOP = 560.0, 26.0  # side and upper edge of the heat map


@dataclass(frozen=True)
class Confusion:
    """Counts by true class (row) and predicted class (column)."""

    counts: Sequence[Sequence[int]]
    classes: Sequence[str]

    @classmethod
    def of(cls, judged: Json) -> Confusion | None:
        """What ``judged.json`` has of it; None if it has none or it is not square."""
        counts, classes = judged.get("confusion") or [], judged.get("classes") or []
        square = all(isinstance(row, list) and len(row) == len(counts) for row in counts)
        if not counts or not square or len(classes) != len(counts):
            return None
        return cls(counts, [str(name) for name in classes])

    @property
    def total(self) -> int:
        """The number of examples."""
        return sum(map(sum, self.counts))

    def pairs(self) -> list[tuple[str, str, int, float]]:
        """The most frequent mistakes: true class, predicted class, how often, share of the true class."""
        wrong = [
            (count, i, j)
            for i, row in enumerate(self.counts)
            for j, count in enumerate(row)
            if i != j and count
        ]  # fmt: skip
        worst = sorted(wrong, key=lambda entry: (-entry[0], *entry[1:]))[:_PAIRS]
        names = [shown(name, 40) for name in self.classes]
        return [(names[i], names[j], n, n / sum(self.counts[i])) for n, i, j in worst]

    def accuracies(self) -> list[tuple[str, float, int]]:
        """Class, share of its examples recognised and their number, the lowest share first."""
        rows = [(self.classes[i], row[i] / sum(row), sum(row)) for i, row in enumerate(self.counts) if sum(row)]
        return sorted(rows, key=lambda entry: entry[1])


def draw_confusion(confusion: Confusion) -> Markup:
    """A heat map, each row in shares of its class: right answers in one colour, mistakes in another."""
    k = len(confusion.counts)
    if k > MOST_CLASSES:
        return Markup("")
    names = [shown(name, 18) for name in confusion.classes] if k <= _NAMED else []
    left = 18 + 6.6 * max(map(len, names), default=0)
    content = [
        tag("rect", class_="box", x=left, y=_TOP, width=_HEAT, height=_HEAT),
        tag("svg", *_cells(confusion), x=left, y=_TOP, width=_HEAT, height=_HEAT, viewBox=f"0 0 {k} {k}"),
        *(_counts(confusion, left) if k <= _NUMBERED else ()),
        *_class_names(names, left, _HEAT / k),
        tag("text", "predicted", class_="title", x=left + _HEAT / 2, y=14, text_anchor="middle"),
        tag("text", "true", class_="title", x=4, y=14),
    ]
    describe = f"confusion of {k} classes over {confusion.total} examples; the mistakes are listed below"
    below = 8.0 if not names else left if _turned(names, _HEAT / k) else 24.0
    svg = picture((left + _HEAT + 8, _TOP + _HEAT + below), *content, describe=describe)
    return tag("div", svg, class_="matrix", data_left=left, data_top=_TOP, data_size=_HEAT)


def _cells(confusion: Confusion) -> list[Markup]:
    """One path per shade, a cell of the map being the unit."""
    side = "1" if len(confusion.counts) > _NAMED else ".96"
    shades: dict[str, list[str]] = defaultdict(list)
    for i, row in enumerate(confusion.counts):
        for j, count in enumerate(row):
            if count:
                shade = f"{'right' if i == j else 'wrong'} s{_level(count, row)}"
                shades[shade].append(f"M{j} {i}h{side}v{side}h-{side}z")
    return [tag("path", class_=shade, d=Markup("".join(parts))) for shade, parts in sorted(shades.items())]


def _level(count: int, row: Sequence[int]) -> int:
    """The shade of a cell, from 1; the root makes rare mistakes visible."""
    return math.ceil(_LEVELS * math.sqrt(count / sum(row)))


def _counts(confusion: Confusion, left: float) -> list[Markup]:
    cell = _HEAT / len(confusion.counts)
    texts = []
    for i, row in enumerate(confusion.counts):
        for j, count in enumerate(row):
            if not count:
                continue
            size = min(14.0, 2 * cell / (len(str(count)) + 0.5))
            x, y = left + (j + 0.5) * cell, _TOP + (i + 0.5) * cell + 0.36 * size
            strong = "count on" if _level(count, row) > _LEVELS // 2 else "count"
            texts.append(tag("text", str(count), class_=strong, font_size=size, x=x, y=y, text_anchor="middle"))
    return texts


def _turned(names: Sequence[str], cell: float) -> bool:
    """Whether names are too long to stand upright under their columns."""
    return 7 * max(map(len, names), default=0) > cell


def _class_names(names: Sequence[str], left: float, cell: float) -> list[Markup]:
    size, turned, out = min(12.0, cell), _turned(names, cell), []
    for i, name in enumerate(names):
        y = _TOP + (i + 0.5) * cell + 4
        out.append(tag("text", name, class_="tick", x=left - 6, y=y, text_anchor="end", font_size=size))
        x, y = left + (i + 0.5) * cell + 4 * turned, _TOP + _HEAT + (8 if turned else 16)
        place = {"x": x, "y": y, "text_anchor": "end" if turned else "middle", "font_size": size}
        if turned:
            place["transform"] = f"rotate(-90 {number(x)} {number(y)})"
        out.append(tag("text", name, class_="tick", **place))
    return out


def draw_classes(confusion: Confusion) -> Markup:
    """Accuracy of each class with its 95 % interval, the lowest first."""
    rows = confusion.accuracies()[:_BARS]
    left = 16 + 7.2 * max(len(shown(name, 24)) for name, *_ in rows)
    frame = Frame(left, 10, left + 330, 14 + 22 * len(rows))
    x = Scale(0.0, 1.0, frame.left, frame.right)
    parts = []
    for i, (name, share, n) in enumerate(rows):
        y = 22 + 22 * i
        low, high = wilson(share, n)
        parts += [
            tag("text", shown(name, 24), class_="tick", x=left - 8, y=y + 4, text_anchor="end"),
            path([(x(0.0), y), (x(share), y)], class_="stem"),
            path([(x(low), y), (x(high), y)], class_="interval"),
            tag("circle", class_="dot", cx=x(share), cy=y, r=4),
            tag("text", f"{100 * share:.0f} % of {n}", class_="tick", x=frame.right + 12, y=y + 4),
        ]
    ticks = [(x(v), f"{100 * v:.0f} %") for v in (0, 0.25, 0.5, 0.75, 1)]
    size = (frame.right + 100, frame.bottom + 44)
    return picture(
        size, join(parts), frame.across(ticks, "recognised"), describe=f"accuracy of {len(rows)} classes, lowest first"
    )


def draw_calibration(calibration: Any) -> Markup:
    """Share right against stated probability: dots as large as their bin, on the diagonal if the model is honest."""
    bins = _bins(calibration)
    if not bins:
        return Markup("")
    frame = Frame(52, 44, 332, 324)
    x, y = Scale(0.0, 1.0, frame.left, frame.right), Scale(0.0, 1.0, frame.bottom, frame.top)
    ticks = (0, 0.25, 0.5, 0.75, 1)
    most = max(b["n"] for b in bins)
    dots = []
    for b in bins:
        said = f"said {b['confidence']:.0%}, right {b['accuracy']:.0%}, n = {b['n']}"
        at = {"cx": x(b["confidence"]), "cy": y(b["accuracy"]), "r": 3 + 9 * math.sqrt(b["n"] / most)}
        dots.append(tag("circle", tag("title", said), class_="dot", **at))
    return picture(
        (362, 370),
        frame.up([(y(v), f"{100 * v:.0f} %") for v in ticks], "share right"),
        frame.across([(x(v), f"{100 * v:.0f} %") for v in ticks], "probability the model gives its answer"),
        path([(x(0.0), y(0.0)), (x(1.0), y(1.0))], class_="diagonal"),
        *dots,
        describe=f"calibration in {len(bins)} bins",
    )


def calibration_error(calibration: Any) -> float | None:
    """The mean distance of share right and stated probability over the bins, by examples; None without any."""
    bins = _bins(calibration)
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / total if total else None


def _bins(calibration: Any) -> list[Json]:
    """Bins with ``n``, ``confidence`` and ``accuracy``, from a list or under the key ``bins``."""
    bins = calibration.get("bins", ()) if isinstance(calibration, dict) else calibration or ()
    return [b for b in bins if isinstance(b, dict) and {"n", "confidence", "accuracy"} <= b.keys() and b["n"]]


def worst_examples(judged: Json, folder: Path) -> list[Json]:
    """The worst examples with their pictures as data addresses; one without a readable picture has an empty one."""
    classes = [str(name) for name in judged.get("classes") or []]

    def name(index: Any) -> str:
        return classes[index] if isinstance(index, int) and 0 <= index < len(classes) else f"class {index}"

    return [
        {
            "where": shown(str(example.get("where", "")), 80),
            "true": shown(name(example.get("label")), 30),
            "predicted": shown(name(example.get("predicted")), 30),
            "probability": example.get("probability"),
            "picture": _embedded(folder, str(example.get("image", ""))),
        }
        for example in (judged.get("worst") or [])[:_WORST]
    ]


def _embedded(folder: Path, name: str) -> str:
    """A small picture of the run directory as a data address, made anew so that nothing but pixels goes over."""
    from PIL import Image

    file = (folder / name).resolve()
    if not name or not file.is_relative_to(folder.resolve()):
        return ""
    buffer = io.BytesIO()
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            if max(image.size) > _LARGE:
                return ""
            tiny = max(image.size) <= _TINY
            small = image.convert("L" if image.mode in ("1", "L") else "RGB")
            small.thumbnail((_PICTURE, _PICTURE))
            small.save(buffer, **({"format": "PNG"} if tiny else {"format": "JPEG", "quality": 82}))
    except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ""
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
