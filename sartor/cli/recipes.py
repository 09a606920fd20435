"""``sartor recipes``."""

from __future__ import annotations


def recipes(name: str | None = None, /) -> None:
    """List the training recipes, or show one: its source, what it gave, its values, what other networks reached by it.

    Parameters
    ----------
    name
        The recipe to show.
    """
    from sartor.training.published import published_lines
    from sartor.training.recipe import list_recipes, recipe_text

    print("\n".join([recipe_text(name).rstrip(), *published_lines(name)] if name else list_recipes()))
