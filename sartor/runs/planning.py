"""What a run decides before it begins, from its command, its data and this machine. Kept, so a resumed run obeys it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sartor.core.budget import Bound, Budget
from sartor.core.cost import Quantity
from sartor.core.errors import ImpossibleBudget, SpecError
from sartor.core.machine import cores
from sartor.core.rng import generator
from sartor.core.space import Space
from sartor.core.spec import Json
from sartor.core.units import format_duration
from sartor.models.network import count
from sartor.search.drawing import turns
from sartor.search.halving import MOST_EPOCHS, SuccessiveHalving
from sartor.search.ingredients import default_recipe
from sartor.search.mirror import mirror_safe
from sartor.search.sharing import TimeShare
from sartor.search.spaces import families, family_space, why_unsuited
from sartor.search.spaces_attention import ATTENTION
from sartor.search.spaces_near import near, nearest
from sartor.training.devices import default_device
from sartor.training.pace import choose_numerics, pace
from sartor.training.plan import Numerics
from sartor.training.quick import quick
from sartor.training.recipe import Recipe, read_recipe

_PROBE_MACS = 1e4  # multiply-adds per pixel of the network whose training is timed


def make_plan(task: Any, budget: Budget, seconds: float, seed: int, wanted: tuple[str, ...] = ()) -> Json:
    """Plain values from which ``method_of`` makes the method.

    Families that do not suit the images, that counting rules out, or that there is no time for, are ``dropped``, with
    the reason. Raises ImpossibleBudget, naming the nearest possible, if counting rules every family out, SpecError if
    the images suit none.
    """
    image, classes = task.inputs.fields["image"].shape, len(task.classes)
    names = wanted or families()
    dropped = {name: f"not drawn: {why}" for name in names if (why := why_unsuited(name, image))}
    spaces = {name: family_space(name, image, classes) for name in names if name not in dropped}
    if not spaces:
        raise SpecError("; ".join(f"{name} {why}" for name, why in dropped.items()))
    outside = {name: f"not drawn: {why}" for name, space in spaces.items() if (why := _excluded(space, budget))}
    if len(outside) == len(spaces):
        raise ImpossibleBudget(_nearest_possible(list(spaces.values()), budget))
    kept = tuple(name for name in spaces if name not in outside)
    mirror = mirror_safe(task, seed)
    examples = len(task.split("train"))
    recipe = quick(examples, task.preprocess.size, flip=mirror)
    slots = 1 if default_device() == "cuda" else cores()
    speeds = _Speeds(spaces, budget, recipe, task)
    least = _in_time(TimeShare.of(seconds, slots, families=len(kept)), kept, budget)
    useful = min(MOST_EPOCHS * examples / (speeds[name] * slots) * speeds.macs(name) for name in least)
    share = TimeShare.of(seconds, slots, useful, len(kept))
    drawn = _in_time(share, kept, budget)
    late = (
        f"not drawn: {format_duration(seconds)} leave time for {len(drawn)} of {len(kept)} families, the first in turn"
    )
    return {
        "families": drawn,
        "dropped": {**dropped, **outside, **{name: late for name in kept if name not in drawn}},
        "recipe": recipe.to_json(),
        "share": share.to_json(),
        "speeds": {name: speeds[name] for name in drawn},
        "mirror": mirror,
    }


def _in_time(share: TimeShare, kept: tuple[str, ...], budget: Budget) -> list[str]:
    """The families of which a network is drawn."""
    return [turn.family for turn in turns(share.drawn(budget), kept) if turn.kind == "first"]


def method_of(plan: Json) -> SuccessiveHalving:
    """The method a plan describes."""
    return SuccessiveHalving(
        tuple(plan["families"]), read_recipe(plan["recipe"]), TimeShare.from_json(plan["share"]), plan["speeds"],
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


class _Speeds:
    """Multiply-adds per second (of forward passes) in training on one core, by family, timed when first asked for.

    Each is that of a network of the family: of equal multiply-adds, some take several times as long as others.
    """

    def __init__(self, spaces: Mapping[str, Space], budget: Budget, recipe: Recipe, task: Any) -> None:
        macs = Bound(Quantity("macs"), False, _PROBE_MACS * task.preprocess.size**2)
        self.bounds = Budget.parse(", ".join(map(str, [*budget.of("counted").bounds, macs])))
        self.spaces, self.recipe, self.preprocess = spaces, recipe, task.preprocess
        self.found: dict[str, float] = {}
        self.numerics: Numerics | None = None

    def macs(self, name: str) -> float:
        """The multiply-adds of the network of a family that is timed."""
        return count(self.probe(name)).value("macs")

    def probe(self, name: str) -> Any:
        """The network of a family that is timed."""
        space = self.spaces[name]
        try:
            return space.spec(near(space, self.bounds, 1.0, generator(0, "speed", space.name)))
        except ImpossibleBudget:
            return space.spec(nearest(space, self.bounds))

    def __getitem__(self, name: str) -> float:
        if name not in self.found:
            spec, device = self.probe(name), default_device()
            recipe = default_recipe(self.recipe, name in ATTENTION)
            if self.numerics is None:
                self.numerics = choose_numerics(recipe, spec, self.preprocess, device=device, threads=1)
            seconds = pace(recipe, spec, self.preprocess, self.numerics, device=device, threads=1)
            self.found[name] = count(spec).value("macs") * recipe.batch / seconds
        return self.found[name]
