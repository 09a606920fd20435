"""The one door to image data sets: a path or a name is recognised by what is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from sartor.core.errors import DataError
from sartor.data import cifar, folder, hub, idx, path_table
from sartor.data.source import Source, shown

BUNDLED = Path(__file__).with_name("bundled")
TAKEN = (
    "a folder of class folders, Parquet, Arrow or Feather with image bytes, CSV with the columns image and label, "
    "IDX, CIFAR batches, a hub data set (hub:owner/name) or digits"
)


def open_images(data: str | os.PathLike[str]) -> Source:
    """The examples of a data set, not yet decoded.

    ``data`` is a path; ``digits``, the bundled set; or a name on the hub. A path that exists is always meant as one.
    Raises DataError, saying what was found and what is taken, if nothing is recognised.
    """
    path = Path(data).expanduser()
    if not path.exists():
        if str(data) == "digits":
            return idx.read(BUNDLED / "digits")
        if hub.matches(str(data)):
            return hub.read(str(data))
        raise DataError(f"{shown(path)}: no such file or folder; give {TAKEN}")
    from sartor.data import arrow

    formats: list[tuple[Callable[[Path], bool], Callable[[Path], Source]]] = [
        (cifar.matches, cifar.read),
        (idx.matches, idx.read),
        (path_table.matches, path_table.read),
        (arrow.matches, arrow.read),
        (folder.matches, folder.read),
    ]
    for matches, read in formats:
        if matches(path):
            return read(path)
    raise DataError(f"{shown(path)}: {_found(path)}; give {TAKEN}")


def _found(path: Path) -> str:
    """What there is instead."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(8)
        return f"a file of {path.stat().st_size:,} bytes that begins with {start!r}" if start else "an empty file"
    entries = list(islice(path.iterdir(), 1000))
    if not entries:
        return "an empty folder"
    kinds = Counter(entry.suffix.lower() or "no suffix" for entry in entries if entry.is_file())
    files = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    folders = sum(entry.is_dir() for entry in entries)
    listed = f"{sum(kinds.values())} files{f' ({files})' if files else ''} and {folders} folders"
    return f"a folder with {listed}, none of a known layout"
