"""What every format reader gives: examples in file order, not yet decoded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sartor.core.errors import DataError
from sartor.core.rng import generator
from sartor.core.spec import canonical

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]
UNLABELLED = -1
_SPLITS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
_HASHED_WHOLE = 512 * 2**20
_SAMPLED_BLOCKS, _BLOCK = 4096, 16 * 2**10


class BadImage(DataError):
    """One image that cannot be used; the message is the short reason."""


class Reader(Protocol):
    """Raw images by row. Picklable, so that worker processes read for themselves."""

    def __len__(self) -> int: ...

    def where(self, row: int) -> str:
        """Where a row comes from, for reports."""

    def read(self, rows: Sequence[int]) -> Iterator[Path | bytes | Pixels | BadImage]:
        """The raw image of each of some rows (ascending): a file, its bytes, or pixels HW or HWC."""

    def starts(self) -> Indices:
        """The rows at which reading can begin without going over earlier ones, ascending."""


@dataclass(frozen=True, slots=True)
class Source:
    """The examples of a data set, row by row in file order.

    ``labels`` index ``classes`` (-1: no label); ``splits`` are the given ones, each ascending rows; ``files`` hold
    all that the reader reads; ``groups`` are codes of what must not be cut in two (a patient, a slide).
    """

    name: str
    reader: Reader
    labels: Indices
    classes: tuple[str, ...]
    splits: Mapping[str, Indices]
    files: tuple[str, ...]
    groups: Indices | None = None
    notices: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """A SHA-256 of labels, class names, given splits, groups, file sizes and file contents.

        Names and times of files have no part in it, so a copy has the fingerprint of its original. Up to 512 MiB
        all contents count; beyond that 4,096 blocks of 16 KiB at fixed random places do, and a change elsewhere
        that keeps every file's size is not seen.
        """
        total = hashlib.sha256(canonical([self.classes, sorted(self.splits)]).encode("utf-8", "surrogatepass"))
        for _, rows in sorted(self.splits.items()):
            total.update(np.int64(len(rows)).tobytes() + rows.tobytes())
        total.update(self.labels.tobytes())
        total.update(b"" if self.groups is None else self.groups.tobytes())
        sizes = np.array([_size(file) for file in self.files], np.int64)
        total.update(sizes.tobytes())
        for file, offset, count in _sampled(sizes):
            _hash_part(total, self.files[file], offset, count)
        return total.hexdigest()


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return -1  # a row that names a missing file is a bad image, found when it is read


def _sampled(sizes: Indices) -> Iterator[tuple[int, int, int]]:
    """The parts (file, offset, bytes) whose contents are hashed."""
    ends = np.cumsum(np.maximum(sizes, 0))
    total = int(ends[-1]) if len(ends) else 0
    if total <= _HASHED_WHOLE:
        yield from ((file, 0, int(size)) for file, size in enumerate(sizes) if size > 0)
        return
    places = np.sort(generator("fingerprint", total).integers(0, total, _SAMPLED_BLOCKS))
    for place, file in zip(places, np.searchsorted(ends, places, side="right"), strict=True):
        yield int(file), int(place - (ends[file] - sizes[file])), _BLOCK


def _hash_part(total: Any, file: str, offset: int, count: int) -> None:
    try:
        with open(file, "rb") as stream:
            stream.seek(offset)
            while count > 0 and (block := stream.read(min(count, 2**20))):
                total.update(block)
                count -= len(block)
    except OSError:
        total.update(b"unreadable")


@dataclass(frozen=True, slots=True)
class FilesReader:
    """One image per file."""

    paths: Sequence[str]
    root: str

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, row: int) -> str:
        """The path below the root, or the whole path of a file elsewhere."""
        return printable(self.paths[row].removeprefix(os.path.join(self.root, "")))

    def read(self, rows: Sequence[int]) -> Iterator[Path]:
        """The files."""
        return (Path(self.paths[row]) for row in rows)

    def starts(self) -> Indices:
        """Every row."""
        return np.arange(len(self.paths))


def window(reader: Reader, start: int, stop: int) -> tuple[Reader, range]:
    """What has to be sent to a worker that reads the rows from ``start`` to ``stop``, and their numbers in it."""
    if isinstance(reader, FilesReader):  # millions of paths are too much to send to everybody
        return FilesReader(reader.paths[start:stop], reader.root), range(stop - start)
    return reader, range(start, stop)


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name speaks of (``train-00000-of-00005``, ``val``, ``t10k-images``)."""
    words = re.findall(r"t10k|[a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def exact_split(name: str) -> str | None:
    """The split that a folder's name or a column's value is an accepted spelling of."""
    return _SPLITS.get(name.strip().lower())


def split_values(values: Iterable[Any], name: str) -> list[str | None]:
    """The splits that the values of a split column mean; raises DataError for one that means none."""
    values = ["" if value is None else str(value) for value in values]
    wrong = sorted({value for value in values if value.strip() and exact_split(value) is None})
    if wrong:
        raise DataError(f"{name}: unknown split {wrong[0]!r}; use train, valid or test")
    return [exact_split(value) for value in values]


def rows_by_split(names: Iterable[str | None]) -> dict[str, Indices]:
    """Row numbers by split name; rows without one belong to ``train``."""
    array = np.array([name or "train" for name in names], dtype=object)
    return {str(name): np.flatnonzero(array == name) for name in sorted(set(array))}


def encode(values: Sequence[Any]) -> tuple[Indices, tuple[str, ...]]:
    """Codes and class names of label values; None and "" are unlabelled; whole numbers sort as numbers."""
    known = {value for value in values if value is not None and value != ""}
    try:
        names = sorted(known, key=int)
    except (TypeError, ValueError):
        names = sorted(known, key=str)
    code = {name: i for i, name in enumerate(names)}
    return np.array([code.get(value, UNLABELLED) for value in values], np.int64), tuple(
        printable(str(n)) for n in names
    )


def encode_groups(values: Sequence[Any]) -> Indices:
    """Codes of group values; a row without one is a group of its own."""
    codes, names = encode([None if value is None else str(value) for value in values])
    alone = codes == UNLABELLED
    codes[alone] = len(names) + np.arange(alone.sum())
    return codes


def printable(text: str) -> str:
    """Text that can be written as UTF-8, whatever bytes a file name has."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def shown(path: Path | str) -> str:
    """A path for a one-line message: as it is, or quoted where it holds anything but printable characters."""
    text = printable(str(path))
    return text if text.isprintable() else repr(text)
