from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Metric, Quality
from sartor.core.cost import Amount, Cost
from sartor.core.seams import Signature
from sartor.search.drawing import turns
from sartor.search.halving import MOST_EPOCHS, SuccessiveHalving, is_small
from sartor.search.sharing import TimeShare
from sartor.search.spaces import families
from sartor.training.quick import quick
from sartor.training.recipe import read_recipe

BUDGET = Budget.parse("params<60k")
SUITED = tuple(family for family in families() if family != "levit")


class Task:
    name, kind, metric, fingerprint = "fake", "image-classification", Metric("accuracy"), "fingerprint"
    inputs, classes = Signature.image(3, 32, 32), tuple("abcdefghij")

    def __init__(self, examples: int = 5000) -> None:
        self.examples = SimpleNamespace(labels=np.zeros(examples), __len__=lambda: examples)

    def split(self, name: str) -> Any:
        return range(len(self.examples.labels))


def method(seconds: float = 300.0, mirror: bool = True) -> SuccessiveHalving:
    share = TimeShare.of(seconds, 2, families=len(SUITED))
    return SuccessiveHalving(SUITED, quick(5000, 32), share, dict.fromkeys(SUITED, 2e10), mirror)


def ended(candidate: Candidate, number: int, budget: Budget = BUDGET) -> Candidate:
    """What a worker might have made of a candidate."""
    p = candidate.proposal
    if p.kind == "estimate":
        step = 5e-11 * p.counted.value("macs") * 128 * (1.0 if p.threads == 1 else 0.6)
        cost = candidate.cost | Cost({"step_seconds": Amount(step, "s", "measured")})
        for bound in budget.of("measured").bounds:
            latency = Amount(1e-7 * p.counted.value("macs"), "ms", "measured", "here", 0.0)
            cost = cost | Cost({str(bound.quantity): latency})
        return candidate.having(state="done", cost=cost)
    if p.recipe["phase"] == "held":
        cost = candidate.cost | Cost({"train_seconds": Amount(p.seconds, "s", "measured")})
        return candidate.having(state="done", cost=cost, quality=Quality({"accuracy": 0.7}, "valid", 500))
    if number % 5 == 4:
        return candidate.having(state="failed", why="a loss that is not finite")
    value = 0.5 + 0.001 * int(candidate.id[:2], 16) + 0.1 * p.rung
    return candidate.having(state="done", quality=Quality({"accuracy": value}, "valid", 500))


def play(method: SuccessiveHalving, task: Task, budget: Budget = BUDGET, seed: int = 0) -> list[list[Candidate]]:
    """All waves, with made-up results."""
    waves: list[list[Candidate]] = []
    while proposals := method.propose(task, budget, [c for wave in waves for c in wave], seed):  # type: ignore[arg-type]
        waves.append([ended(Candidate.of(p), n, budget) for n, p in enumerate(proposals)])
        assert len(waves) < 20
    return waves


def phases(waves: list[list[Candidate]]) -> list[str]:
    return [wave[0].proposal.recipe["phase"] for wave in waves]


def test_waves_follow_one_another_and_end() -> None:
    waves = play(method(), Task())
    assert phases(waves) == ["draw", "rung", "rung", "rung", "time", "held", "final", "views"]
    assert len(waves[0]) == TimeShare.of(300.0, 2, families=len(SUITED)).draws
    assert len({c.id for wave in waves for c in wave}) == sum(map(len, waves))


def test_proposals_are_a_function_of_what_was_seen() -> None:
    waves = play(method(), Task())
    for number in range(len(waves)):
        seen = [c for wave in waves[:number] for c in wave]
        again = method().propose(Task(), BUDGET, seen, 0)  # type: ignore[arg-type]
        assert [Candidate.of(p).id for p in again] == [c.id for c in waves[number]]
    other = method().propose(Task(), BUDGET, [], 1)  # type: ignore[arg-type]
    assert [Candidate.of(p).id for p in other] != [c.id for c in waves[0]]


def test_nothing_outside_the_counted_budget_is_proposed() -> None:
    budget = Budget.parse("params<60k, macs<5M")
    for wave in play(method(), Task(), budget):
        for c in wave:
            assert budget.verdict(c.proposal.counted) == "in"


def test_the_better_third_trains_on_from_where_it_was() -> None:
    waves = play(method(), Task())
    first, second = waves[1], waves[2]
    judged = sorted(
        (c for c in first if c.quality and not is_small(c)), key=lambda c: (-c.quality.values["accuracy"], c.id)
    )  # type: ignore[union-attr]
    assert [c.parent("rung") for c in second] == [c.id for c in judged[: len(second)]]
    for c in second:
        parent = next(p for p in first if p.id == c.parent("rung"))
        assert c.proposal.spec == parent.proposal.spec
        assert c.proposal.recipe["steps"] > parent.proposal.recipe["steps"]
        assert {**c.proposal.recipe["recipe"], "epochs": 0} == {**parent.proposal.recipe["recipe"], "epochs": 0}
        assert c.proposal.recipe["ingredients"] == parent.proposal.recipe["ingredients"]


def test_every_family_is_drawn_and_trained() -> None:
    draws, rung = play(method(), Task())[:2]
    assert {c.proposal.recipe["family"] for c in draws if not is_small(c)} == {*SUITED}
    assert {c.proposal.recipe["family"] for c in rung} == {*SUITED}
    assert sum(is_small(c) for c in draws) == 2


def test_some_drawn_networks_compete_with_themselves_by_another_recipe() -> None:
    draws = play(method(), Task())[0]
    others = [c for c in draws if c.proposal.recipe["ingredients"]]
    assert others
    for c in others:
        twin = next(d for d in draws if d.proposal.spec == c.proposal.spec)
        assert not twin.proposal.recipe["ingredients"]
        assert twin.proposal.recipe["recipe"] != c.proposal.recipe["recipe"]


def test_transformers_train_by_adamw() -> None:
    kinds = {c.proposal.recipe["family"]: c.proposal.recipe["recipe"]["optimiser"] for c in play(method(), Task())[0]}
    assert [kinds[family]["kind"] for family in ("vit", "swin", "resnet")] == ["adamw", "adamw", "sgd"]


def test_short_runs_draw_of_the_first_families_only() -> None:
    kinds = [(turn.kind, turn.family) for turn in turns(4, SUITED)]
    assert kinds == [*(("first", family) for family in SUITED[:3]), ("small", SUITED[0])]
    later = [turn.kind for turn in turns(20, SUITED)]
    assert later == ["first"] * 12 + ["small"] * 2 + ["recipe", "recipe", "further"] * 2


def test_what_is_too_slow_is_not_trained() -> None:
    draws = [ended(Candidate.of(p), 0) for p in method().propose(Task(), BUDGET, [], 0)]  # type: ignore[arg-type]
    slow = draws[0].having(cost=draws[0].cost | Cost({"step_seconds": Amount(3.0, "s", "measured")}))
    rung = method().propose(Task(), BUDGET, [slow, *draws[1:]], 0)  # type: ignore[arg-type]
    assert slow.proposal.spec not in [p.spec for p in rung if p.recipe["ingredients"] == []]
    assert len(rung) == len(draws) - 1
    everything = [c.having(cost=c.cost | Cost({"step_seconds": Amount(3.0, "s", "measured")})) for c in draws]
    assert len(method().propose(Task(), BUDGET, everything, 0)) == len(draws)  # type: ignore[arg-type]


def test_the_final_training_fills_the_time_that_its_first_part_left() -> None:
    waves = play(method(), Task())
    draws = [c for wave in waves[:-3] for c in wave]
    (held,) = waves[-3]
    assert held.parent("rung") in {c.id for c in waves[3]}
    for factor in (0.8, 1.0, 1.3):
        seconds = factor * held.proposal.seconds
        slower = held.having(cost=held.cost | Cost({"train_seconds": Amount(seconds, "s", "measured")}))
        final = method().propose(Task(), BUDGET, [*draws, slower], 0)[0]  # type: ignore[arg-type]
        assert final.parents[0].id == held.id
        before = next(c for c in draws if c.id == held.parent("rung")).proposal.recipe["steps"]
        pace = seconds / (held.proposal.recipe["steps"] - before)
        whole = seconds + pace * (final.recipe["steps"] - held.proposal.recipe["steps"])
        assert whole == pytest.approx(method().share.finals[0], rel=0.02)


def test_competitors_get_equal_time_and_all_fit_into_the_run() -> None:
    waves = play(method(), Task())
    assert len({c.proposal.seconds for c in waves[1]}) == 1
    planned = sum(c.proposal.seconds / (2 if c.proposal.threads == 1 else 1) for wave in waves for c in wave)
    assert 0.6 * 300 < planned < 300


def test_a_small_network_trains_beside_the_winner() -> None:
    final = play(method(), Task())[-2]
    costs = [c.cost.value("params") for c in final]
    assert min(costs) <= max(costs) / 2
    assert all(c.proposal.threads == 2 for c in final)
    for c in final:
        assert read_recipe(c.proposal.recipe["recipe"]).schedule == method().recipe.schedule


def test_a_small_data_set_is_not_trained_on_for_ever() -> None:
    final = play(method(3600.0), Task(200))[-2]
    for c in final:
        assert c.proposal.recipe["recipe"]["epochs"] <= MOST_EPOCHS + 1
    assert len(final) > 2  # the time goes to others


def test_without_mirror_images_there_are_no_views() -> None:
    assert "views" not in phases(play(method(mirror=False), Task()))


def test_views_cost_twice_and_stay_inside_the_budget() -> None:
    views = play(method(), Task())[-1]
    assert all(c.parent("init") for c in views)
    final = {c.id: c for c in play(method(), Task())[-2]}
    for c in views:
        assert c.cost.value("macs") == 2 * final[c.parent("init")].cost.value("macs")  # type: ignore[index]
        assert c.cost.value("params") == final[c.parent("init")].cost.value("params")  # type: ignore[index]
    tight = Budget.parse(f"macs<{max(c.cost.value('macs') for c in final.values()) * 1.1:.0f}")
    for wave in play(method(), Task(), tight):
        assert all(tight.verdict(c.proposal.counted) == "in" for c in wave)


def test_draws_outside_a_measured_bound_are_followed_by_cheaper_ones() -> None:
    budget = Budget.parse("latency<0.2ms")
    waves = play(method(), Task(), budget)
    assert phases(waves)[:2] == ["draw", "draw"]
    rung = next(wave for wave in waves if wave[0].proposal.recipe["phase"] == "rung")
    assert all(c.proposal.counted.value("macs") * 1e-7 < 0.2 for c in rung)
    impossible = Budget.parse("latency<1us")
    assert set(phases(play(method(), Task(), impossible))) == {"draw"}


def test_a_run_in_which_all_fail_ends() -> None:
    draws = [ended(Candidate.of(p), 0) for p in method().propose(Task(), BUDGET, [], 0)]  # type: ignore[arg-type]
    rung = [Candidate.of(p).having(state="failed") for p in method().propose(Task(), BUDGET, draws, 0)]  # type: ignore[arg-type]
    assert method().propose(Task(), BUDGET, [*draws, *rung], 0) == []  # type: ignore[arg-type]
    none = [c.having(state="failed", cost=Cost()) for c in draws]
    assert all(p.recipe["phase"] == "draw" for p in method().propose(Task(), BUDGET, none, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [20.0, 60.0, 600.0, 7200.0])
@pytest.mark.parametrize("slots", [1, 2, 16])
def test_shares_of_time_add_up(seconds: float, slots: int) -> None:
    share = TimeShare.of(seconds, slots)
    rungs = sum(count * each / min(slots, count) for count, each in share.rungs)
    assert rungs + sum(share.finals) <= seconds
    assert rungs < sum(share.finals)
    assert share.rungs[0][0] == share.draws
    assert TimeShare.from_json(share.to_json()) == share
