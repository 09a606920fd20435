from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.candidate import Metric
from sartor.core.cost import FIELDS, Amount
from sartor.core.spec import to_json
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.resnet import Basic
from sartor.report.text import interval_text, label, quality_text, shown, spec_text, spread_text, wilson


@given(st.integers(1, 10**6), st.data())
def test_the_interval_solves_the_score_equation(n: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, n)) / n
    low, high = wilson(share, n)
    assert 0.0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1.0
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-4, abs=1e-9)


def test_the_interval_of_a_published_example() -> None:
    """81 of 263, Newcombe 1998 (Statistics in Medicine 17), table I, method 3."""
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(st.text(max_size=500), st.integers(10, 50))
def test_shown_text_is_one_printable_line_of_bounded_length(text: str, limit: int) -> None:
    line = shown(text, limit)
    assert len(line.splitlines()) <= 1
    assert len(line) <= 6 * (limit + 1)
    line.encode("utf-8")
    if text.isalnum() and len(text) <= limit:
        assert line == text


def test_long_text_keeps_its_ends() -> None:
    assert shown("folder/" + "x" * 300 + ".jpg", 30).startswith("folder/xxx")
    assert shown("folder/" + "x" * 300 + ".jpg", 30).endswith("xxx.jpg")


def test_numbers_as_people_read_them() -> None:
    accuracy = Metric("accuracy")
    assert quality_text(accuracy, 0.9806) == "98.1\u00a0%"
    assert quality_text(accuracy, 0.9972) == "99.72\u00a0%"
    assert quality_text(accuracy, 1.0) == "100.0\u00a0%"
    assert quality_text(Metric("log_loss", higher_is_better=False), 0.12345) == "0.1235"
    assert interval_text(Metric("log_loss", higher_is_better=False), 0.1, 9) == "n\u00a0=\u00a09"
    assert interval_text(accuracy, 0.9, None) == ""
    assert spread_text("latency", Amount(1.2, "ms", "measured", "", 0.3)) == "1.2ms, up to 1.5ms"
    assert spread_text("params", Amount(6240, "1", "counted")) == "6.24k"


def test_every_field_has_a_name() -> None:
    assert all(label(field) for field in FIELDS)
    assert label("latency.p95@8") == "latency (95th percentile, batch of 8)"


def test_specs_in_short() -> None:
    spec = AnyNet(Stem(16), (Stage(Basic(), 2, 16), Stage(Basic(), 3, 32, 2)))
    assert spec_text(to_json(spec)) == "2×16 · 3×32, basic, stem 16"
    assert spec_text({"kind": "other", "width": 3, "inner": {"a": 1}}) == "other width 3"
