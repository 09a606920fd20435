"""``sartor recipes``."""

from __future__ import annotations


def recipes(name: str | None = None, /) -> None:
    """List the training recipes, or show NAME with its values."""
    from json import dumps

    from sartor.training.recipe import list_recipes, recipe

    print(dumps(recipe(name).to_json(), indent=2) if name else "\n".join(list_recipes()))
