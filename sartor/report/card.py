"""The model card of a run's winner, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sartor.core.candidate import Candidate
from sartor.core.errors import RunError
from sartor.core.files import write_atomic
from sartor.core.spec import Json, to_json
from sartor.core.units import format_duration
from sartor.report import headline, story
from sartor.report.details import training_text
from sartor.report.findings import BEST, Findings, family_of, gather, known
from sartor.report.text import SPLITS, interval_text, label, plain_text, quality_text, shown, spec_text, spread_text

if TYPE_CHECKING:
    from jinja2 import Template

CARD = "README.md"
_CLASSES = 20  # named in the card
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&$])")  # what Markdown and the hub's extensions read as more than itself


def write_model_card(run_folder: Path | str) -> Path:
    """Write ``best/README.md`` of a run with an exported winner and return its path.

    The licence is stated as unknown, for nobody told it. Raises RunError if the folder is no run, has no exported
    winner or cannot be written.
    """
    findings = gather(run_folder)
    path = findings.folder / BEST / CARD
    if not findings.winner or not path.parent.is_dir():
        raise RunError(f"{findings.folder} has no exported model to describe; finish its fit first")
    try:
        write_atomic(path, _header(findings) + _template().render(**_content(findings)))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; free it or copy the run") from None
    return path


def _header(findings: Findings) -> str:
    """The metadata between ``---`` lines."""
    from huggingface_hub import EvalResult, ModelCardData

    name = headline.title(findings)
    slug = re.sub(r"[^\w./-]+", "-", name).strip("-./") or "data"
    masks = findings.task.get("kind") == "segmentation"
    kind = "image-segmentation" if masks else "image-classification"
    results = [
        EvalResult(kind, slug, name, metric, value, dataset_split=split)
        for split in ("test", "valid")
        for metric, value in (findings.winner.get(split) or {}).items()
    ]
    data = ModelCardData(
        library_name="sartor", pipeline_tag=kind, license="unknown", tags=["sartor", "onnx"],
        datasets=[slug], metrics=[findings.metric.name], model_name=f"sartor-{slug}", eval_results=results or None,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n"


def _content(findings: Findings) -> Json:
    task, run = findings.task, findings.run
    classes = [shown(str(name), 40) for name in task.get("classes") or []]
    finished = findings.facts["finished"]
    return {
        "masks": task.get("kind") == "segmentation",
        "title": headline.title(findings),
        "verdict": headline.verdict(findings),
        "load": Markup(headline.load_lines(findings, ".")),
        "classes": classes[:_CLASSES],
        "class_count": len(classes),
        "size": " × ".join(map(str, task.get("size") or ())),
        "about_data": story.pairs_of({k: v for k in ("fingerprint", "splits") if (v := task.get(k))}),
        "skipped": findings.skipped_count,
        "notices": [str(notice) for notice in task.get("notices") or []][:10],
        "made": _made(findings, findings.chosen) if findings.chosen else [],
        "command": Markup(shown(headline.command(findings, headline.title(findings)), 2000)) if run else "",
        "candidates": len(findings.candidates),
        "used": format_duration(finished) if finished else "",
        "costs": _costs(findings),
        "qualities": _qualities(findings),
        "checks": story.pairs_of((findings.winner.get("checks") or {}).get("onnx")),
        "machine": findings.facts["machine"] or "",
        "versions": story.pairs_of(findings.facts["versions"]),
    }


def _made(findings: Findings, winner: Candidate) -> list[tuple[str, str]]:
    pairs = [
        ("family", family_of(winner)),
        ("network", spec_text(to_json(winner.proposal.spec))),
        ("recipe", plain_text(winner.proposal.recipe)),
        ("trained", training_text(findings, winner)),
        ("seed", str(winner.proposal.seed)),
        ("engine", findings.winner.get("engine", "")),
    ]
    return [(name, text) for name, text in pairs if text]


def _costs(findings: Findings) -> list[Json]:
    limits = {str(b.quantity): str(b) for b in findings.budget.bounds}
    return [
        {
            "name": label(name),
            "amount": spread_text(name, amount),
            "method": headline.method_text(amount),
            "limit": limits.get(name, ""),
        }
        for name, amount in known(findings.winner_cost, findings.axes)
    ]


def _qualities(findings: Findings) -> list[Json]:
    """Every metric of both splits; the interval stands with what candidates are compared by."""
    valid = findings.chosen.quality.n if findings.chosen and findings.chosen.quality else None
    rows = []
    for split, n in (("test", findings.winner.get("n_test")), ("valid", valid)):
        for name, value in (findings.winner.get(split) or {}).items():
            metric = findings.metric if name == findings.metric.name else None
            rows.append(
                {
                    "name": f"{SPLITS[split]} {name}".replace("_", " "),
                    "value": quality_text(metric, value) if metric else f"{value:.4g}",
                    "interval": interval_text(metric, value, n) if metric else "",
                }
            )
    return rows


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sartor.report"), autoescape=False, undefined=StrictUndefined, finalize=_markdown,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("card.md.j2")


def _markdown(value: Any) -> Any:
    """Plain text as Markdown that shows just that text."""
    return _SPECIAL.sub(r"\\\1", shown(value, 600)) if type(value) is str else value
