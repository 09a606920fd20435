"""The loop's laws on plans made by hand: a linear model and squared errors."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sartor.core.errors import TrainingError
from sartor.training.devices import find_place
from sartor.training.loop import run
from sartor.training.optimisers import SGD, AdamW
from sartor.training.orders import Sequential, Shuffled
from sartor.training.plan import Group, Hooks, Keep, Member, Numerics, Plan, Stream, Turn, Until
from sartor.training.schedules import Constant, Scaled


class Points:
    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 4, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5, 3.0])

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return {"x": self.x[indices], "y": self.y[indices]}


def squared(modules, batch, context):
    return {"squared": ((modules["model"](batch["x"])[:, 0] - batch["y"]) ** 2).mean()}


def everything(modules):
    return [Group(list(modules["model"].parameters()))]


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def plan(**changes):
    values = {
        "modules": {"model": Member(linear())},
        "streams": {"train": Stream(Points(), Shuffled(), 8)},
        "turns": [Turn(squared, everything, SGD(0.0, False))],
        "schedules": {"lr": Scaled(Constant(), 0.05)},
        "until": Until(steps=10),
    }
    return Plan(**{**values, **changes})


def weights(trained):
    return trained.network.weight.detach()


def test_a_step_is_the_formula():
    model = linear()
    start = model.weight.detach().clone(), model.bias.detach().clone()
    examples = Points(8)
    trained = run(
        plan(
            modules={"model": Member(model)}, streams={"train": Stream(examples, Sequential(), 8)}, until=Until(steps=1)
        )
    )
    error = examples.x @ start[0][0] + start[1] - examples.y
    expected = start[0][0] - 0.05 * 2 * (error[:, None] * examples.x).mean(0)
    torch.testing.assert_close(weights(trained)[0], expected)
    assert trained.history[-1]["loss"] == pytest.approx((error**2).mean().item())


def test_it_learns():
    trained = run(plan(until=Until(epochs=60), log_every=10))
    assert trained.history[-1]["loss"] < 1e-3 * trained.history[0]["loss"]


@given(parts=st.sampled_from([2, 4, 8]))
@settings(max_examples=3, deadline=None)
def test_accumulated_parts_equal_the_whole_batch(parts):
    whole = run(plan())
    split = run(plan(turns=[Turn(squared, everything, SGD(0.0, False), accumulate=parts)]))
    torch.testing.assert_close(weights(split), weights(whole))
    assert [line["loss"] for line in split.history] == pytest.approx([line["loss"] for line in whole.history])


def test_clipping_bounds_the_gradient():
    norms = []

    def note(modules, context):
        norms.append(modules["model"].weight.detach().clone())

    run(plan(turns=[Turn(squared, everything, SGD(0.0, False), clip=0.5)], hooks=Hooks(after_step=note)))
    steps = [(b - a).norm().item() for a, b in pairwise(norms)]
    assert max(steps) <= 0.05 * 0.5 * 1.0001
    assert max(steps) > 0.05 * 0.4


def test_a_follower_is_the_moving_average():
    model, average = linear(), linear()
    seen = [model.weight.detach().clone()]
    hooks = Hooks(after_step=lambda modules, context: seen.append(modules["model"].weight.detach().clone()))
    members = {"model": Member(model), "average": Member(average, "follow", "model", 0.5)}
    trained = run(plan(modules=members, hooks=hooks, keep=Keep("averaged"), until=Until(steps=7)))
    expected = seen[0]
    for t, weight in enumerate(seen[1:]):
        expected = torch.lerp(expected, weight, 1 - min(0.5, (1 + t) / (10 + t)))
    torch.testing.assert_close(weights(trained), expected)
    assert trained.network is average


def test_batch_norm_statistics_are_followed():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

    members = {"model": Member(network()), "average": Member(network(), "follow", "model", 0.9)}
    trained = run(plan(modules=members, keep=Keep("averaged")))
    norm = trained.network[0]
    assert norm.num_batches_tracked == 10
    assert not torch.equal(norm.running_mean, torch.zeros(4))
    assert not torch.equal(norm.running_mean, members["model"].module[0].running_mean)


def test_frozen_modules_stay_and_run_in_eval_mode():
    frozen = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    before = frozen[0].weight.detach().clone()

    def loss(modules, batch, context):
        assert not modules["teacher"].training
        hidden = modules["teacher"](batch["x"])
        assert not hidden.requires_grad
        return {"loss": ((modules["model"](hidden)[:, 0] - batch["y"]) ** 2).mean()}

    run(
        plan(
            modules={"model": Member(linear()), "teacher": Member(frozen, "frozen")},
            turns=[Turn(loss, everything, SGD())],
        )
    )
    assert torch.equal(frozen[0].weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(value, tmp_path):
    def loss(modules, batch, context):
        terms = squared(modules, batch, context)
        return {"squared": terms["squared"] * (value if context.step == 4 else 1.0)}

    with pytest.raises(TrainingError, match=r"squared is (nan|inf) at step 4") as error:
        run(plan(turns=[Turn(loss, everything, SGD())]), tmp_path)
    assert "\n" not in str(error.value)


def test_two_turns_with_their_own_streams_optimisers_and_terms(tmp_path):
    """Two updates per step, as in a search that trains weights and architecture on two halves of the data."""

    def bias(modules):
        return [Group([modules["model"].bias], lr_factor=0.1)]

    def weight(modules):
        return [Group([modules["model"].weight])]

    def two_turns():
        streams = {"train": Stream(Points(), Shuffled(), 8), "held": Stream(Points(12), Shuffled(), 4)}
        turns = [Turn(squared, weight, SGD()), Turn(squared, bias, AdamW(), stream="held", lr="slow")]
        schedules = {"lr": Scaled(Constant(), 0.01), "slow": Scaled(Constant(), 0.1)}
        return plan(streams=streams, turns=turns, schedules=schedules, log_every=2)

    whole = run(two_turns())
    assert {"turn0.squared", "turn1.squared", "loss"} <= set(whole.history[0])
    run(replace(two_turns(), until=Until(steps=6)), tmp_path / "first")
    rest = run(two_turns(), tmp_path / "second", start=tmp_path / "first")
    assert torch.equal(weights(rest), weights(whole))
    assert torch.equal(rest.network.bias, whole.network.bias)


class Plateau:
    """A schedule that steers by what is measured."""

    def __init__(self):
        self.state = {"factor": 1.0}

    def value(self, step, total):
        return 0.05 * self.state["factor"]

    def observe(self, metrics):
        self.state = {"factor": self.state["factor"] * 0.5}

    def __repr__(self):
        return "Plateau()"


def remembering_plan(steps=10):
    """Memory, an observing schedule and the best weights: all that outlives a step beside the optimiser."""

    def loss(modules, batch, context):
        total = context.memory.setdefault("sum", {"x": torch.zeros(4)})
        total["x"] = total["x"] + batch["x"].mean(0)
        return {
            "loss": squared(modules, batch, context)["squared"]
            + (total["x"] ** 2).sum() * modules["model"].bias.sum() * 0.01
        }

    def measure(modules, context):
        return {"score": float(-abs(context.epoch - 1))}

    return plan(
        turns=[Turn(loss, everything, SGD())], schedules={"lr": Plateau()}, until=Until(steps=steps),
        hooks=Hooks(at_epoch=measure), keep=Keep("best", "score"),
    )  # fmt: skip


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_memory_schedule_state_and_best_weights_are_restored(stop, tmp_path):
    whole = run(remembering_plan())
    assert [line["score"] for line in whole.history if "score" in line] == [-1.0, 0.0, -1.0]
    run(replace(remembering_plan(), until=Until(steps=stop)), tmp_path / "first")
    rest = run(remembering_plan(), tmp_path / "second", start=tmp_path / "first")
    assert torch.equal(weights(rest), weights(whole))
    assert rest.history[-1]["lr"] == whole.history[-1]["lr"] == 0.05 * 0.125
    second_epoch = run(replace(remembering_plan(6), keep=Keep()))
    assert torch.equal(weights(whole), weights(second_epoch))


def test_ends():
    assert run(plan(until=Until(epochs=2.4))).steps == 7
    assert run(plan(until=Until(examples=33))).steps == 5
    for values in ({}, {"steps": 1, "epochs": 1}, {"steps": 0}):
        with pytest.raises(TrainingError, match=r"exactly one|more than zero"):
            Until(**values)


def test_the_clock_can_end_a_run():
    totals = []
    hooks = Hooks(configure=lambda modules, context: totals.append(context.total))
    trained = run(plan(until=Until(seconds=0.3), hooks=hooks))
    assert trained.finished
    assert trained.seconds >= 0.3
    assert all(total > step for step, total in enumerate(totals))


def test_hooks_run_in_order_and_each_step_has_its_own_random_numbers():
    calls, numbers = [], []

    def called(name):
        def hook(modules, context):
            calls.append(name)
            numbers.append((context.rng.random(), torch.rand(()).item()))

        return hook

    def transform(batch, context):
        calls.append("transform")
        assert batch["key"].dtype == torch.int64
        return batch

    hooks = Hooks(transform, called("configure"), called("after_backward"), called("after_step"))
    first = plan(hooks=hooks, until=Until(steps=2))
    run(first)
    assert calls == ["configure", "transform", "after_backward", "after_step"] * 2
    drawn = list(numbers)
    torch.manual_seed(5)
    run(replace(first, modules={"model": Member(linear())}))
    assert numbers[len(drawn) :] == drawn
    assert drawn[0] != drawn[3]


def test_history_holds_what_curves_need(tmp_path):
    trained = run(plan(until=Until(steps=7), log_every=3), tmp_path)
    assert [line["step"] for line in trained.history] == [3, 6, 7]
    assert set(trained.history[0]) == {"step", "loss", "epoch", "lr", "images_per_second"}
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == list(trained.history)


def test_impossible_batches_and_devices_are_one_line():
    for stream, turn in [
        (Stream(Points(), Shuffled(), 25), Turn(squared, everything, SGD())),
        (Stream(Points(), Shuffled(), 8), Turn(squared, everything, SGD(), accumulate=3)),
    ]:
        with pytest.raises(TrainingError) as error:
            run(plan(streams={"train": stream}, turns=[turn]))
        assert "\n" not in str(error.value)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="use device cpu"):
            find_place("cuda")


def test_float16_scales_the_loss():
    trained = run(plan(numerics=Numerics("float16"), until=Until(epochs=20)))
    assert weights(trained).isfinite().all()
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
