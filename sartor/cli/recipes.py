"""``sartor recipes``."""

from __future__ import annotations


def recipes(name: str | None = None, /) -> None:
    """List the training recipes, or show one: its source, what it gave, and its values.

    Parameters
    ----------
    name
        The recipe to show.
    """
    from sartor.training.recipe import list_recipes, recipe_text

    print(recipe_text(name).rstrip() if name else "\n".join(list_recipes()))
