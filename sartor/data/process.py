"""Labelled folders made ready for pretraining, as ImageNet-21K was (Ridnik et al. 2021, arXiv 2104.10972)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sartor.core.errors import DataError
from sartor.core.files import replacing
from sartor.data.decode import decode
from sartor.data.source import BadImage, shown

MORE_THAN, VALID, SIDE = 500, 50, 224


@dataclass(frozen=True, slots=True)
class Processed:
    """What became of a folder: how many classes and images are there now, and what was left out."""

    classes: int
    train: int
    valid: int
    dropped: tuple[str, ...]
    unreadable: tuple[str, ...]


def process_folder(
    source: str | Path,
    target: str | Path,
    *,
    more_than: int = MORE_THAN,
    valid: int = VALID,
    side: int = SIDE,
    keep_aspect: bool = False,
) -> Processed:
    """Write ``target/train`` and ``target/valid`` with a folder of images for each class of ``source``.

    Classes of ``more_than`` images or fewer are dropped, and of the others the first ``valid`` files by name are the
    validation images. An image with neither height nor width of at least ``side`` is copied as it is; others become
    JPEG squares of ``side``, whatever their shape, or (``keep_aspect``) have a short edge of ``side``. Files that are
    no images are left out and named. Raises DataError for a source without such classes or a target that is there.
    """
    source, target = Path(source), Path(target)
    if valid < 0 or more_than < valid or side < 1:
        raise DataError(f"more-than {more_than} must be at least valid {valid}, and side {side} at least 1")
    if target.exists():
        raise DataError(f"{shown(target)}: is there already; name a new folder")
    found = dict(_classes(source))
    kept = {name: files for name, files in found.items() if len(files) > more_than}
    if len(kept) < 2:
        raise DataError(
            f"{shown(source)}: {len(kept)} of {len(found)} class folders have over {more_than} files; lower the bound"
        )
    bad, counts = list[str](), {"train": 0, "valid": 0}
    for name, files in kept.items():
        for number, file in enumerate(files):
            split = "valid" if number < valid else "train"
            try:
                write_resized(file, target / split / name, side, keep_aspect=keep_aspect)
            except BadImage as reason:
                bad.append(f"{shown(file)}: {reason}")
            else:
                counts[split] += 1
    return Processed(len(kept), counts["train"], counts["valid"], tuple(sorted(found.keys() - kept)), tuple(bad))


def write_resized(file: Path, folder: Path, side: int, *, keep_aspect: bool = False) -> Path:
    """One image in a folder, resized by the rule of ``process_folder``; raises BadImage for what is none."""
    picture = decode(file)
    folder.mkdir(parents=True, exist_ok=True)
    width, height = picture.size
    if max(width, height) < side:
        place = folder / file.name
        shutil.copyfile(file, place)
        return place
    size = (side, side)
    if keep_aspect:
        scale = side / min(width, height)
        size = round(width * scale), round(height * scale)
    place = folder / f"{file.stem}.JPEG"
    with replacing(place) as temporary:
        picture.convert("RGB").resize(size, Image.Resampling.BILINEAR).save(temporary, "JPEG", quality=95)
    return place


def _classes(source: Path) -> Iterator[tuple[str, list[Path]]]:
    """Class folders with their files, both sorted by name as bytes, as ``ls`` of the C locale lists them."""
    try:
        folders = sorted((e for e in os.scandir(source) if e.is_dir()), key=lambda e: os.fsencode(e.name))
    except OSError as error:
        raise DataError(f"{shown(source)}: cannot be read ({error.strerror}); give a folder of class folders") from None
    if not folders:
        raise DataError(f"{shown(source)}: holds no class folders; give a folder of class folders")
    for folder in folders:
        files = (e.path for e in os.scandir(folder.path) if e.is_file() and not e.name.startswith("."))
        yield folder.name, [Path(path) for path in sorted(files, key=os.fsencode)]
