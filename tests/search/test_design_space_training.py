import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sartor.core.errors import SpecError, TrainingError
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.resnet import Basic
from sartor.search.design_space_sweep import read_sweep
from sartor.search.design_space_training import (
    OpenImages,
    TrainedError,
    opened,
    train_and_test,
    training_workers,
    with_settings,
)
from sartor.training.recipe import Recipe, recipe

SPEC = AnyNet(Stem(4), (Stage(Basic(), 1, 8, 2),), classes=10, channels=1, size=(8, 8))
RECIPE = Recipe(epochs=2.0, batch=64, lr=0.1, lr_batch=64)
PYCLS = sorted(Path(__file__).with_name("pycls").glob("*.yaml"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits():
    return OpenImages("digits")()


def test_training_is_judged_after_each_epoch(digits):
    found = train_and_test(SPEC, digits, RECIPE, split="valid")
    assert found["curve"][-1] == found["error"] < found["curve"][0] < 0.9
    assert found["losses"][1] < found["losses"][0]
    assert len(found["losses"]) == len(found["seconds"]) == 2
    again = train_and_test(SPEC, digits, RECIPE, split="valid")
    assert [again[key] for key in ("curve", "losses")] == [found[key] for key in ("curve", "losses")]
    assert train_and_test(SPEC, digits, RECIPE, seed=1, split="valid")["losses"] != found["losses"]


def test_a_part_of_an_epoch_counts_in_the_final_error(digits):
    found = train_and_test(SPEC, digits, RECIPE.replace(epochs=1.5), split="valid")
    assert len(found["curve"]) == 1
    assert len(found["losses"]) == 2
    assert found["error"] != found["curve"][0]


def test_averaged_weights_are_those_judged(digits):
    averaged = train_and_test(SPEC, digits, RECIPE.replace(ema=0.9), split="valid")
    plain = train_and_test(SPEC, digits, RECIPE, split="valid")
    assert averaged["losses"] == plain["losses"]
    assert averaged["curve"] != plain["curve"]


def test_the_evaluator_goes_to_workers_and_takes_settings(digits, monkeypatch):
    evaluate = pickle.loads(pickle.dumps(TrainedError(OpenImages("digits"), RECIPE, seed=3)))
    direct = train_and_test(SPEC, digits, RECIPE.replace(epochs=1.0), seed=3, split="valid")
    found = evaluate(SPEC, {"epochs": 1})
    assert (found["error"], found["losses"]) == (direct["error"], direct["losses"])
    assert evaluate(SPEC, {"epochs": 1, "seed": 4})["losses"] != found["losses"]


def test_a_diverged_training_is_a_failed_record():
    found = TrainedError(OpenImages("digits"), RECIPE)(SPEC, {"lr": 1e30})
    assert found.keys() == {"failed"}
    assert "lower the learning rate" in found["failed"]


@dataclass(frozen=True)
class Counting:
    """An opener that counts how often it is called."""

    calls: tuple[int, ...] = ()

    def __call__(self):
        CALLS.append(1)
        return "task"


CALLS: list[int] = []


def test_a_process_opens_a_task_once():
    assert opened(Counting()) == opened(Counting()) == "task"
    assert len(CALLS) == 1


@pytest.mark.parametrize("path", PYCLS, ids=lambda path: path.stem)
def test_settings_of_pycls_are_understood(path):
    sweep = read_sweep(path)
    drawn = {gene.name: gene.decode((0,)) for gene in sweep.genes if gene.name != "seed"}
    found = with_settings(recipe("regnet-population").replace(size=0), {**sweep.settings, **drawn})
    assert (found.batch, found.warmup, found.loss.smoothing, found.augment.mixup) == (1024, 5, 0.1, 0.5)
    assert found.decay_all is False
    assert found.full_lr() == found.lr == drawn.get("lr", 1.0)
    epochs = drawn.get("epochs", 50)
    alpha = 0.00025 * 1024 / epochs * 32  # pycls moves its average by this every 32 steps
    assert (1.0 - found.ema**32) == pytest.approx(alpha)


def test_settings_are_the_recipes_own_or_said_to_be_unknown():
    found = with_settings(RECIPE, {"lr": 0.4, "augment.mixup": 0.1, "batch": 32})
    assert (found.lr, found.full_lr(), found.augment.mixup, found.batch) == (0.4, 0.4, 0.1, 32)
    with pytest.raises(SpecError, match="unknown field 'weight_decai': did you mean weight_decay"):
        with_settings(RECIPE, {"weight_decai": 0.1})
    with pytest.raises(SpecError, match="lr_policy 'exp' is not read; use cos"):
        with_settings(RECIPE, {"lr_policy": "exp"})


def test_a_dead_worker_is_one_line():
    with pytest.raises(TrainingError, match="a worker died"), training_workers(2) as pool:
        pool.submit(os._exit, 1).result()


def test_one_worker_is_this_process_with_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with training_workers(1) as pool:
            assert (pool, torch.get_num_threads()) == (None, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
