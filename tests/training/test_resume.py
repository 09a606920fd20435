"""A run that was stopped, anywhere and in any way, ends with the same bytes as one that was not."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import RECIPE, SPEC, Images, file_names, tiny_plan, weights_hash

from sartor.core.errors import TrainingError
from sartor.core.protocols import Interrupted
from sartor.training import checkpoint, loop
from sartor.training.checkpoint import read_facts
from sartor.training.loop import run
from sartor.training.plan import Hooks, Numerics

KINDS = {
    "sgd": [],
    "adamw": ["optimiser.kind=adamw", "lr=0.01", "accumulate=2", "clip=0.5"],
    "lamb": ["optimiser.kind=lamb", "lr=0.02", "repeats=3", "loss.kind=bce", "lr_per=epoch"],
    "rmsprop": ["optimiser.kind=rmsprop-tf", "lr=0.001", "augment.rand=rand-m7-mstd0.5-inc1", "augment.rotate=10"],
}


class Stop(Exception):
    """Ends a training from outside, as a crash would."""


def stopping_plan(recipe, stop_before):
    """A plan that breaks off in the middle of a step."""
    plan = tiny_plan(recipe)

    def crash(modules, context):
        if context.step == stop_before:
            raise Stop

    return replace(plan, hooks=Hooks(transform=plan.hooks.transform, after_backward=crash))


@lru_cache
def undisturbed(kind):
    trained = run(tiny_plan(RECIPE.replace_from(KINDS[kind])))
    return weights_hash(trained.network), losses(trained)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 14), min_size=1, max_size=2, unique=True).map(sorted))
def test_crashes_change_no_byte(tmp_path_factory, kind, stops):
    recipe = RECIPE.replace_from(KINDS[kind])
    folder = tmp_path_factory.mktemp("run")
    for stop in stops:
        with pytest.raises(Stop):
            run(stopping_plan(recipe, stop), folder, save_every=0.0)
        facts = read_facts(folder)
        assert (facts["step"] if facts else 0) == stop
    resumed = run(tiny_plan(recipe), folder, save_every=0.0)
    assert (weights_hash(resumed.network), losses(resumed)) == undisturbed(kind)
    assert file_names(folder) == ["checkpoint.safetensors", "history.jsonl"]


def losses(trained):
    return [(line["step"], line["loss"], line["lr"]) for line in trained.history]


@pytest.mark.parametrize("numerics", [Numerics("bfloat16", True), Numerics("float32", True)])
def test_formats_resume_exactly(numerics, tmp_path):
    whole = run(tiny_plan(numerics=numerics))
    plan = tiny_plan(numerics=numerics)
    with pytest.raises(Stop):
        run(replace(plan, hooks=replace(plan.hooks, after_step=_crash_at(6))), tmp_path, save_every=0.0)
    assert weights_hash(run(tiny_plan(numerics=numerics), tmp_path).network) == weights_hash(whole.network)


def _crash_at(step):
    def crash(modules, context):
        if context.step == step:
            raise Stop

    return crash


def test_losses_of_a_short_run_return_after_a_resume(tmp_path):
    every_step = replace(tiny_plan(), log_every=1)
    whole = run(every_step)
    plan = replace(tiny_plan(), log_every=1)
    with pytest.raises(Stop):
        run(replace(plan, hooks=replace(plan.hooks, configure=_crash_at(9))), tmp_path, save_every=0.0)
    resumed = run(replace(tiny_plan(), log_every=1), tmp_path)
    assert losses(resumed) == losses(whole)
    assert len(whole.history) == 15
    assert [json.loads(line)["step"] for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [
        *range(1, 16)
    ]


def test_history_after_the_checkpoint_and_torn_lines_are_dropped(tmp_path):
    plan = replace(tiny_plan(), log_every=1)
    with pytest.raises(Stop):
        run(replace(plan, hooks=replace(plan.hooks, configure=_crash_at(5))), tmp_path, save_every=0.0)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 9.0}\n{"step": 7, "lo')
    resumed = run(replace(tiny_plan(), log_every=1), tmp_path)
    assert losses(resumed) == losses(run(replace(tiny_plan(), log_every=1)))


def test_deadline_and_interruption_stop_in_good_order(tmp_path, monkeypatch):
    whole = weights_hash(run(tiny_plan()).network)
    late = run(tiny_plan(), tmp_path, deadline=time.time() - 1)
    assert (late.finished, late.steps) == (False, 0)

    monkeypatch.setattr(loop, "_REPORT", 0.0)
    calls = []

    def progress(share, text):
        calls.append(share)
        if len(calls) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(tiny_plan(), tmp_path, progress=progress)
    assert read_facts(tmp_path)["step"] == 4
    done = run(tiny_plan(), tmp_path, progress=lambda share, text: calls.append(share))
    assert done.finished
    assert calls == sorted(calls)
    assert calls[-1] == 1.0
    assert weights_hash(done.network) == whole


def test_a_finished_run_is_only_loaded(tmp_path):
    first = run(tiny_plan(), tmp_path)
    again = run(tiny_plan(), tmp_path)
    assert again.steps == first.steps == 15
    assert weights_hash(again.network) == weights_hash(first.network)
    assert losses(again) == losses(first)


@pytest.mark.parametrize("change", ["seed", "data", "length", "recipe", "spec", "numerics"])
def test_a_checkpoint_of_another_plan_is_refused(change, tmp_path):
    run(tiny_plan(RECIPE.replace(epochs=1)), tmp_path)
    changed = {
        "seed": lambda: tiny_plan(RECIPE.replace(epochs=1), seed=1),
        "data": lambda: tiny_plan(RECIPE.replace(epochs=1), identity={"task": "other"}),
        "length": lambda: tiny_plan(RECIPE.replace(epochs=2)),
        "recipe": lambda: tiny_plan(RECIPE.replace(epochs=1, weight_decay=0.1)),
        "spec": lambda: tiny_plan(RECIPE.replace(epochs=1), SPEC.replace(act="silu")),
        "numerics": lambda: tiny_plan(RECIPE.replace(epochs=1), numerics=Numerics("bfloat16")),
    }[change]()
    with pytest.raises(TrainingError, match="another plan") as error:
        run(changed, tmp_path)
    assert "\n" not in str(error.value)


def test_a_broken_checkpoint_is_one_line(tmp_path):
    run(tiny_plan(RECIPE.replace(epochs=1)), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TrainingError, match="delete it to start anew") as error:
        run(tiny_plan(RECIPE.replace(epochs=1)), tmp_path)
    assert "\n" not in str(error.value)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    plan = tiny_plan()
    with pytest.raises(Stop):
        run(replace(plan, hooks=replace(plan.hooks, configure=_crash_at(4))), tmp_path, save_every=0.0)

    def full(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", full)
        with pytest.raises(TrainingError, match=r"MB \(No space left on device\); make room"):
            run(tiny_plan(), tmp_path, save_every=0.0)
    assert read_facts(tmp_path)["step"] == 4
    assert weights_hash(run(tiny_plan(), tmp_path).network) == weights_hash(run(tiny_plan()).network)


class TestContinuing:
    """Rungs of successive halving: the learning rate falls in the last one only."""

    plateau = RECIPE.rung(3, last=False)

    def test_rungs_equal_one_training(self, tmp_path):
        whole = run(tiny_plan(RECIPE.replace(epochs=4.0)))
        run(tiny_plan(RECIPE.rung(0.6, last=False)), tmp_path / "0")
        run(tiny_plan(RECIPE.rung(1.4, last=False)), tmp_path / "1", start=tmp_path / "0")
        ended = run(tiny_plan(RECIPE.rung(4.0, last=True)), tmp_path / "2", start=tmp_path / "1")
        assert ended.steps == whole.steps == 20
        assert weights_hash(ended.network) == weights_hash(whole.network)

    def test_a_killed_rung_resumes_from_its_own_checkpoint(self, tmp_path):
        whole = run(tiny_plan(RECIPE))
        run(tiny_plan(self.plateau.replace(epochs=1)), tmp_path / "0")
        plan = tiny_plan(RECIPE)
        with pytest.raises(Stop):
            run(replace(plan, hooks=replace(plan.hooks, configure=_crash_at(8))), tmp_path / "1", start=tmp_path / "0")
        ended = run(tiny_plan(RECIPE), tmp_path / "1", start=tmp_path / "0")
        assert weights_hash(ended.network) == weights_hash(whole.network)

    def test_what_cannot_be_continued_is_refused(self, tmp_path):
        with pytest.raises(TrainingError, match="holds no checkpoint"):
            run(tiny_plan(), start=tmp_path)
        run(tiny_plan(self.plateau.replace(epochs=2)), tmp_path / "0")
        with pytest.raises(TrainingError, match="beyond this end"):
            run(tiny_plan(self.plateau.replace(epochs=1)), tmp_path / "1", start=tmp_path / "0")
        with pytest.raises(TrainingError, match="another network, recipe"):
            run(tiny_plan(RECIPE, seed=3), tmp_path / "1", start=tmp_path / "0")


KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from dataclasses import replace
from sartor.core import files
from sartor.training.checkpoint import read_facts
from sartor.training.loop import run
from tiny_training import RECIPE, tiny_plan, weights_hash
files._sync = lambda path: None

def train():
    plan = tiny_plan(RECIPE.replace(epochs=12))
    return run(plan, Path(sys.argv[1]), save_every=0.0).network

folder = Path(sys.argv[1])
for number in range(5):
    child = os.fork()
    if child == 0:
        train()
        os._exit(0)
    while (read_facts(folder) or {"step": 0})["step"] <= 11 * number:
        time.sleep(0.02)
    time.sleep(0.0017 * number)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
print(weights_hash(train()))
"""


def test_kill_minus_nine(tmp_path):
    """Killed at five moments of the run, a checkpoint being written after every step."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == weights_hash(run(tiny_plan(RECIPE.replace(epochs=12))).network)
    assert file_names(tmp_path) == ["checkpoint.safetensors", "history.jsonl"]


def test_order_of_arrival_does_not_matter_with_workers():
    plan = tiny_plan()
    threaded = replace(plan, streams={"train": replace(plan.streams["train"], workers=3)})
    assert weights_hash(run(threaded).network) == weights_hash(run(tiny_plan()).network)


def test_two_folders_are_not_mixed_up(tmp_path):
    run(tiny_plan(RECIPE.replace(epochs=1), examples=Images(24)), tmp_path)
    with pytest.raises(TrainingError, match="another plan"):
        run(tiny_plan(RECIPE.replace(epochs=1), examples=Images(32)), tmp_path)
