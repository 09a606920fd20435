"""What was asked and what was found: the verdict, the figures under it, how to use the model, how to run it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from sartor.core.budget import Bound
from sartor.core.candidate import Candidate
from sartor.core.cost import Amount
from sartor.core.spec import Json
from sartor.core.units import format_duration
from sartor.report.findings import BEST, Findings
from sartor.report.text import GAP, SPLITS, amount_text, interval_text, label, quality_text, shown

_UNBOUNDED = ("params", "latency")  # shown beside what the budget bounds


@dataclass(frozen=True, slots=True)
class Figure:
    """One large number: what it is, a note under it, and the share of a limit that is used."""

    value: str
    name: str
    note: str
    used: float | None = None


def verdict(findings: Findings) -> str:
    """The outcome in a sentence."""
    asked = f"the budget {findings.budget}" if findings.budget.bounds else "no budget"
    if findings.winner:
        inside = findings.budget.verdict(findings.winner_cost) if findings.budget.bounds else "free"
        held = {
            "in": f" and is inside {asked}, measured again after export",
            "out": f" and is outside {asked}: measured again after export, it needs more",
            "unknown": f" and was not measured against all of {asked}",
            "free": "",
        }[inside]
        return f"The {'trained' if 'model' in findings.run else 'chosen'} model {_judged(findings)}{held}."
    if findings.facts["finished"] is None:
        done = sum(c.state == "done" for c in findings.candidates)
        so_far = f"{done} of {len(findings.candidates)} candidates so far"
        return f"This run is not finished: {so_far}. The same command goes on."
    near = nearest(findings)
    if near is None:
        return "No candidate could be trained and judged; the reasons stand below."
    return f"No candidate is within {asked}; the nearest has {findings.budget.describe(near.cost)}."


def nearest(findings: Findings) -> Candidate | None:
    """The judged candidate that is nearest to the budget."""
    return min(findings.leaves, key=lambda c: (findings.budget.distance(c.cost), c.id), default=None)


def figures(findings: Findings) -> list[Figure]:
    """Quality, every bounded cost, the usual others, and the time."""
    return [*_quality(findings), *_costs(findings), *_time(findings)]


def margin_text(bound: Bound, amount: Amount) -> str:
    """How far an amount's upper end is from its limit."""
    share = amount.upper / bound.limit
    return f"{100 * abs(1 - share):.0f}{GAP}% {'below' if share <= 1 else 'above'}"


def method_text(amount: Amount) -> str:
    """How and on what an amount was got."""
    return f"{amount.how} on {amount.on}" if amount.on else amount.how


def load_lines(findings: Findings, where: str) -> str:
    """Three lines of Python that open an exported model and use it."""
    name = "ImageSegmenter" if findings.task.get("kind") == "segmentation" else "ImageClassifier"
    return (
        f"from sartor.runtime import {name}\n"
        f"model = {name}.open({json.dumps(where, ensure_ascii=False)})\n"
        'print(model.predict(["picture.jpg"])[0])'
    )


def exported(findings: Findings) -> str:
    """The exported model's folder as one would write it beside the run."""
    return f"{findings.folder.resolve().name}/{BEST}"


def predict_line(findings: Findings) -> str:
    """The command that does the same."""
    return shlex.join(["sartor", "predict", findings.folder.resolve().name, "picture.jpg"])


def command(findings: Findings, data: str | None = None) -> str:
    """The command that began the run, ready for a shell; ``data`` stands for where the data were."""
    run = findings.run
    where = data or str(run.get("data", "DATA"))
    words = _train_words(run, where) if "model" in run else _fit_words(run, where)
    words += ["--out", findings.folder.resolve().name]
    if run.get("seed") is not None:
        words += ["--seed", str(run["seed"])]
    return shlex.join(words) + (" --strict" if run.get("strict") else "")


def _fit_words(run: Json, data: str) -> list[str]:
    words = ["sartor", "fit", data]
    if run.get("budget"):
        words += ["--budget", str(run["budget"])]
    if run.get("time") is not None:
        words += ["--time", f"{run['time']:g}s"]
    if run.get("families"):
        words += ["--families", *map(str, run["families"])]
    return words


def _train_words(run: Json, data: str) -> list[str]:
    model, recipe = run["model"], run.get("recipe")
    words = ["sartor", "train", model if isinstance(model, str) else f"{BEST}/config.json", data]
    if recipe:
        words += ["--recipe", str(recipe.get("name", "custom"))]
    if run.get("epochs"):
        words += ["--epochs", f"{run['epochs']:g}"]
    for setting in run.get("settings", ()):
        words += ["--set", str(setting)]
    for name in ("weights", "size", "task"):
        if run.get(name):
            words += [f"--{name}", str(run[name])]
    for value in run.get("ignore", ()):
        words += ["--ignore", str(value)]
    return words


def _judged(findings: Findings) -> str:
    value = (findings.winner.get("test") or {}).get(findings.metric.name)
    if value is None:
        return "was not judged on test data"
    if findings.metric.name == "accuracy":
        return f"recognises {quality_text(findings.metric, value)} of the test images"
    return f"reaches {findings.metric.name} {quality_text(findings.metric, value)} on the test data"


def _quality(findings: Findings) -> list[Figure]:
    metric, winner = findings.metric, findings.winner
    for split, n in (("test", winner.get("n_test")), ("valid", None)):
        value = (winner.get(split) or {}).get(metric.name)
        if value is not None:
            note = interval_text(metric, value, n) or "of the images that candidates were chosen by"
            return [Figure(quality_text(metric, value), f"{SPLITS[split]} {metric.name}", note)]
    return []


def _costs(findings: Findings) -> list[Figure]:
    cost, bounds = findings.winner_cost, {str(b.quantity): b for b in findings.budget.bounds}
    out = []
    for quantity in dict.fromkeys([*bounds, *_UNBOUNDED] if findings.winner else ()):
        bound, amount = bounds.get(quantity), cost.get(quantity)
        if bound and amount:
            note = f"{margin_text(bound, amount)} the limit of {amount_text(quantity, bound.limit)}, {amount.how}"
            used = amount.upper / bound.limit
            out.append(Figure(amount_text(quantity, amount.upper), label(quantity), note, used))
        elif bound:
            out.append(Figure("–", label(quantity), f"not measured; limit {amount_text(quantity, bound.limit)}"))
        elif amount:
            out.append(Figure(amount_text(quantity, amount.value), label(quantity), f"{amount.how}, no limit asked"))
    return out


def _time(findings: Findings) -> list[Figure]:
    used = findings.facts["finished"] or max((used for used, *_ in findings.events), default=0.0)
    if not used:
        return []
    allowed = findings.run.get("time")
    count = len(findings.candidates)
    note = f"of {format_duration(allowed)}, " if allowed else ""
    share = used / allowed if allowed else None
    return [Figure(format_duration(used), "time used", f"{note}{count} candidate{'' if count == 1 else 's'}", share)]


def title(findings: Findings) -> str:
    """What the run is called: its data."""
    return shown(str(findings.task.get("name") or findings.run.get("data") or findings.folder.resolve().name), 60)
