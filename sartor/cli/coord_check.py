"""``sartor coord-check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

Factors = Annotated[list[int] | None, Parameter(consume_multiple=True)]


def coord_check(
    model: str,
    /,
    *,
    depths: Factors = None,
    widths: Factors = None,
    settings: Annotated[list[str] | None, Parameter(name="--set")] = None,
    steps: int = 4,
    seeds: int = 3,
    out: Path | None = None,
) -> None:
    """Check whether a training step moves deep and wide networks as far as small ones, with Depth-muP and without.

    Networks of MODEL's kind take a few steps of AdamW on noise. The table says how far the residual stream and the
    logits have moved, and with which power of depth and width: about 0 is what carries learning rates over.

    Parameters
    ----------
    model
        A named network (`sartor models`) or a JSON file that holds a spec: the base, which is to be small.
    depths
        Factors on the number of blocks (default: 1 2 4 8).
    widths
        Factors on the width (default: 1 2 4).
    settings
        Other values for the recipe, each as name=value: --set lr=0.004 --set optimiser.kind=sgd.
    steps
        How many steps are taken.
    seeds
        Over how many seeds the means are taken.
    out
        Write the picture, an SVG file, here.
    """
    from sartor.cli.specs import name_or_spec
    from sartor.core.errors import SartorError
    from sartor.models.network import as_spec
    from sartor.training.coordinates import coordinate_check
    from sartor.training.optimisers import AdamW
    from sartor.training.parametrization import Standard, base_of
    from sartor.training.recipe import Recipe

    if min([steps, seeds, *(depths or [1]), *(widths or [1])]) < 1:
        raise SartorError("--depths, --widths, --steps and --seeds must be at least 1")
    spec = as_spec(name_or_spec(model))
    recipe = Recipe(optimiser=AdamW(), lr=1e-3).replace_from(settings or [])
    scales, found = (depths or [1, 2, 4, 8], widths or [1, 2, 4]), {}
    for parametrization in (Standard(), base_of(spec)):
        chosen = recipe.replace(parametrization=parametrization)
        found[parametrization.kind] = coordinate_check(spec, chosen, *scales, steps=steps, seeds=seeds)
    _print(found)
    if out is not None:
        from sartor.core.files import write_atomic
        from sartor.report.coordinates import picture

        write_atomic(out, picture(found))
        print(f"picture  {out}")


def _print(found: dict[str, Any]) -> None:
    from sartor.training.coordinates import slope

    names = ("stream", "moved", "answer")
    print(f"{'parametrization':<16} {'times':<9} {'stream':>10} {'moved':>10} {'logits':>10}")
    for kind, axes in found.items():
        for axis, networks in axes.items():
            for factor, one in networks.items():
                shown = " ".join(f"{one[name][-1]:>10.4g}" for name in names)
                print(f"{kind:<16} {axis} {factor:<3} {shown}")
            powers = " ".join(f"{slope(networks, name):>10.2f}" for name in names)
            print(f"{kind:<16} {'power':<9} {powers}")
