"""Reading and writing amounts: ``2ms``, ``1.5M``, ``200MB``, ``10m``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from sartor.core.cost import CostField, Dimension
from sartor.core.errors import BudgetError

_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_BYTES = {
    "": 1.0, "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30,
}  # fmt: skip
_TIME = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
UNITS: Mapping[Dimension, Mapping[str, float]] = {"count": _COUNT, "bytes": _BYTES, "time": _TIME}
_WRITTEN: Mapping[Dimension, tuple[str, ...]] = {
    "count": ("", "k", "M", "G", "T"),
    "bytes": ("B", "KB", "MB", "GB", "TB"),
    "time": ("us", "ms", "s"),
}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*")


def parse_amount(text: str, kind: CostField, *, where: str) -> float:
    """The value of ``text`` in the field's stored unit.

    Raises BudgetError, naming the valid units, for anything that is not a number with one of them.
    """
    units = UNITS[kind.dimension]
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units:
        valid = ", ".join(unit for unit in units if unit)
        raise BudgetError(f"{where}: {text.strip()!r} is not an amount; write a number with one of the units {valid}")
    return _exact(float(match[1]) * units[match[2]] / _stored(kind))


def format_amount(value: float, kind: CostField, digits: int | None = 3) -> str:
    """``value`` (in the field's stored unit) for people; ``digits=None`` writes it so that it reads back exactly."""
    if not math.isfinite(value):
        return str(value)
    units = UNITS[kind.dimension]
    base = value * _stored(kind)
    fitting = [unit for unit in _WRITTEN[kind.dimension] if base >= units[unit]]
    unit = fitting[-1] if fitting else _WRITTEN[kind.dimension][0]
    scaled = _exact(base / units[unit])
    if digits is not None:
        return f"{_significant(scaled, digits)}{unit}"
    text = f"{scaled:.17g}" if float(f"{scaled:.15g}") != scaled else f"{scaled:.15g}"
    written = f"{text}{unit}"
    if parse_amount(written, kind, where="amount") != value:  # a unit whose factor is not exact: write the stored one
        written = f"{value!r}{kind.unit if kind.dimension != 'count' else ''}"
    return written


def parse_duration(text: str | float) -> float:
    """Seconds of ``90``, ``"90s"``, ``"10m"``, ``"1.5h"`` or ``"1h30m"``; raises BudgetError otherwise."""
    if isinstance(text, int | float):
        return float(text)
    parts = re.findall(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text)
    if not parts or re.sub(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)|\s", "", text):
        raise BudgetError(f"time {text!r} is not a duration; write 90s, 10m or 1h30m")
    total = 0.0
    for number, unit in parts:
        if unit and unit not in _TIME:
            raise BudgetError(f"time {text!r}: unknown unit {unit!r}; use s, m or h")
        total += float(number) * _TIME[unit or "s"]
    if total <= 0:
        raise BudgetError(f"time {text!r} must be more than zero")
    return total


def format_duration(seconds: float) -> str:
    """``4.2s``, ``3m05s`` or ``2h10m``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
    return f"{int(seconds) // 3600}h{int(seconds) % 3600 // 60:02d}m"


def _stored(kind: CostField) -> float:
    return UNITS[kind.dimension][kind.unit] if kind.dimension == "time" else 1.0


def _exact(value: float) -> float:
    """Undo the last bit that scaling by a power of ten may cost (2.0000000000000004 is meant to be 2)."""
    return float(f"{value:.15g}")


def _significant(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return f"{float(text):g}" if "e" in text else text
