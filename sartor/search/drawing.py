"""What is drawn: a network of every family first, then small ones, further ones, and drawn ones by other recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sartor.core.budget import Bound, Budget
from sartor.core.cost import Quantity
from sartor.core.errors import ImpossibleBudget
from sartor.core.rng import generator
from sartor.search.ingredients import default_recipe, drawn_recipe
from sartor.search.sharing import SMALL_DRAWS
from sartor.search.spaces import Image, family_space
from sartor.search.spaces_attention import ATTENTION
from sartor.search.spaces_near import near, smallest
from sartor.training.recipe import Recipe

RANGE = 3.0  # the drawn networks' multiply-adds lie within this factor
SHRINK = 4.0  # if no drawn network is inside a measured bound, the next draw has so many times fewer multiply-adds
MOST_DRAWS = 5  # waves of draws, the last of which is the smallest network of each family

Kind = Literal["first", "small", "further", "recipe"]


@dataclass(frozen=True)
class Turn:
    """One draw: a family's first or further network, a small one, or a first one by another recipe."""

    kind: Kind
    family: str
    number: int


def turns(draws: int, families: tuple[str, ...]) -> Iterator[Turn]:
    """So many draws: a tenth of them small, at least one; of the rest a network of each family as far as they go.

    What is left are other recipes and further networks in turn, of the families in their order.
    """
    small = max(1, round(SMALL_DRAWS * draws))
    first = min(len(families), draws - small)
    for number in range(draws):
        if number < first:
            yield Turn("first", families[number], number)
        elif number < first + small:
            yield Turn("small", families[(number - first) % len(families)], number)
        else:
            kind: Kind = "further" if (number - first - small) % 3 == 2 else "recipe"
            yield Turn(kind, families[(number - first - small) % len(families)], number)


@dataclass(frozen=True)
class Drawing:
    """Draws networks near a budget; ``most_macs`` is what a final training can afford of each family."""

    image: Image
    classes: int
    budget: Budget
    most_macs: Mapping[str, float]
    recipe: Recipe
    seed: int

    def drawn(self, turn: Turn, attempt: int) -> Any:
        """The network of a turn, or None if the bounds leave none. One by another recipe is its family's first."""
        space = family_space(turn.family, self.image, self.classes)
        kind: Kind = "first" if turn.kind == "recipe" else turn.kind
        rng = generator(self.seed, "draw", turn.family, kind, 0 if kind == "first" else turn.number, attempt)
        if attempt == MOST_DRAWS - 1:
            return space.spec(smallest(space, "macs"))
        fraction = rng.uniform(0.15, 0.5) if kind == "small" else rng.uniform(0.85, 1.0)
        macs = self.most_macs[turn.family] / SHRINK**attempt * RANGE ** -rng.uniform(0.0, 1.0)
        bound = Bound(Quantity("macs"), False, max(1.0, round(macs if kind == "small" else macs / fraction)))
        limits = Budget.parse(", ".join(map(str, [*self.budget.of("counted").bounds, bound])))
        try:
            return space.spec(near(space, limits, fraction, rng))
        except ImpossibleBudget:
            return None

    def recipe_of(self, turn: Turn, spec: Any) -> tuple[Recipe, tuple[str, ...]]:
        """The recipe of a turn's network, and in which ingredients it differs from the family's default."""
        recipe = default_recipe(self.recipe, turn.family in ATTENTION)
        if turn.kind != "recipe":
            return recipe, ()
        return drawn_recipe(recipe, spec, self.image, self.seed, turn.family, turn.number)
