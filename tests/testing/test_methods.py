"""Our methods obey the laws of methods, and the suite notices those that do not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from sartor.core.budget import Budget
from sartor.core.cost import Amount, Cost
from sartor.models.network import spec_of
from sartor.search.halving import SuccessiveHalving
from sartor.search.sharing import TimeShare
from sartor.search.train import Train
from sartor.tasks.image_classification import ImageClassification
from sartor.testing.methods import MethodConformance
from sartor.training.quick import quick


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARTOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def opened(cache):
    OPENED.append(ImageClassification.open("digits"))


OPENED: list[ImageClassification] = []


class OnDigits(MethodConformance):
    def task(self):
        return OPENED[-1]

    def budget(self):
        return Budget.parse("params<20k")


class TestTrain(OnDigits):
    def method(self):
        spec = spec_of("resnet20_cifar", classes=10, channels=1, size=(8, 8))
        return Train(replace(spec, stages=spec.stages[:1]), quick(1437, 8).replace(epochs=0.2))


class TestSuccessiveHalving(OnDigits):
    def method(self):
        return SuccessiveHalving(
            ("resnet", "regnetx"),
            quick(1437, 8, flip=True),
            TimeShare.of(60.0, 2),
            {"resnet": 1e9, "regnetx": 1e9},
            True,
        )

    def outcome(self, proposal, task):
        done = super().outcome(proposal, task)
        paces = {
            name: Amount(seconds, "s", "measured") for name, seconds in (("step_seconds", 0.01), ("train_seconds", 5.0))
        }
        return done.having(cost=done.cost | Cost(paces))


class Endless:
    """Proposes something new whenever it is asked, whatever was seen."""

    name, numbers = "endless", itertools.count()

    def applies(self, task, parents):
        return None

    def propose(self, task, budget, seen, seed):
        (proposal,) = TestTrain().method().propose(task, budget, [], seed)
        return [replace(proposal, method=self.name, rung=next(self.numbers))]


class TestEndlessIsNoticed(OnDigits):
    def method(self):
        return Endless()

    @pytest.mark.parametrize(
        "law",
        [
            "test_proposals_are_a_function_of_the_arguments",
            "test_waves_end_and_are_in_order",
            "test_failures_do_not_stop_it",
        ],
    )
    def test_laws_are_broken(self, law):
        with pytest.raises(AssertionError):
            getattr(MethodConformance, law)(self)

    test_proposals_are_a_function_of_the_arguments = None
    test_waves_end_and_are_in_order = None
    test_failures_do_not_stop_it = None
    test_evaluation_leaves_an_artifact_that_answers = None
    test_it_can_be_stopped_in_time = None
