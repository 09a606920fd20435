"""A reproduction: parts that each measure something, judge it by a rule said beforehand, and leave a result.

A result is a JSON file and pictures in the reproduction's folder; ``result.md`` and a paper's card are written from
all results that lie there, so that parts can be measured at different times.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sartor.core.errors import RunError, SartorError, unknown
from sartor.core.files import write_atomic, write_json
from sartor.core.machine import machine
from sartor.core.spec import Json
from sartor.core.units import format_duration
from sartor.reproduce.cifar import CifarSubset
from sartor.training.recipe import Recipe

MEASURED = ("<!-- measured -->", "<!-- end of measured -->")  # what stands between them in a card is written here
SEEDS = 3  # unless more or fewer are asked for
Rows = Sequence[Mapping[str, str]]


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Conditions:
    """Under which a part is run: where its results are kept, how many seeds, on how many one-thread processes.

    ``quick`` makes everything tiny, to see that it works; its results are no evidence. ``say`` is told of progress.
    """

    folder: Path
    seeds: int = SEEDS
    quick: bool = False
    workers: int = 1
    say: Callable[[str], None] = _silent

    @property
    def data(self) -> CifarSubset:
        """The subset of CIFAR-10 to train on."""
        return CifarSubset(8, 4) if self.quick else CifarSubset()

    def trained_by(self, recipe: Recipe) -> Recipe:
        """The recipe, shortened for a quick run."""
        return recipe.replace(epochs=1.0, batch=40) if self.quick else recipe


@dataclass(frozen=True)
class Result:
    """What a part found: ``verdict`` says the rule and what came out in a sentence or two.

    ``passed`` is None where there is no rule. ``tables`` have a title each, ``pictures`` are SVG by name; ``data`` is
    everything measured, as plain values.
    """

    verdict: str
    passed: bool | None
    tables: Mapping[str, Rows] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    data: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One thing a reproduction shows. ``exact`` parts prove an equality and decide at any size."""

    title: str
    run: Callable[[Conditions], Result]
    exact: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Reproduction:
    """What is shown of a paper, part by part."""

    name: str
    title: str
    parts: Mapping[str, Part]

    def chosen(self, names: Sequence[str]) -> list[str]:
        """These parts, or all that are not optional; raises SartorError for an unknown one."""
        for name in names:
            if name not in self.parts:
                raise SartorError(f"reproduction {self.name}: {unknown('part', name, self.parts)}")
        return list(names) or [name for name, part in self.parts.items() if not part.optional]


def reproduce(reproduction: Reproduction, part: str, conditions: Conditions) -> Json:
    """Run a part, write its result and the folder's ``result.md``; returns what ``<part>.json`` holds.

    Raises SartorError, for instance where the data are not there.
    """
    conditions.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    result = reproduction.parts[part].run(conditions)
    judged = reproduction.parts[part].exact or not conditions.quick
    content = {
        "reproduction": reproduction.name,
        "part": part,
        "title": reproduction.parts[part].title,
        "command": _command(reproduction.name, part, conditions),
        "quick": conditions.quick,
        "passed": result.passed if judged else None,
        "verdict": result.verdict if judged else f"A quick run is no evidence, so not judged: {result.verdict}",
        "machine": machine(),
        "at": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - began, 1),
        "tables": result.tables,
        "pictures": sorted(result.pictures),
        "data": result.data,
    }
    for name, svg in result.pictures.items():
        write_atomic(conditions.folder / f"{part}-{name}.svg", svg)
    write_json(conditions.folder / f"{part}.json", content)
    write_atomic(conditions.folder / "result.md", markdown(reproduction, conditions.folder))
    return content


def _command(name: str, part: str, conditions: Conditions) -> str:
    options = [f"--seeds {conditions.seeds}"] * (conditions.seeds != SEEDS) + ["--quick"] * conditions.quick
    return " ".join([f"sartor reproduce {name} --part {part}", *options])


def results(reproduction: Reproduction, folder: Path) -> list[Json]:
    """The results that lie in a folder, in the order of the parts."""
    paths = [folder / f"{part}.json" for part in reproduction.parts]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def markdown(reproduction: Reproduction, folder: Path) -> str:
    """All results of a folder as a page."""
    parts = [_part_text(content, content["part"]) for content in results(reproduction, folder)]
    return "\n".join([f"# {reproduction.title}", "", *parts])


def fill_card(card: Path, reproduction: Reproduction, folder: Path) -> None:
    """Put the results of a folder into a card, between its two marks, and their pictures into ``figures`` beside it.

    Raises RunError for a card without the marks, or a folder with no result or only a quick one.
    """
    found = results(reproduction, folder)
    if not found or any(content["quick"] for content in found):
        raise RunError(f"{folder} holds {'quick results' if found else 'no result'}; a card takes none: run in full")
    try:
        text = card.read_text()
    except OSError:
        raise RunError(f"{card}: no such file; name the card to fill") from None
    head, mark, rest = text.partition(MEASURED[0])
    _, end, tail = rest.partition(MEASURED[1])
    if not (mark and end):
        raise RunError(f"{card}: has no place for results; it needs the lines {' and '.join(MEASURED)}")
    sections = []
    for content in found:
        for picture in content["pictures"]:
            name = f"{content['part']}-{picture}.svg"
            write_atomic(card.parent / "figures" / f"{card.stem}-{name}", (folder / name).read_text())
        sections.append(_part_text(content, f"figures/{card.stem}-{content['part']}"))
    write_atomic(card, f"{head}{mark}\n\n{''.join(sections)}{end}{tail}")


def _part_text(content: Json, pictures: str) -> str:
    """A result as a section; ``pictures`` is how the paths of its pictures begin."""
    outcome = {True: "**Passed.** ", False: "**Failed.** ", None: ""}[content["passed"]]
    took = format_duration(content["seconds"])
    lines = [f"### {content['title']}", "", f"`{content['command']}`", "", f"{outcome}{content['verdict']}", ""]
    for title, rows in content["tables"].items():
        lines += [f"{title}:", "", *table_lines(rows), ""]
    for name in content["pictures"]:
        lines += [f"![{content['title']}: {name}]({pictures}-{name}.svg)", ""]
    lines += [f"Measured on {content['at']} in {took} on {content['machine']}.", "", ""]
    return "\n".join(lines)


def table_lines(rows: Rows) -> list[str]:
    """Rows of equal keys as the lines of a Markdown table."""
    keys = list(rows[0])
    cells = [keys, ["---"] * len(keys), *[[row[key].replace("|", r"\|") for key in keys] for row in rows]]
    return [f"| {' | '.join(row)} |" for row in cells]
