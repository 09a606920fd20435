"""The report of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from sartor.core.candidate import Candidate
from sartor.core.cost import Cost
from sartor.core.errors import RunError
from sartor.core.files import sha256_file, write_atomic
from sartor.core.spec import Json, to_json
from sartor.core.units import format_duration
from sartor.report import headline, story
from sartor.report.curves import draw_losses, draw_rungs, draw_time
from sartor.report.details import details
from sartor.report.findings import BEST, Findings, family_of, gather, known
from sartor.report.front import Marks, draw_front
from sartor.report.judged import (
    MOST_CLASSES,
    Confusion,
    calibration_error,
    draw_calibration,
    draw_classes,
    draw_confusion,
    worst_examples,
)
from sartor.report.text import interval_text, label, quality_text, shown, spec_text, spread_text

if TYPE_CHECKING:
    from jinja2 import Template

REPORT = "report.html"
_ROWS = 30  # of the table of costs
_NOTICES = 50


def write_report(run_folder: Path | str) -> Path:
    """Write ``report.html`` of a run, finished or not, and return its path.

    The page is self-contained, under 2 MB whatever the run's size, and the same bytes for the same run. Raises
    RunError if the folder is no run or cannot be written.
    """
    findings = gather(run_folder)
    path = findings.folder / REPORT
    try:
        write_atomic(path, render(findings))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; free it or copy the run") from None
    return path


def render(findings: Findings) -> str:
    """The page's text."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        style=Markup(_asset("figures.css") + _asset("report.css")),
        script=Markup(script),
        script_hash=Markup(digest),
        title=headline.title(findings),
        **_asked_and_found(findings),
        **_front(findings),
        **_costs(findings),
        **_judged(findings),
        **_story(findings),
        **_again(findings),
    )


def _asked_and_found(findings: Findings) -> Json:
    chosen = findings.chosen
    return {
        "bounded": bool(findings.budget.bounds),
        "verdict": headline.verdict(findings),
        "figures": headline.figures(findings),
        "winner": findings.winner,
        "engine": findings.winner.get("engine", ""),
        "winner_network": spec_text(to_json(chosen.proposal.spec)) if chosen else "",
        "winner_family": family_of(chosen) if chosen else "",
        "load": _code(headline.load_lines(findings, headline.exported(findings))) if findings.winner else "",
        "predict": headline.predict_line(findings),
    }


def _front(findings: Findings) -> Json:
    """One picture for each axis, and what the script shows of each candidate."""
    pictures = [Marks.of(findings, axis) for axis in findings.axes]
    drawn = {c.id: c for marks in pictures for c in marks.drawn}
    about = {id: {"title": f"{family_of(c)} {id}", "pairs": details(findings, c)} for id, c in drawn.items()}
    first = next((c.id for c in (findings.chosen, *findings.members) if c and c.id in about), None)
    return {
        "axes": [{"label": label(marks.axis), "svg": draw_front(findings, marks)} for marks in pictures],
        "candidates": about,
        "first": about[first] if first else None,
        "left_out": max(0, len(findings.leaves) - len(drawn)),
        "rungs_svg": draw_rungs(findings),
        "losses_svg": draw_losses(findings),
    }


def _costs(findings: Findings) -> Json:
    """The winner and the front's members, and the winner measured again after export."""
    rows = list({c.id: c for c in (findings.chosen, *findings.members) if c}.values())
    again = Cost.from_json(findings.winner["cost"]) if findings.winner.get("cost") else Cost()
    return {
        "columns": [label(axis) for axis in findings.axes],
        "quality_name": f"validation {findings.metric.name}",
        "rows": [_cost_row(findings, c) for c in rows[:_ROWS]],
        "rows_left_out": max(0, len(rows) - _ROWS),
        "again": [
            {"name": label(n), "amount": spread_text(n, a), "method": headline.method_text(a)}
            for n, a in known(again, findings.axes)
        ],
        "budget": [
            {"limit": str(b), "margin": headline.margin_text(b, amount)}
            for b in findings.budget.bounds
            if (amount := findings.winner_cost.get(b.quantity))
        ],
        "checks": story.pairs_of((findings.winner.get("checks") or {}).get("onnx")),
    }


def _cost_row(findings: Findings, c: Candidate) -> Json:
    quality = findings.quality(c)
    return {
        "chosen": c is findings.chosen,
        "family": family_of(c),
        "network": spec_text(to_json(c.proposal.spec)),
        "quality": "" if quality is None else quality_text(findings.metric, quality),
        "amounts": [spread_text(axis, amount) if (amount := c.cost.get(axis)) else "" for axis in findings.axes],
    }


def _judged(findings: Findings) -> Json:
    confusion = Confusion.of(findings.judged)
    small = confusion is not None and len(confusion.counts) <= MOST_CLASSES
    calibration = findings.judged.get("calibration")
    return {
        "confusion": draw_confusion(confusion) if confusion else "",
        "matrix": {"classes": [shown(n, 40) for n in confusion.classes], "counts": confusion.counts}
        if confusion and small
        else None,
        "class_count": len(confusion.classes) if confusion else 0,
        "pairs": confusion.pairs() if confusion else [],
        "classes_svg": draw_classes(confusion) if confusion else "",
        "test_note": _test_note(findings),
        "macro": findings.judged.get("macro_accuracy"),
        "calibration": draw_calibration(calibration),
        "error": calibration_error(calibration),
        "worst": worst_examples(findings.judged, findings.folder),
    }


def _test_note(findings: Findings) -> str:
    value = (findings.winner.get("test") or {}).get(findings.metric.name)
    if value is None:
        return ""
    interval = interval_text(findings.metric, value, findings.winner.get("n_test"))
    text = f"{findings.metric.name} {quality_text(findings.metric, value)}"
    return f"{text} ({interval})" if interval else text


def _story(findings: Findings) -> Json:
    return {
        "families": story.family_rows(findings),
        "recipes": story.recipe_rows(findings),
        "rungs": story.rung_rows(findings),
        "failures": story.failures(findings),
        "states": story.states(findings),
        "time_svg": draw_time(findings),
        "told": story.told(findings),
        "plan": story.pairs_of(findings.facts["plan"]),
    }


def _again(findings: Findings) -> Json:
    """What was skipped and said, and all that is needed to repeat the run."""
    run, task, finished = findings.run, findings.task, findings.facts["finished"]
    facts = {
        "data": run.get("data"),
        "data fingerprint": task.get("fingerprint"),
        "splits": task.get("splits"),
        "image size": " × ".join(map(str, task.get("size") or ())),
        "seed": run.get("seed"),
        "time used": format_duration(finished) if finished else None,
        "machine": findings.facts["machine"],
    }
    said = {name: value for name, value in facts.items() if value not in (None, "")}
    return {
        "skipped": [(shown(str(line.get("where", "")), 120), str(line.get("why", ""))) for line in findings.skipped],
        "skipped_count": findings.skipped_count,
        "notices": [str(notice) for notice in (task.get("notices") or [])][:_NOTICES],
        "command": headline.command(findings) if run else "",
        "facts": [*story.pairs_of(said), *story.pairs_of(findings.facts["versions"])],
        "hashes": [
            (f"{BEST}/{file.name}", sha256_file(file))
            for file in sorted((findings.folder / BEST).glob("*"))
            if file.is_file() and file.suffix in (".safetensors", ".onnx", ".json")
        ],
    }


def _code(text: str) -> Markup:
    """Text whose line breaks are meant."""
    return Markup("\n").join(escape(shown(line, 400)) for line in text.split("\n"))


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sartor.report"), autoescape=True, undefined=StrictUndefined, finalize=_clean,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2")


def _clean(value: Any) -> Any:
    """Every plain text that enters the page is made printable here; the template escapes it after that."""
    return shown(value, 600) if type(value) is str else value


def _asset(name: str) -> str:
    return files("sartor.report").joinpath("templates", name).read_text(encoding="utf-8")
