"""Pictures with a class for every pixel: the layouts that people keep them in, and masks as arrays of values.

* ``images`` and ``masks``: folders whose files have equal stems, either inside folders of splits (``train/images``)
  or with folders of splits inside (``images/train``), or without splits;
* ``train`` and ``trainannot``, ``val`` and ``valannot`` …: files of equal names (CamVid as SegNet's tutorial has it);
* ``NAME.jpg`` with ``NAME_mask.png`` beside it, anywhere below the folder or the folders of splits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sartor.core.errors import DataError
from sartor.data.decode import MAX_BYTES, MAX_PIXELS, quiet
from sartor.data.source import BadImage, Pixels, exact_split, shown

IMAGES, MASKS, ANNOTATED, BESIDE = "images", "masks", "annot", "_mask"
CLASSES = "classes.txt"
_FORMATS = ("PNG", "BMP", "TIFF", "GIF")  # without loss
_LOOKED_AT = 4096  # files among which a mask must be for its layout to be recognised


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and its mask; ``split`` is train, valid, test, or empty where the data give none."""

    split: str
    image: str
    mask: str


def matches(path: Path) -> bool:
    """Whether a folder has one of the layouts."""
    return path.is_dir() and (bool(_in_two(path)) or bool(_annotated(path)) or _has_beside(path))


def read_pairs(path: Path) -> list[Pair]:
    """All pairs, by split and name. Raises DataError for a picture without a mask or a mask without a picture."""
    folders = [*_in_two(path), *_annotated(path)]
    if folders:
        return [pair for split, images, masks in folders for pair in _same_stems(split, images, masks)]
    splits = [(exact_split(f.name) or "", f) for f in _folders(path) if exact_split(f.name)]
    pairs = [pair for split, folder in splits or [("", path)] for pair in _beside(split, folder)]
    if not pairs:
        raise DataError(
            f"{shown(path)}: no pictures with masks; give folders images and masks, train and trainannot, or a "
            "NAME_mask.png beside each picture"
        )
    return pairs


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a text file, one a line, the first of value 0; raises DataError for one that cannot be."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: cannot be read as class names ({type(error).__name__})") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "" in lines or len(set(lines)) < len(lines) or len(lines) > 255:
        raise DataError(f"{shown(path)}: give 1 to 255 different class names, one a line")
    return tuple(lines)


def decode_mask(path: str | Path) -> Pixels:
    """The values of a mask's pixels (height, width); of a palette its indices, of colours the first channel.

    Raises BadImage with a short reason, also for a picture in true colours, which is no mask.
    """
    try:
        if os.stat(path).st_size > MAX_BYTES:
            raise BadImage(f"a mask of more than {MAX_BYTES:,} bytes")
        with quiet(), Image.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise BadImage(f"more than {MAX_PIXELS:,} pixels")
            return _values(np.asarray(picture))
    except BadImage:
        raise
    except Exception as error:  # on damaged files Pillow's readers raise almost anything
        raise BadImage(f"the mask {Path(path).name} cannot be read ({type(error).__name__})") from None


def _values(array: np.ndarray[Any, Any]) -> Pixels:
    if array.ndim == 3:
        rest = array[..., 1:3]
        if rest.any() and not (rest == array[..., :1]).all():
            raise BadImage("the mask has colours; give class numbers, in one channel or with a palette")
        array = array[..., 0]
    if array.size == 0 or array.min() < 0 or array.max() > 255:
        raise BadImage("the mask has values outside 0 to 255")
    return np.ascontiguousarray(array.astype(np.uint8))


def _in_two(path: Path) -> list[tuple[str, Path, Path]]:
    """Split, pictures and masks of the first layout."""
    images, masks = path / IMAGES, path / MASKS
    if images.is_dir() and masks.is_dir():
        splits = [(exact_split(f.name) or "", f, masks / f.name) for f in _folders(images) if exact_split(f.name)]
        return splits or [("", images, masks)]
    found = [(exact_split(f.name) or "", f / IMAGES, f / MASKS) for f in _folders(path) if exact_split(f.name)]
    return [entry for entry in found if entry[1].is_dir() and entry[2].is_dir()]


def _annotated(path: Path) -> list[tuple[str, Path, Path]]:
    """Likewise of the second."""
    found = [(exact_split(f.name) or "", f, f.with_name(f.name + ANNOTATED)) for f in _folders(path)]
    return [entry for entry in found if entry[0] and entry[2].is_dir()]


def _has_beside(path: Path) -> bool:
    return any(Path(file).stem.endswith(BESIDE) for file in islice(_files(path), _LOOKED_AT))


def _same_stems(split: str, images: Path, masks: Path) -> Iterator[Pair]:
    if not masks.is_dir():
        raise DataError(f"{shown(images)}: there is no folder {shown(masks)} with its masks")
    pictures, given = _by_stem(images), _by_stem(masks)
    _refuse_lonely(sorted(set(pictures) - set(given)), "pictures", "mask", images, masks)
    _refuse_lonely(sorted(set(given) - set(pictures)), "masks", "picture", masks, images)
    return (Pair(split, pictures[stem], given[stem]) for stem in sorted(pictures))


def _beside(split: str, folder: Path) -> Iterator[Pair]:
    files = {os.path.splitext(file)[0]: file for file in _files(folder)}
    masks = {stem.removesuffix(BESIDE): file for stem, file in files.items() if stem.endswith(BESIDE)}
    pictures = {stem: file for stem, file in files.items() if not stem.endswith(BESIDE)}
    lonely = [Path(stem).name for stem in sorted(set(pictures) - set(masks))]
    _refuse_lonely(lonely, "pictures", f"NAME{BESIDE}.png", folder, folder)
    lonely = [Path(stem).name for stem in sorted(set(masks) - set(pictures))]
    _refuse_lonely(lonely, "masks", "picture", folder, folder)
    return (Pair(split, pictures[stem], masks[stem]) for stem in sorted(pictures))


def _refuse_lonely(stems: Sequence[str], what: str, partner: str, where: Path, other: Path) -> None:
    if stems:
        raise DataError(
            f"{shown(where)}: {len(stems)} {what} without a {partner} in {shown(other)}, the first is {stems[0]!r}; "
            "add what is missing or remove them"
        )


def _by_stem(folder: Path) -> dict[str, str]:
    """The files below a folder by their path there without the suffix."""
    found: dict[str, str] = {}
    for file in _files(folder):
        stem = os.path.splitext(os.path.relpath(file, folder))[0]
        if stem in found:
            raise DataError(f"{shown(folder)}: two files are called {stem!r}; leave one")
        found[stem] = file
    return found


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(".") and name != CLASSES and name.lower() not in ("thumbs.db", "desktop.ini"):
                yield os.path.join(parent, name)


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
