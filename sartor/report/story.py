"""What was looked at: families, rungs, failures, and what the run said of itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sartor.core.candidate import Candidate
from sartor.core.spec import Json
from sartor.core.units import format_duration
from sartor.report.findings import Findings, family_of
from sartor.report.text import quality_text
from sartor.runs.fates import family_fates, ingredients_text, recipe_fates

_MOST = 40  # lines of a list


def family_rows(findings: Findings) -> list[Json]:
    """Every family: how many candidates, how many failed, the best quality, and what became of it."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in findings.candidates:
        groups[family_of(candidate)].append(candidate)
    fates = family_fates(
        findings.candidates, findings.facts["dropped"] or {}, findings.metric, findings.budget,
        str(findings.winner.get("id", "")),
    )  # fmt: skip
    rows = []
    for name in [*groups, *(name for name in fates if name not in groups)][:_MOST]:
        found = groups.get(name, [])
        rows.append(
            {
                "name": name,
                "candidates": sum(c.parent("rung") is None for c in found),
                "failed": sum(c.state == "failed" for c in found),
                "best": _best(findings, found),
                "note": fates.get(name, ""),
            }
        )
    return rows


def recipe_rows(findings: Findings) -> list[Json]:
    """Every recipe that was drawn, if there are several: the best quality, and what became of it."""
    fates = recipe_fates(
        findings.candidates, findings.metric, findings.budget, str(findings.winner.get("id", ""))
    )  # fmt: skip
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in findings.candidates:
        groups[ingredients_text(candidate)].append(candidate)
    rows = [{"name": name, "best": _best(findings, groups[name]), "note": note} for name, note in fates.items()]
    return rows[:_MOST] if len(rows) > 1 else []


def rung_rows(findings: Findings) -> list[Json]:
    """Every rung: how many candidates, their training time in all, the best quality."""
    groups: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in findings.candidates:
        groups[candidate.proposal.rung].append(candidate)
    return [
        {
            "rung": rung,
            "candidates": len(found),
            "seconds": format_duration(sum(a.value for c in found if (a := c.cost.get("train_seconds")))),
            "best": _best(findings, found),
        }
        for rung, found in sorted(groups.items())[:_MOST]
    ]


def failures(findings: Findings) -> list[Json]:
    """What failed or was stopped, grouped by reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for c in findings.candidates:
        if c.state in ("failed", "stopped"):
            groups[c.state, c.why].append(c)
    often = sorted(groups.items(), key=lambda group: -len(group[1]))[:_MOST]
    return [
        {
            "state": state,
            "why": why or "no reason given",
            "count": len(found),
            "families": ", ".join(sorted({family_of(c) for c in found})[:6]),
        }
        for (state, why), found in often
    ]


def told(findings: Findings) -> list[tuple[str, str]]:
    """The run's own events with the time, its beginning and its end if there are many."""
    lines = [(format_duration(used), text) for used, id, text in findings.events if id is None]
    if len(lines) <= _MOST:
        return lines
    half = _MOST // 2
    return [*lines[:half], ("…", f"{len(lines) - _MOST} more"), *lines[-half:]]


def states(findings: Findings) -> str:
    """How many candidates ended how."""
    counts = Counter(c.state for c in findings.candidates)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), key=lambda item: -item[1]))


def pairs_of(value: Any) -> list[tuple[str, str]]:
    """A fact as pairs of name and text, whatever its shape."""
    if isinstance(value, dict):
        return [(str(key).replace("_", " "), _written(inner)) for key, inner in value.items()][:_MOST]
    return [("", _written(value))] if value not in (None, "", []) else []


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_written(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value))
    return str(value)


def _best(findings: Findings, found: Sequence[Candidate]) -> str:
    values = [value for c in found if (value := findings.quality(c)) is not None]
    pick = max if findings.metric.higher_is_better else min
    return quality_text(findings.metric, pick(values)) if values else ""
