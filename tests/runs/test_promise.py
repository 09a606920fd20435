"""What is returned is inside the budget when a fresh process measures it again, whatever the budget."""

import random
from functools import partial

import pytest

import sartor
from sartor.core.budget import Budget
from sartor.core.errors import ImpossibleBudget
from sartor.cost.meters import latency, peak_memory, storage
from sartor.runtime.classifier import ImageClassifier
from sartor.tasks.image_classification import ImageClassification

LIMITS = {  # from what nothing can meet to what everything does
    "params": (10, 1e5, "{:.0f}"),
    "macs": (1e3, 1e7, "{:.0f}"),
    "latency": (5, 5000, "{:.1f}us"),
    "memory": (1, 500, "{:.1f}MB"),
    "storage": (5, 2000, "{:.1f}kB"),
}


def drawn_budget(rng):
    fields = rng.sample(list(LIMITS), rng.choice([1, 1, 2, 3]))
    bounds = []
    for field in fields:
        low, high, form = LIMITS[field]
        bounds.append(f"{field}<{form.format(low * (high / low) ** rng.random())}")
    return Budget.parse(", ".join(bounds))


def measured_again(folder, budget):
    """The cost of an exported model, by fresh processes."""
    opener = partial(ImageClassifier.open, folder)
    raw = ImageClassification.open("digits").serving(64, 2)
    cost = ImageClassifier.open(folder).counted()
    for reading in (latency([opener], raw)[0], peak_memory(opener, raw), storage(folder, opener().files)):
        cost = cost | reading.cost
    return cost


def check_promise(budget, folder):
    """Fit digits, and measure what comes; returns the one line that says that nothing can, if that is the answer."""
    try:
        result = sartor.fit("digits", budget=budget, time="20s", out=folder)
    except ImpossibleBudget as error:
        return str(error)
    cost = measured_again(result.best().folder, budget)
    for bound in budget.bounds:
        amount = cost.amounts[str(bound.quantity)]
        assert bound.holds(amount.value), f"{bound}: {amount.value} {amount.unit}"
    return ""


def test_the_promise_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    budget = Budget.parse("params<2k, macs<100k, latency<5ms, memory<2GB, storage<1MB")
    assert check_promise(budget, tmp_path / "run") == ""


@pytest.mark.slow
def test_an_impossible_latency_is_answered_by_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    assert "nearest" in check_promise(Budget.parse("latency<1us"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(20))
def test_the_promise_is_kept_for_random_budgets(number, tmp_path):
    impossible = check_promise(drawn_budget(random.Random(number)), tmp_path / "run")
    assert not impossible or "nearest" in impossible
    assert "\n" not in impossible
