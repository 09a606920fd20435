"""A candidate in words."""

from __future__ import annotations

from collections.abc import Mapping

from sartor.core.budget import Verdict
from sartor.core.candidate import Candidate
from sartor.core.spec import to_json
from sartor.core.units import format_duration
from sartor.report.findings import Findings, known, seconds_of
from sartor.report.text import SPLITS, interval_text, label, plain_text, quality_text, shown, spec_text, spread_text

_VERDICTS: Mapping[Verdict, str] = {"in": "inside", "out": "outside", "unknown": "not all of it measured"}


def details(findings: Findings, candidate: Candidate) -> list[tuple[str, str]]:
    """What there is to say of a candidate, as pairs of name and text."""
    proposal, metric = candidate.proposal, findings.metric
    quality = candidate.quality
    pairs = [("network", spec_text(to_json(proposal.spec)))]
    if quality is not None and metric.name in quality.values:
        value = quality.values[metric.name]
        pairs.append((f"{SPLITS.get(quality.split, quality.split)} {metric.name}", quality_text(metric, value)))
        pairs.append(("", interval_text(metric, value, quality.n)))
    pairs += [(label(n), f"{spread_text(n, a)} {a.how}") for n, a in known(candidate.cost, findings.axes)]
    pairs += [("trained", training_text(findings, candidate)), ("recipe", plain_text(proposal.recipe))]
    if findings.budget.bounds:
        pairs.append(
            ("budget", {"in": "inside", "out": "outside"}.get(findings.budget.verdict(candidate.cost), "unknown"))
        )
    pairs.append(("ended", fate(findings, candidate)))
    return [(name, shown(text)) for name, text in pairs if text]


def training_text(findings: Findings, candidate: Candidate) -> str:
    """Rung, epochs and seconds of a candidate's training."""
    chain = findings.lineage(candidate)
    parts = [f"rung {candidate.proposal.rung}"]
    history = findings.history(candidate.id)
    if history and isinstance(history[-1].get("epoch"), int | float):
        parts.append(f"{history[-1]['epoch']:.3g} epochs")
    if seconds := seconds_of(chain):
        parts.append(format_duration(seconds))
    return ", ".join(parts)


def fate(findings: Findings, candidate: Candidate) -> str:
    """Why a candidate went no further."""
    if candidate is findings.chosen:
        return "chosen and exported"
    if candidate.why:
        return candidate.why
    if candidate.state != "done":
        return candidate.state
    return "trained to the last rung" if candidate.proposal.rung == findings.last_rung else "others of its rung went on"
