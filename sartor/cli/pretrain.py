"""``sartor pretrain``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def pretrain(
    data: str,
    /,
    *,
    model: str,
    method: str = "simclr",
    epochs: float | None = None,
    photos: bool = False,
    settings: Annotated[list[str] | None, Parameter(name="--set")] = None,
    weights: str = "",
    size: int = 0,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Train a network on the images of DATA without labels; `sartor train DATA --from RUN` goes on from there.

    After a kill the same command goes on where it was. The images that `sartor train` with the same seed would be
    judged on are left out.

    Parameters
    ----------
    data
        As for `sartor fit`, or a folder of image files without class folders.
    model
        A named network (`sartor models`) or a JSON file that holds a spec.
    method
        simclr, moco-v2, byol, dino, mae (Vision Transformers only) or supervised.
    epochs
        How many epochs (default: the method's).
    photos
        Views for photographs: crops from a fifth of the area on, not upside down. By default crops are large and
        images are turned upside down too, as suits images of tissue at one magnification.
    settings
        Other values, each as name=value: --set lr=0.1 --set views.grey=0 --set method.temperature=0.2.
    weights
        A checkpoint to start from: a file, or a hub name such as timm/resnet50.a1_in1k.
    size
        Side of the images in pixels (default: what suits the data).
    out
        The run directory (default: runs/METHOD-MODEL-DATA).
    seed
        The seed of all random choices.
    """
    from sartor.api import pretrain as run
    from sartor.cli.live import LiveDisplay
    from sartor.cli.specs import name_or_spec

    chosen = ["views.scale=[0.2,1.0]", "views.vertical=0.0"] if photos else []
    with LiveDisplay(sys.stderr) as display:
        result = run(
            name_or_spec(model), data, method=method, epochs=epochs, settings=[*chosen, *(settings or ())],
            weights=weights, size=size, out=out, seed=seed, listener=display,
        )  # fmt: skip
    if result is not None:
        print(result.line())
        print(f"backbone  {result.backbone}")
