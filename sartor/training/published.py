"""What networks reached by published procedures, as their authors say."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Published:
    """The top-1 accuracy in % of a network by a recipe, on ImageNet at 224 pixels.

    ``confirmed`` says that it agrees with an evaluation of published weights; other figures are from memory.
    """

    network: str
    recipe: str
    accuracy: float
    confirmed: bool


@cache
def published() -> tuple[Published, ...]:
    """All figures of "ResNet strikes back" (Wightman et al. 2021, arXiv 2110.00476), in the order of its tables."""
    text = files("sartor.training").joinpath("published.toml").read_text(encoding="utf-8")
    return tuple(
        Published(network, recipe, accuracy, group == "confirmed")
        for group, rows in tomllib.loads(text).items()
        for network, row in rows.items()
        for recipe, accuracy in row.items()
    )


def published_lines(recipe: str) -> list[str]:
    """The figures of a recipe as comments of TOML, a line each; none if nothing is known."""
    found = [figure for figure in published() if figure.recipe == recipe]
    lines = [f"#   {f.network}: {f.accuracy:.1f}{'' if f.confirmed else ' (from memory)'}" for f in found]
    return ["# Published top-1 accuracy on ImageNet at 224 pixels, in %:", *lines] if found else []
