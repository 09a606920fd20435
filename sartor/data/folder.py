"""A folder of class folders, or of split folders (train, valid or val, test) that hold class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sartor.core.errors import DataError
from sartor.data.source import FilesReader, Indices, Source, exact_split, printable, shown

_IGNORED = {"thumbs.db", "desktop.ini"}


def matches(path: Path) -> bool:
    """Whether a folder holds a folder with a file somewhere below it."""
    return path.is_dir() and any(next(_files(folder), None) for folder in _folders(path))


def read(path: Path) -> Source:
    """The classes are the folder names, sorted; files may lie deeper. Empty class folders are dropped and noted.

    Every file but hidden ones is taken for an image; one that is not will be listed as skipped. Of a folder that
    holds nothing but one folder of folders, that one is meant.
    """
    name = shown(path.name or path)
    while len(inside := _folders(path)) == 1 and not exact_split(inside[0].name) and _holds_folders_only(inside[0]):
        path = inside[0]
    splits = [folder for folder in _folders(path) if exact_split(folder.name) and _holds_no_files(folder)]
    if not any(map(_holds_folders_only, splits)):
        splits = []
    roots = [(exact_split(folder.name) or "", folder) for folder in splits] or [("train", path)]
    notices = [
        f"folder {shown(other)} is not used: it is beside the split folders but is no split"
        for other in (_folders(path) if splits else [])
        if other not in splits
    ]
    paths: list[str] = []
    classes: list[str] = []
    names: list[str] = []
    for split, root in roots:
        for folder in _folders(root):
            files = sorted(_files(folder))
            if not files:
                notices.append(f"class folder {shown(folder)} is empty")
            paths += files
            classes += [folder.name] * len(files)
            names += [split] * len(files)
    if not paths:
        raise DataError(f"{shown(path)}: the class folders hold no images; put images into them")
    kept, labels = np.unique(np.array(classes, dtype=object), return_inverse=True)
    return Source(
        name=name,
        reader=FilesReader(paths, str(path)),
        labels=labels.astype(np.int64),
        classes=tuple(map(printable, kept)),
        splits=_rows(names, [split for split, _ in roots]),
        files=tuple(paths),
        notices=tuple(notices),
    )


def _rows(names: list[str], splits: list[str]) -> dict[str, Indices]:
    array = np.array(names)
    return {split: np.flatnonzero(array == split) for split in splits}


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _holds_folders_only(folder: Path) -> bool:
    return _holds_no_files(folder) and bool(_folders(folder))


def _holds_no_files(folder: Path) -> bool:
    """Whether a folder named like a split has no file of its own, which a class of that name would have."""
    with os.scandir(folder) as entries:
        return all(entry.is_dir() or _ignored(entry.name) for entry in entries)


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if not _ignored(name):
                yield os.path.join(parent, name)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED
