from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.candidate import Metric
from sartor.report.plot import QualityAxis, Scale, tag

positive = st.floats(1e-6, 1e12)
values = st.lists(positive, min_size=1, max_size=20)


@given(values, st.sampled_from([None, True, False]))
def test_a_scale_keeps_order_and_stays_inside(values: list[float], log: bool | None) -> None:
    scale = Scale.fit(values, 10.0, 210.0, log=log)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10.0 <= place <= 210.0 for place in places)


@given(values, st.sampled_from([None, True, False]))
def test_ticks_are_few_round_and_in_range(values: list[float], log: bool | None) -> None:
    scale = Scale.fit(values, 0.0, 1.0, log=log)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(scale.low * (1 - 1e-9) - 1e-9 <= tick <= scale.high * (1 + 1e-9) for tick in ticks)


def test_ticks_by_hand() -> None:
    assert Scale(450, 11_000, 0, 1, log=True).ticks() == pytest.approx([500, 1000, 2000, 5000, 10_000])
    assert Scale(0, 22, 0, 1).ticks() == [0, 5, 10, 15, 20]


def test_a_share_is_drawn_by_its_errors() -> None:
    axis = QualityAxis(Metric("accuracy"), [0.5, 0.75, 0.98, 0.99, 1.0], 1000, 300.0, 0.0)
    assert axis(0.99) - axis(0.98) == pytest.approx(axis(0.75) - axis(0.5))
    assert axis(0.5) > axis(0.98) > axis(1.0) >= 0.0
    assert "99\u00a0%" in [text for _, text in axis.ticks()]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), st.integers(1, 10_000))
def test_no_share_is_written_below_nothing_or_above_all(shares: list[float], n: int) -> None:
    for _, text in QualityAxis(Metric("accuracy"), shares, n, 300.0, 0.0).ticks():
        assert 0.0 <= float(text.split("\u00a0")[0]) <= 100.0


def test_a_loss_is_better_further_up() -> None:
    axis = QualityAxis(Metric("loss", higher_is_better=False), [0.1, 2.0], 10, 300.0, 0.0)
    assert axis(0.1) < axis(2.0)


@given(st.text(), st.text())
def test_any_text_gives_an_element_that_parses(attribute: str, content: str) -> None:
    element = ElementTree.fromstring(tag("text", content, class_=attribute))
    assert not list(element)
