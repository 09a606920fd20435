"""``sartor train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def train(
    model: str,
    data: str = "",
    /,
    *,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    head_only: bool = False,
    reset_bn: bool = False,
    labels: float = 1.0,
    recipe: str = "quick",
    epochs: float | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set")] = None,
    parametrization: str = "",
    weights: str = "",
    size: int = 0,
    out: Path | None = None,
    seed: int = 0,
    strict: bool = False,
    task: str = "auto",
    ignore: list[int] | None = None,
) -> None:
    """Train one network on DATA by a recipe; after a kill the same command goes on where it was.

    With --from, DATA may stand alone: the model is the run's.

    Parameters
    ----------
    model
        A named network (`sartor models`) or a JSON file that holds a spec.
    data
        As for `sartor fit`.
    start
        The run directory of a `sartor pretrain` or `sartor train` to take the network and its weights from.
    head_only
        Train the classifier alone (a linear probe): the same as --set trains=head.
    reset_bn
        Begin with fresh batch norms in the weights that are taken over.
    labels
        The share of the training images to use, of every class: 0.01 for one in a hundred.
    recipe
        A named recipe (`sartor recipes`) or a TOML file.
    epochs
        How many epochs (default: the recipe's).
    settings
        Other values for the recipe, each as name=value: --set lr=0.004 --set augment.mixup=0.1.
    parametrization
        How the learning rate carries over to other depths and widths: standard, or depth-mup relative to
        --set parametrization.base_depth=N and base_width=N (default: the recipe's).
    weights
        A checkpoint to start from: a file, or a hub name such as timm/resnet50.a1_in1k.
    size
        Side of the images in pixels (default: what suits the data).
    out
        The run directory (default: runs/MODEL-DATA).
    seed
        The seed of all random choices.
    strict
        Stop at the first unreadable image instead of skipping it.
    task
        image-classification or segmentation (default: what the layout of the data says).
    ignore
        Of segmentation, values of masks that mean no class (default: 255).
    """
    from sartor.api import train as run
    from sartor.cli.live import LiveDisplay
    from sartor.cli.specs import name_or_spec
    from sartor.core.errors import SartorError

    if not data and start is None:
        raise SartorError("train takes MODEL and DATA; with --from RUN, DATA alone")
    network, data = (name_or_spec(model), data) if data else (None, model)
    chosen = [f"parametrization.kind={parametrization}"] if parametrization else []
    chosen += ["trains=head"] * head_only
    with LiveDisplay(sys.stderr) as display:
        result = run(
            network, data, start=start, reset_norms=reset_bn, labels=labels, recipe=recipe, epochs=epochs,
            settings=[*chosen, *(settings or ())], weights=weights, size=size, out=out, seed=seed, strict=strict,
            task=task, ignore=ignore or (),
            listener=display,
        )  # fmt: skip
    if result is not None:
        display.summarise(result)
