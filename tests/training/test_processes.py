"""Two processes under torchrun train as one process does with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import RECIPE, TinyTask, tiny_network
from torch import nn

from sartor.training.classification import train
from sartor.training.loop import run
from sartor.training.optimisers import SGD
from sartor.training.orders import Shuffled
from sartor.training.plan import Group, Keep, Member, Plan, Stream, Turn, Until
from sartor.training.schedules import Constant, Scaled

torchrun = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")


class Points:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return {"x": self.x[indices], "y": self.x[indices] @ torch.tensor([1.0, -2.0, 0.5, 3.0])}


def squared(modules, batch, context):
    return {"squared": ((modules["model"](batch["x"])[:, 0] - batch["y"]) ** 2).mean()}


def plan(steps=12):
    """A net without batch norm, whose statistics are each process's own."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    average = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return Plan(
        modules={"model": Member(network), "average": Member(average, "follow", "model", 0.9)},
        streams={"train": Stream(Points(), Shuffled(), 8)},
        turns=[Turn(squared, lambda m: [Group(list(m["model"].parameters()))], SGD(), clip=1.0, accumulate=2)],
        schedules={"lr": Scaled(Constant(), 0.05)},
        until=Until(steps=steps),
        keep=Keep("averaged"),
        log_every=1,
    )


def main(folder):
    torch.set_num_threads(1)
    run(plan(6), folder / "first", deadline=None)
    trained = run(plan(), folder / "second", start=folder / "first")
    rank = int(os.environ["RANK"])
    lines = [[line["step"], line["loss"]] for line in trained.history]
    weights = [p.tolist() for p in trained.network.parameters()]
    classifier = train(tiny_network(), TinyTask(), RECIPE, folder=folder / "classifier")
    same = [p.tolist() for p in classifier.network.parameters()]  # running statistics are each process's own
    (folder / f"{rank}.json").write_text(json.dumps({"lines": lines, "weights": weights, "classifier": same}))


@torchrun
def test_two_processes_equal_one(tmp_path):
    environment = {
        **os.environ,
        "SARTOR_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        __file__,
        str(tmp_path),
    ]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    whole = run(plan())
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank in (0, 1):
        assert [step for step, _ in told[rank]["lines"]] == list(range(1, 13))
        assert [loss for _, loss in told[rank]["lines"]] == pytest.approx(
            [line["loss"] for line in whole.history], rel=1e-5
        )
        for mine, expected in zip(told[rank]["weights"], whole.network.parameters(), strict=True):
            torch.testing.assert_close(torch.tensor(mine), expected.detach(), rtol=1e-5, atol=1e-6)
    assert told[0]["classifier"] == told[1]["classifier"]
    assert (tmp_path / "second" / "checkpoint.safetensors").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
