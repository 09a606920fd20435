from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.tasks import metrics

sklearn = pytest.importorskip("sklearn.metrics")


def drawn(seed: int, n: int = 60, classes: int = 7) -> tuple[metrics.Labels, metrics.Labels, metrics.Probabilities]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), n)
    return rng.integers(0, classes, n), probabilities.argmax(1), probabilities


@given(st.integers(0, 10**6))
def test_against_scikit_learn(seed: int) -> None:
    labels, predicted, probabilities = drawn(seed)
    names = list(range(7))
    confusion = metrics.confusion_matrix(labels, predicted, 7)
    assert (confusion == sklearn.confusion_matrix(labels, predicted, labels=names)).all()
    assert metrics.accuracy(labels, predicted) == sklearn.accuracy_score(labels, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is predicted but not there
        assert metrics.balanced_accuracy(confusion) == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
    assert metrics.log_loss(probabilities, labels) == pytest.approx(
        sklearn.log_loss(labels, probabilities, labels=names)
    )
    for k in (1, 3, 5):
        theirs = sklearn.top_k_accuracy_score(labels, probabilities, k=k, labels=names)
        assert metrics.top_accuracy(probabilities, labels, k) == pytest.approx(theirs)


def test_class_accuracies_of_an_absent_class() -> None:
    confusion = metrics.confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    assert metrics.class_accuracies(confusion).tolist()[::2] == [0.5, 1.0]
    assert np.isnan(metrics.class_accuracies(confusion)[1])
    assert metrics.balanced_accuracy(confusion) == 0.75


def test_equals_are_ranked_by_class() -> None:
    level = np.full((3, 3), 1 / 3)
    assert metrics.top_accuracy(level, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert metrics.top_accuracy(level, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_a_certain_mistake_has_a_finite_loss() -> None:
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(np.finfo(float).eps))


def test_calibration_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    assert metrics.expected_calibration_error(confidence, right, 10) == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.05)
    bins = metrics.reliability(confidence, right, 10)
    assert [(b["n"], b["accuracy"]) for b in bins] == [(2, 0.5), (4, 0.75)]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_is_a_share(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    assert sum(b["n"] for b in metrics.reliability(confidence, right)) == len(pairs)
    assert 0 <= metrics.expected_calibration_error(confidence, right) <= 1
    assert metrics.expected_calibration_error(right.astype(float), right) == 0


@given(st.integers(0, 10**6))
def test_answers_among_some_classes(seed: int) -> None:
    _, _, probabilities = drawn(seed, classes=20)
    chosen = np.array([17, 3, 8, 11])
    labels = np.random.default_rng(seed).choice(chosen, len(probabilities))
    among = metrics.restricted(probabilities, chosen)
    assert among.sum(1) == pytest.approx(1)
    share = metrics.restricted_accuracy(probabilities, labels, chosen)
    assert share == (chosen[among.argmax(1)] == labels).mean()
    assert share >= metrics.accuracy(labels, probabilities.argmax(1)), "fewer ways to be wrong"
    logits = np.log(probabilities)
    assert metrics.restricted_accuracy(logits, labels, chosen) == share
    softmax = np.exp(logits[:, chosen]) / np.exp(logits[:, chosen]).sum(1, keepdims=True)
    assert among == pytest.approx(softmax)
