"""``sartor tile``."""

from __future__ import annotations

import sys
from pathlib import Path


def tile(
    images: Path,
    /,
    *,
    out: Path,
    um: float = 200.0,
    side: int = 512,
    mpp: float | None = None,
    stride: float = 1.0,
    empty: float = 0.5,
    group: str = "",
    fold: int | None = None,
    seed: int = 1234,
) -> None:
    """Cut large images into square tiles of a stated physical size: a data set for `sartor pretrain` and `train`.

    Class folders are kept. A table beside the tiles names the image each was cut from as its group, so that no split
    cuts an image in two.

    Parameters
    ----------
    images
        A folder of images (TIFF, PNG, JPEG ...), with or without class folders, or one image.
    out
        The new folder for the tiles.
    um
        Edge of a tile in micrometres.
    side
        Edge of a tile in pixels, when written.
    mpp
        Micrometres per pixel of the images (default: what each file says).
    stride
        Distance from one tile to the next as a share of the edge; 0.5 lets them overlap by half.
    empty
        Tiles with a larger share of background (all channels at least 220) are left out.
    group
        A regular expression that finds the patient in a file's name, such as "TCGA-..-...." (default: each image
        is a group of its own).
    fold
        Add a split by groups: of every class 2 % for validation and 1 % for test, other ones in each fold from 0 on
        (default: splits are cut when the tiles are used).
    seed
        The seed of the folds.
    """
    from sartor.data.tiles import Tiling, tile_images

    done = tile_images(images, out, Tiling(um, side, mpp, stride, empty), group=group, fold=fold, seed=seed)
    for line in done.skipped:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{done.tiles:,} tiles of {done.images:,} images in {out}; {done.background:,} of background left out")
