"""Words and numbers as people read them. Text from outside is cleaned here and escaped where it is placed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sartor.core.candidate import Metric
from sartor.core.cost import Amount, Quantity
from sartor.core.units import format_amount

# Control, line-separating and direction characters, lone surrogates: what changes how the text around it is read.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_LABELS: Mapping[str, str] = {  # of fields whose own name is short for something
    "params": "parameters",
    "macs": "multiply-adds",
    "traffic": "memory traffic",
    "cio": "feature-map traffic",
    "peak_memory": "memory",
    "train_memory": "training memory",
    "train_seconds": "training time",
    "lineage_seconds": "training time with ancestors",
}
SPLITS: Mapping[str, str] = {"train": "training", "valid": "validation", "test": "test"}
GAP = "\u00a0"  # a space at which no line is broken
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution


def shown(text: str, limit: int = 160) -> str:
    """One line that can be read: hidden characters are written as escapes, a long text is cut in its middle."""
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]}…{text[head - limit :]}"
    return _HIDDEN.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def label(quantity: str) -> str:
    """The name of a written quantity: ``latency.p95@8`` is "latency (95th percentile, batch of 8)"."""
    q = Quantity.parse(quantity)
    notes = ["95th percentile"] * bool(q.statistic) + [f"batch of {q.batch}"] * (q.batch != 1)
    name = _LABELS.get(q.field) or q.field.replace("_", " ")
    return f"{name} ({', '.join(notes)})" if notes else name


def amount_text(quantity: str, value: float) -> str:
    """A value in the stored unit of a quantity's field, with the unit that suits its size."""
    return format_amount(value, Quantity.parse(quantity).kind)


def spread_text(quantity: str, amount: Amount) -> str:
    """An amount with the upper end of its interval, where it has one."""
    upper = f", up to {amount_text(quantity, amount.upper)}" if amount.spread else ""
    return amount_text(quantity, amount.value) + upper


def is_share(metric: Metric) -> bool:
    """Whether a metric is a share of examples, best at 1: it is then written in per cent."""
    return metric.higher_is_better and "accuracy" in metric.name


def quality_text(metric: Metric, value: float) -> str:
    """A metric's value: 98.4 %, 99.72 %, or four significant digits."""
    if not is_share(metric):
        return f"{value:.4g}"
    return f"{100 * value:.{2 if 0.99 <= value < 1 else 1}f}{GAP}%"


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share among ``n`` examples (Wilson 1927, doi 10.2307/2276774)."""
    centre = share + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def interval_text(metric: Metric, value: float, n: int | None) -> str:
    """The 95 % interval of a share and its ``n``; only the ``n`` of other metrics; empty without one."""
    if not n:
        return ""
    count = f"n{GAP}={GAP}{n}"
    if metric.name != "accuracy":
        return count
    low, high = wilson(value, n)
    return f"95{GAP}% interval {100 * low:.1f} to {100 * high:.1f}{GAP}%, {count}"


def spec_text(spec: Mapping[str, Any]) -> str:
    """A spec in a few words: depth×width of its stages, or its kind and plain values."""
    stages = spec.get("stages")
    if spec.get("kind") == "anynet" and stages:
        blocks = list(dict.fromkeys(str(stage["block"]["kind"]) for stage in stages))
        widths = " · ".join(f"{stage['depth']}×{stage['width']}" for stage in stages)
        return f"{widths}, {' and '.join(blocks)}, stem {spec['stem']['width']}"
    return f"{spec.get('kind', '?')} {plain_text({k: v for k, v in spec.items() if k != 'kind'})}".strip()


def plain_text(values: Mapping[str, Any]) -> str:
    """The plain values of a mapping on one line: ``lr 0.2, epochs 4``."""
    scalars = {k: v for k, v in values.items() if isinstance(v, str | int | float)}
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in scalars.items())
