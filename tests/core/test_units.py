from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.cost import FIELDS
from sartor.core.errors import BudgetError
from sartor.core.units import format_amount, format_duration, parse_amount, parse_duration


@given(st.sampled_from(sorted(FIELDS)), st.floats(1e-9, 1e18, allow_subnormal=False))
def test_exact_writing_reads_back(field: str, value: float) -> None:
    kind = FIELDS[field]
    assert parse_amount(format_amount(value, kind, None), kind, where="test") == value


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [("params", 12345, "12.3k"), ("latency", 0.25, "250us"), ("latency", 2.0, "2ms"), ("storage", 1.5e9, "1.5GB"),
     ("macs", 4089184256, "4.09G"), ("params", 0, "0")],
)  # fmt: skip
def test_amounts_are_written_for_people(field: str, value: float, text: str) -> None:
    assert format_amount(value, FIELDS[field]) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), (5, 5)])
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 parsecs", "0", "-5m", "5m and more"])
def test_a_wrong_duration_is_one_line(text: str) -> None:
    with pytest.raises(BudgetError, match="time"):
        parse_duration(text)


def test_durations_are_written_short() -> None:
    assert [format_duration(s) for s in (4.21, 185, 7800)] == ["4.2s", "3m05s", "2h10m"]
