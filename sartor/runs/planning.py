"""What a run decides before it begins, from its command, its data and this machine. Kept, so a resumed run obeys it."""

from __future__ import annotations

from typing import Any

from sartor.core.budget import Bound, Budget
from sartor.core.cost import Quantity
from sartor.core.errors import ImpossibleBudget
from sartor.core.machine import cores
from sartor.core.rng import generator
from sartor.core.space import Space
from sartor.core.spec import Json
from sartor.models.network import count
from sartor.search.halving import MOST_EPOCHS, SuccessiveHalving
from sartor.search.mirror import mirror_safe
from sartor.search.sharing import TimeShare
from sartor.search.spaces import family_space, usual_families
from sartor.search.spaces_near import near, nearest
from sartor.training.devices import default_device
from sartor.training.pace import choose_numerics, pace
from sartor.training.quick import quick
from sartor.training.recipe import Recipe, read_recipe

_PROBE_MACS = 1e4  # multiply-adds per pixel of the network whose training is timed


def make_plan(task: Any, budget: Budget, seconds: float, seed: int, wanted: tuple[str, ...] = ()) -> Json:
    """Plain values from which ``method_of`` makes the method.

    Raises ImpossibleBudget, naming the nearest possible, if counting rules every family out.
    """
    image, classes = task.inputs.fields["image"].shape, len(task.classes)
    spaces = {name: family_space(name, image, classes) for name in wanted or usual_families()}
    dropped = {name: why for name, space in spaces.items() if (why := _excluded(space, budget))}
    if len(dropped) == len(spaces):
        raise ImpossibleBudget(_nearest_possible(list(spaces.values()), budget))
    kept = [name for name in spaces if name not in dropped]
    mirror = mirror_safe(task, seed)
    examples = len(task.split("train"))
    recipe = quick(examples, task.preprocess.size, flip=mirror)
    speed, macs = _training_speed([spaces[name] for name in kept], budget, recipe, task)
    slots = 1 if default_device() == "cuda" else cores()
    useful = MOST_EPOCHS * examples * macs / (speed * slots)
    return {
        "families": kept,
        "dropped": dropped,
        "recipe": recipe.to_json(),
        "share": TimeShare.of(seconds, slots, useful).to_json(),
        "speed": speed,
        "mirror": mirror,
    }


def method_of(plan: Json) -> SuccessiveHalving:
    """The method a plan describes."""
    return SuccessiveHalving(
        tuple(plan["families"]), read_recipe(plan["recipe"]), TimeShare.from_json(plan["share"]), plan["speed"],
        plan["mirror"],
    )  # fmt: skip


def _excluded(space: Space, budget: Budget) -> str:
    """Why no network of a space can be inside the counted bounds, or nothing."""
    try:
        near(space, budget, 1.0, generator(0, "feasible", space.name))
    except ImpossibleBudget as error:
        return str(error)
    return ""


def _nearest_possible(spaces: list[Space], budget: Budget) -> str:
    costs = [space.count(nearest(space, budget.of("counted"))) for space in spaces]
    best = min(costs, key=budget.distance)
    names = ", ".join(space.name for space in spaces)
    return f"no network of {names} is within {budget}; the nearest possible has {budget.describe(best)}"


def _training_speed(spaces: list[Space], budget: Budget, recipe: Recipe, task: Any) -> tuple[float, float]:
    """Multiply-adds per second (of forward passes) in training on one core, and those of the network timed.

    Of the fastest family: networks of equal multiply-adds differ several times over.
    """
    macs = Bound(Quantity("macs"), False, _PROBE_MACS * task.preprocess.size**2)
    bounds = Budget.parse(", ".join(map(str, [*budget.of("counted").bounds, macs])))
    specs = [_probe(space, bounds) for space in spaces]
    device = default_device()
    numerics = choose_numerics(recipe, specs[0], task.preprocess, device=device, threads=1)
    each = [count(spec).value("macs") for spec in specs]
    seconds = [pace(recipe, spec, task.preprocess, numerics, device=device, threads=1) for spec in specs]
    return max((macs * recipe.batch / s, macs) for macs, s in zip(each, seconds, strict=True))


def _probe(space: Space, bounds: Budget) -> Any:
    try:
        return space.spec(near(space, bounds, 1.0, generator(0, "speed", space.name)))
    except ImpossibleBudget:
        return space.spec(nearest(space, bounds))
