"""Reading and writing amounts: ``2ms``, ``1.5M``, ``200MB``, ``10m``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from sartor.core.cost import CostField, Dimension
from sartor.core.errors import BudgetError

_COUNT = {"": "1", "k": "1e3", "K": "1e3", "M": "1e6", "G": "1e9", "B": "1e9", "T": "1e12"}
_BYTES = {
    "": "1", "B": "1", "kB": "1e3", "KB": "1e3", "MB": "1e6", "GB": "1e9", "TB": "1e12",
    "KiB": "1024", "MiB": "1048576", "GiB": "1073741824",
}  # fmt: skip
_TIME = {"us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "min": "60", "h": "3600", "d": "86400"}
UNITS: Mapping[Dimension, Mapping[str, Decimal]] = {  # decimal, so that amounts read back exactly
    "count": {unit: Decimal(factor) for unit, factor in _COUNT.items()},
    "bytes": {unit: Decimal(factor) for unit, factor in _BYTES.items()},
    "time": {unit: Decimal(factor) for unit, factor in _TIME.items()},
}
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
    return float(Decimal(match[1]) * units[match[2]] / _stored(kind))


def format_amount(value: float, kind: CostField, digits: int | None = 3) -> str:
    """``value`` (in the field's stored unit) for people; ``digits=None`` writes it so that it reads back exactly."""
    if not math.isfinite(value):
        return str(value)
    units = UNITS[kind.dimension]
    base = Decimal(repr(value)) * _stored(kind)
    fitting = [unit for unit in _WRITTEN[kind.dimension] if base >= units[unit]]
    unit = fitting[-1] if fitting else _WRITTEN[kind.dimension][0]
    scaled = base / units[unit]
    return f"{scaled.normalize():f}{unit}" if digits is None else f"{_significant(float(scaled), digits)}{unit}"


def parse_duration(text: str | float) -> float:
    """Seconds of ``90``, ``"90s"``, ``"10m"``, ``"1.5h"`` or ``"1h30m"``; raises BudgetError otherwise."""
    if isinstance(text, int | float):
        return float(text)
    parts = re.findall(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text)
    if not parts or re.sub(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)|\s", "", text):
        raise BudgetError(f"time {text!r} is not a duration; write 90s, 10m or 1h30m")
    total = 0.0
    for number, unit in parts:
        if unit and unit not in UNITS["time"]:
            raise BudgetError(f"time {text!r}: unknown unit {unit!r}; use s, m or h")
        total += float(Decimal(number) * UNITS["time"][unit or "s"])
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


def _stored(kind: CostField) -> Decimal:
    return UNITS[kind.dimension][kind.unit] if kind.dimension == "time" else Decimal(1)


def _significant(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return f"{float(text):g}" if "e" in text else text
