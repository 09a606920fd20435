"""Decisions from measured speed: made once, kept, and without effect on random numbers."""

import pytest
import torch
from tiny_training import PREPROCESS, RECIPE, SPEC

from sartor.training import pace
from sartor.training.plan import Numerics


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path))
    monkeypatch.setattr(pace, "_SECONDS", 0.0)
    return tmp_path


def test_pace_is_measured_once_and_kept(own_cache, monkeypatch):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = pace.pace(RECIPE, SPEC, PREPROCESS, Numerics())
    assert first > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert len(list((own_cache / "pace").iterdir())) == 1
    monkeypatch.setattr(pace, "_measured", None)
    assert pace.pace(RECIPE, SPEC, PREPROCESS, Numerics()) == first
    assert pace.pace(RECIPE.replace(epochs=50), SPEC, PREPROCESS, Numerics()) == first
    with pytest.raises(TypeError):
        pace.pace(RECIPE, SPEC, PREPROCESS, Numerics("bfloat16"))


def test_large_batches_are_timed_in_part(monkeypatch):
    batches = []
    monkeypatch.setattr(pace, "_PROBE_MACS", 8 * SPEC.tally((8, 8)).macs)
    original = pace._Noise
    monkeypatch.setattr(pace, "_Noise", lambda p, classes, count: batches.append(count) or original(p, classes, count))
    assert pace.pace(RECIPE.replace(batch=64), SPEC, PREPROCESS, Numerics()) > 0
    assert set(batches) == {8}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1.0, 0.8, 0.75, 0.7], Numerics("float32", True)),  # 14 % is not worth half the digits
        ([1.0, 0.8, 0.75, 0.6], Numerics("bfloat16", True)),
        ([0.7, 0.8, 0.5, 0.6], Numerics("bfloat16", False)),
        ([0.5, 0.8, 0.9, 0.6], Numerics("float32", False)),
    ],
)
def test_float32_unless_another_format_gains(times, expected, monkeypatch):
    monkeypatch.setattr(pace, "_measured", lambda *args: times)
    assert pace.choose_numerics(RECIPE, SPEC, PREPROCESS) == expected
    monkeypatch.setattr(pace, "_measured", lambda *args: times[::-1])
    assert pace.choose_numerics(RECIPE, SPEC, PREPROCESS) == expected


def test_a_recipe_can_fix_the_format(monkeypatch):
    monkeypatch.setattr(pace, "_measured", lambda *args: [2.0, 1.0])
    assert pace.choose_numerics(RECIPE.replace(precision="bfloat16"), SPEC, PREPROCESS) == Numerics("bfloat16", True)
    assert pace.choose_numerics(RECIPE.replace(precision="float32"), SPEC, PREPROCESS) == Numerics("float32", True)


def test_formats_are_really_timed():
    assert pace.choose_numerics(RECIPE, SPEC, PREPROCESS).dtype in ("float32", "bfloat16")
