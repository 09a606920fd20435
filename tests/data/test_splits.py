from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sartor.core.errors import DataError
from sartor.data.source import Indices
from sartor.data.splits import carve, complete

LABELS = arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 6))
FRACTIONS = st.floats(0.01, 0.9)
SEEDS = st.integers(0, 10**6)


@given(LABELS, FRACTIONS, SEEDS)
def test_carve_is_a_stratified_partition_that_repeats(labels: Indices, fraction: float, seed: int) -> None:
    rest, part = carve(labels, fraction, seed)
    assert sorted([*rest, *part]) == list(range(len(labels)))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(part) > 0).all()
    for label in np.unique(labels):
        count, taken = (labels == label).sum(), (labels[part] == label).sum()
        assert taken == 0 if count < 2 else 1 <= taken < count
        if count >= 2:
            assert abs(taken - np.clip(fraction * count, 1, count - 1)) < 1
    again = carve(labels, fraction, seed)
    assert (again[0] == rest).all()
    assert (again[1] == part).all()


@given(LABELS, FRACTIONS, SEEDS, st.integers(2, 5))
def test_a_class_keeps_what_later_cuts_need(labels: Indices, fraction: float, seed: int, least: int) -> None:
    rest, part = carve(labels, fraction, seed, least=least)
    for label in np.unique(labels[part]):
        assert (labels[rest] == label).sum() >= least - 1


def test_carve_is_near_the_fraction_over_all() -> None:
    labels = np.repeat(np.arange(100), 7)
    assert len(carve(labels, 0.2, 0)[1]) == 140
    assert len(carve(np.repeat([0, 1], [9990, 10]), 0.1, 0)[1]) == 1000


def test_the_seed_matters() -> None:
    labels = np.repeat([0, 1], 50)
    assert not np.array_equal(carve(labels, 0.2, 0)[1], carve(labels, 0.2, 1)[1])


def test_every_example_is_drawn_as_often() -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    drawn = sum(np.isin(np.arange(60), carve(labels, 0.3, seed)[1]) for seed in range(600))
    assert np.abs(drawn / 600 - 0.3).max() < 0.09  # 4.8 standard deviations


@given(LABELS, st.data(), FRACTIONS, SEEDS)
def test_groups_never_straddle(labels: Indices, data: st.DataObject, fraction: float, seed: int) -> None:
    groups = data.draw(arrays(np.int64, len(labels), elements=st.integers(0, 20)))
    rest, part = carve(labels, fraction, seed, groups)
    assert sorted([*rest, *part]) == list(range(len(labels)))
    assert not set(groups[rest]) & set(groups[part])
    for label in np.unique(labels):
        assert label in labels[rest], "a class left train altogether"
    assert (carve(labels, fraction, seed, groups)[1] == part).all()


def test_groups_come_near_the_fraction() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), rng.integers(1, 9, 300))
    labels = rng.integers(0, 4, 300)[groups]  # a patient has one label
    part = carve(labels, 0.2, 0, groups)[1]
    counts = np.bincount(labels[part]) / np.bincount(labels)
    assert np.abs(counts - 0.2).max() < 0.03


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 7.0])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        carve(np.zeros(9, np.int64), fraction, 0)


def everything(labels: Indices) -> dict[str, Indices]:
    return {"train": np.arange(len(labels))}


def test_shares_of_what_is_cut() -> None:
    labels = np.repeat(np.arange(10), 1000)
    splits = complete(labels, everything(labels), None, 0, "set")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 7200, "valid": 800, "test": 2000}
    labels = np.repeat(np.arange(10), 20_000)
    splits = complete(labels, everything(labels), None, 0, "set")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 185_000, "valid": 5000, "test": 10_000}


@given(st.lists(st.integers(3, 12), min_size=2, max_size=8), SEEDS)
def test_three_images_of_each_class_are_enough(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    splits = complete(labels, everything(labels), None, seed, "set")
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(labels)))
    for rows in splits.values():
        assert set(labels[rows]) == set(range(len(counts)))


def test_a_class_of_two_stays_whole() -> None:
    """Of its two images one for test would leave none for valid."""
    labels = np.repeat([0, 1, 2], [20, 20, 2])
    assert 2 not in labels[complete(labels, everything(labels), None, 0, "set")["test"]]


def test_given_splits_are_honoured() -> None:
    labels = np.tile([0, 1], 50)
    given_test = np.arange(60, 100)
    splits = complete(labels, {"train": np.arange(60), "test": given_test}, None, 0, "set")
    assert (splits["test"] == given_test).all()
    assert splits["valid"].max() < 60
    whole = {"train": np.arange(50), "valid": np.arange(50, 70), "test": np.arange(70, 100)}
    assert complete(labels, whole, None, 0, "set") == whole


def test_one_split_of_any_name_is_the_whole() -> None:
    labels = np.tile([0, 1], 50)
    for name in ("train", "valid", "test"):
        assert len(complete(labels, {name: np.arange(100)}, None, 0, "set")["train"]) == 72


def test_what_cannot_be_split_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="too few images") as caught:
        complete(np.arange(10), everything(np.arange(10)), None, 0, "set")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="none to train on"):
        complete(np.array([0, 1]), {"valid": np.array([0]), "test": np.array([1])}, None, 0, "set")
    labels = np.tile([0, 1], 20)
    with pytest.raises(DataError, match="too few groups"):
        complete(labels, everything(labels), np.zeros(40, np.int64), 0, "set")
