import dataclasses

import pytest

from sartor.core.errors import DataError
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.resnet import Basic
from sartor.reproduce import trials
from sartor.reproduce.pictures import learning_curves
from sartor.reproduce.reproduction import Conditions
from sartor.reproduce.trials import Trials, run_trials, small


def net(width):
    return AnyNet(Stem(4), (Stage(Basic(), 1, width, 2),), classes=10, size=(16, 16))


SPECS = {"Narrow (4)": net(4), "wide": net(8)}
RECIPE = small("resnext-cifar", 2.0, 32)
KEPT = ("variant", "seed", "error", "curve", "losses")


def kept(found):
    return [{key: record[key] for key in KEPT} for records in found.records.values() for record in records]


def two_seeds(folder, **options):
    return Conditions(folder, seeds=2, **options)


@pytest.fixture
def small_data(monkeypatch):
    """Two seeds of the quick runs' data, in full."""
    monkeypatch.setattr(Conditions, "data", property(lambda self: trials.CifarSubset(16, 8)))


@pytest.mark.usefixtures("small_data")
def test_every_variant_is_trained_with_every_seed_and_kept(tmp_path, monkeypatch):
    said = []
    found = run_trials(SPECS, RECIPE, two_seeds(tmp_path, say=said.append))
    assert [(r["variant"], r["seed"]) for r in kept(found)] == [
        ("Narrow (4)", 0), ("Narrow (4)", 1), ("wide", 0), ("wide", 1),
    ]  # fmt: skip
    assert all(len(r["curve"]) == len(r["losses"]) == 2 for r in kept(found))
    assert len({*map(str, kept(found))}) == 4
    assert len(said) == len(list((tmp_path / "trials").glob("*.json"))) == 4
    monkeypatch.setattr(trials, "train_and_test", None)  # would fail if it were called
    assert kept(run_trials(SPECS, RECIPE, two_seeds(tmp_path))) == kept(found)


@pytest.mark.usefixtures("small_data")
def test_interrupted_trials_go_on_and_changed_ones_begin_anew(tmp_path):
    found = run_trials(SPECS, RECIPE, two_seeds(tmp_path))
    lost, *rest = sorted((tmp_path / "trials").glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in rest}
    lost.unlink()
    assert kept(run_trials(SPECS, RECIPE, two_seeds(tmp_path))) == kept(found)
    assert {path: path.stat().st_mtime_ns for path in rest} == before
    run_trials(SPECS, RECIPE.replace(lr=0.05), two_seeds(tmp_path))
    assert len(list((tmp_path / "trials").glob("*.json"))) == 8


@pytest.mark.usefixtures("small_data")
def test_results_do_not_depend_on_the_workers(tmp_path):
    alone = run_trials(SPECS, RECIPE, Conditions(tmp_path / "one", seeds=1))
    several = run_trials(SPECS, RECIPE, Conditions(tmp_path / "two", seeds=1, workers=2))
    assert kept(alone) == kept(several)


@pytest.mark.usefixtures("small_data")
def test_what_diverges_is_recorded(tmp_path):
    found = run_trials(SPECS, RECIPE.replace(lr=1e30), Conditions(tmp_path, seeds=1))
    assert found.errors("wide") == []
    assert found.losses("wide") == [float("inf")]
    assert found.seconds("wide") is None
    assert "loss is" in found.records["wide"][0]["diverged"]
    row = found.rows()[0]
    assert (row["test error %"], row["last epoch's loss"]) == ("1 of 1 diverged", "–")
    assert row["parameters"] == f"{net(4).tally().params:,}"
    assert learning_curves(found).count("<svg") == 1


def test_rows_give_mean_spread_and_interval():
    records = [
        {"variant": "wide", "seed": seed, "error": error, "losses": [2.0, loss], "curve": [0.9, error],
         "seconds": [1.0, 3.0]}
        for seed, error, loss in ((1, 0.50, 1.5), (0, 0.52, 1.7))
    ]  # fmt: skip
    found = Trials({"wide": net(8)}, records)
    assert found.errors("wide") == [0.52, 0.50]
    (row,) = found.rows()
    assert row["test error %"] == "51.0 ± 1.4 [38.3, 63.7]"
    assert row["seconds per epoch"] == "2.0"
    assert found.to_json()["errors"]["wide"]["n"] == 2


def test_missing_data_are_said_before_workers_start(tmp_path, monkeypatch):
    trials.opened.cache_clear()
    monkeypatch.delenv("SARTOR_DATA")
    with pytest.raises(DataError, match="SARTOR_DATA"):
        run_trials(SPECS, RECIPE, Conditions(tmp_path, workers=2))


def test_small_recipes_keep_the_papers_decay_and_border():
    wide = small("wrn-cifar", 6)
    assert (wide.weight_decay, wide.decay_all, wide.augment.border, wide.augment.pad) == (5e-4, True, "reflect", 2)
    assert wide.full_lr() == 0.1
    assert dataclasses.replace(wide, batch=32).full_lr() == 0.05
