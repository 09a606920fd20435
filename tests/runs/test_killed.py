"""A process that is killed at any moment, then the same command: what was found and its weights are as undisturbed."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from sartor.core.files import sha256_file
from sartor.runs.run import Run

COMMANDS = {
    "fit": ("--budget", "params<4k", "--time", "12s"),
    "train": ("--epochs", "6", "--set", "batch=16"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all runs: decisions that follow from timings are the same, as on a user's machine."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def start(pictures, cache):
    """Starts a command in a process of its own."""

    def start(command, out):
        before = ["resnet20_cifar"] if command == "train" else []
        arguments = [command, *before, str(pictures), *COMMANDS[command], "--out", str(out)]
        code = "import sys; from sartor.cli.app import main; main(sys.argv[1:])"
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
    return request.param, time.monotonic() - begun, contents(out)


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


def kill_at(process, seconds):
    """Kill after so many seconds; returns whether the process was still at work."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def check(start, undisturbed, out, moments):
    command, _, expected = undisturbed
    killed = [kill_at(start(command, out), moment) for moment in moments]
    finish(start(command, out))
    assert contents(out) == expected
    assert expected["leftovers"] == []
    return killed


def test_two_kills_change_nothing(start, undisturbed, tmp_path):
    seconds = undisturbed[1]
    killed = check(start, undisturbed, tmp_path / "run", [0.45 * seconds, 0.6 * seconds])
    assert killed[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_kill_at_a_random_moment_changes_nothing(start, undisturbed, tmp_path, number):
    check(start, undisturbed, tmp_path / "run", [random.Random(number).uniform(0.0, undisturbed[1])])


def test_an_interrupt_ends_in_good_order(start, undisturbed, tmp_path):
    command, seconds, expected = undisturbed
    process = start(command, tmp_path / "run")
    time.sleep(0.5 * seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said.decode()
    finish(start(command, tmp_path / "run"))
    assert contents(tmp_path / "run") == expected
