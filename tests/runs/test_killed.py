"""A process that is killed at any moment, then the same command: what was found and its weights are as undisturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from sartor.core.files import sha256_file
from sartor.runs.run import Run

COMMANDS = {
    "fit": ("--budget", "params<4k", "--time", "120s"),
    "train": ("--epochs", "60", "--set", "batch=16"),
}


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory):
    """So few that all trainings end before their time: what a deadline cuts off is never the same twice."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for side in (0, 1):
        (folder / f"side{side}").mkdir()
        for number in range(24):
            pixels = rng.integers(0, 120, (8, 8))
            pixels[:, 4 * side : 4 * side + 4] += 80
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"side{side}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all runs: decisions that follow from timings are the same, as on a user's machine."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def start(few_pictures, cache):
    """Starts a command in a process of its own."""

    def start(command, out):
        before = ["resnet20_cifar"] if command == "train" else []
        arguments = [command, *before, str(few_pictures), *COMMANDS[command], "--out", str(out)]
        code = (  # what runs the tests may have told its children to ignore interrupts
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from sartor.cli.app import main; main(sys.argv[1:])"
        )
        environment = {**os.environ, "SARTOR_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    return start


@pytest.fixture(scope="module", params=COMMANDS)
def undisturbed(request, start, tmp_path_factory):
    """The command, how long it took, and what it left when nothing happened to it."""
    out = tmp_path_factory.mktemp("runs") / request.param
    begun = time.monotonic()
    finish(start(request.param, out))
    seconds, left = time.monotonic() - begun, contents(out)
    assert not any(why for _, _, why in left["candidates"].values())
    return request.param, seconds, left


def finish(process):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()


def contents(out):
    """The candidates, the state each ended in, the hashes of all weights, and which files there are."""
    with Run(out) as run:
        candidates = {c.id: (c.state, c.proposal.recipe.get("phase"), c.why) for c in run.ledger.candidates()}
        winner = run.ledger.fact("winner")["id"]
    weights = {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("model.safetensors"))}
    return {"candidates": candidates, "winner": winner, "weights": weights, "leftovers": leftovers(out)}


def leftovers(out):
    return [str(p.relative_to(out)) for p in out.rglob(".*")]


def when_it_says(process, text):
    """Wait until a line of its progress has the text, and a little longer."""
    assert any(text in line.decode() for line in process.stderr), f"it never said {text!r}"
    time.sleep(0.5)
    return process


def test_kills_in_training_and_in_export_change_nothing(start, undisturbed, tmp_path):
    command, _, expected = undisturbed
    for text in ("training", "measuring"):
        process = when_it_says(start(command, tmp_path / "run"), text)
        process.kill()
        process.communicate()
    finish(start(command, tmp_path / "run"))
    assert contents(tmp_path / "run") == expected
    assert expected["leftovers"] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_kill_at_a_random_moment_changes_nothing(start, undisturbed, tmp_path, number):
    command, seconds, expected = undisturbed
    process = start(command, tmp_path / "run")
    with suppress(subprocess.TimeoutExpired):
        process.wait(random.Random(number).uniform(0.0, 0.7 * seconds))
    process.kill()
    process.communicate()
    finish(start(command, tmp_path / "run"))
    assert contents(tmp_path / "run") == expected


def test_an_interrupt_ends_in_good_order(start, undisturbed, tmp_path):
    command, _, expected = undisturbed
    process = when_it_says(start(command, tmp_path / "run"), "training")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said.decode()
    finish(start(command, tmp_path / "run"))
    assert contents(tmp_path / "run") == expected
