"""Parquet, Arrow and Feather files with image bytes, in the layout of Hugging Face ``datasets`` or a plain one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sartor.core.errors import DataError
from sartor.data.arrow_files import ARROW_FILE, ARROW_STREAM, PARQUET, ColumnFile, magic, open_columns
from sartor.data.source import (
    UNLABELLED,
    BadImage,
    Indices,
    Source,
    encode,
    encode_groups,
    printable,
    rows_by_split,
    shown,
    split_of,
    split_values,
)

_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather")
_IMAGES = ("image", "img", "picture", "photo", "bytes", "jpg", "jpeg", "png")
_LABELS = ("label", "labels", "class", "target", "fine_label", "category")


def matches(path: Path) -> bool:
    """Whether a file is one of these formats by its first bytes, or a folder holds such files by their suffix."""
    if path.is_file():
        start = magic(path)
        return start in (PARQUET, ARROW_FILE) or (start == ARROW_STREAM and path.suffix == ".arrow")
    return next(_below(path, 64), None) is not None


def read(path: Path) -> Source:
    """A file, or a folder whose files' or folders' names tell their split; a ``split`` column counts before names.

    Images are bytes or {bytes, path}; labels are whole numbers (with names in the schema's Hugging Face metadata,
    or without) or strings. Only the columns beside the images are read here.
    """
    if path.is_file():
        return read_files([path], [split_of(path.stem)], path.parent, shown(path.name))
    files = sorted(_below(path))
    return read_files(files, [_split_below(file, path) for file in files], path, shown(path.name or path))


def read_files(files: Sequence[Path], splits: Sequence[str | None], root: Path, name: str) -> Source:
    """The rows of several files of one schema, one after another, each file with its split if it has one."""
    with open_columns(files[0]) as first:
        schema = first.schema
    image, label = _image_column(schema, files[0]), _label_column(schema, files[0])
    values: dict[str, list[Any]] = {column: [] for column in (label, "split", "group") if column in schema.names}
    sizes: list[list[int]] = []
    for path in files:
        with open_columns(path) as file:
            sizes.append(file.sizes())
            for column, found in zip(values, _columns(file, list(values), image, path), strict=True):
                values[column] += found
    counts = [count for blocks in sizes for count in blocks]
    if not sum(counts):
        raise DataError(f"{name}: the table has no rows")
    by_file = [split for split, blocks in zip(splits, sizes, strict=True) for _ in range(sum(blocks))]
    labels, classes = _classes(values[label], _class_names(schema, label), f"{shown(files[0])}, column {label!r}")
    return Source(
        name=name,
        reader=ArrowReader(
            files=tuple(map(str, files)),
            root=str(root),
            column=image,
            begins=np.cumsum([0, *counts]),
            owners=np.repeat(np.arange(len(files)), [len(blocks) for blocks in sizes]),
            blocks=np.concatenate([np.arange(len(blocks)) for blocks in sizes]),
        ),
        labels=labels,
        classes=classes,
        splits=rows_by_split(split_values(values["split"], name) if "split" in values else by_file),
        files=tuple(map(str, files)),
        groups=encode_groups(values["group"]) if "group" in values else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ArrowReader:
    """Images by row: rows from ``begins[b]`` to ``begins[b + 1]`` are block ``blocks[b]`` of file ``owners[b]``."""

    files: tuple[str, ...]
    root: str
    column: str
    begins: Indices
    owners: Indices
    blocks: Indices

    def __len__(self) -> int:
        return int(self.begins[-1])

    def where(self, row: int) -> str:
        """The file below the root and the row within it."""
        owner = self.owners[self._block(np.asarray(row))]
        first = self.begins[np.searchsorted(self.owners, owner)]
        return f"{printable(os.path.relpath(self.files[owner], self.root))} row {row - first}"

    def starts(self) -> Indices:
        """The quarter points of the blocks: to go over a part of one is cheap beside decoding the rest."""
        return np.unique(self.begins[:-1, None] + np.diff(self.begins)[:, None] * np.arange(4) // 4)

    def read(self, rows: Sequence[int]) -> Iterator[Path | bytes | BadImage]:
        """The bytes; a row that has a path only gives the file at that path below the data set's folder."""
        wanted = np.asarray(rows)
        blocks = self._block(wanted)
        with ExitStack() as stack:
            opened, file = -1, None
            for block in np.unique(blocks):
                if self.owners[block] != opened:
                    stack.close()
                    opened = self.owners[block]
                    file = stack.enter_context(open_columns(Path(self.files[opened])))
                inside = wanted[blocks == block] - self.begins[block]
                yield from map(self._raw, _values(file, int(self.blocks[block]), self.column, inside))

    def _block(self, rows: Indices) -> Indices:
        return np.searchsorted(self.begins, rows, side="right") - 1

    def _raw(self, value: Any) -> Path | bytes | BadImage:
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is not None:
            return bytes(content)
        return Path(self.root, path) if path else BadImage("no image in this row")


def _values(file: Any, block: int, column: str, rows: Indices) -> Iterator[Any]:
    """The values of some rows (ascending, counted within the block), a few hundred in memory at a time."""
    begin = 0
    for array in file.batches(block, column):
        inside = rows[(rows >= begin) & (rows < begin + len(array))] - begin
        if len(inside):
            yield from array.take(pa.array(inside)).to_pylist()
        begin += len(array)
        if begin > rows[-1]:
            return


def _below(folder: Path, most: int | None = None) -> Iterator[Path]:
    """The files of these formats in a folder and below; ``most`` bounds the folders looked into."""
    for parent, _, names in islice(os.walk(folder), most):
        for name in names:
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _split_below(file: Path, root: Path) -> str | None:
    """The split that the file's name or, failing that, the nearest folder's name speaks of."""
    parts = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
    return next(filter(None, map(split_of, parts)), None)


def _features(schema: Any) -> dict[str, Any]:
    """The features that Hugging Face ``datasets`` writes into the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_column(schema: Any, path: Path) -> str:
    able = [field.name for field in schema if _holds_bytes(field.type)]
    marked = [name for name, feature in _features(schema).items() if feature.get("_type") == "Image" and name in able]
    return _choose(marked or able, _IMAGES, "column of image bytes", schema, path)


def _label_column(schema: Any, path: Path) -> str:
    marked = [n for n, f in _features(schema).items() if f.get("_type") == "ClassLabel" and n in schema.names]
    able = [f.name for f in schema if not _holds_bytes(f.type) and f.name not in ("split", "group", "path")]
    named = [name for name in able if name.lower() in _LABELS]
    return _choose(marked or named or able, _LABELS, "column of labels", schema, path)


def _choose(able: list[str], usual: tuple[str, ...], what: str, schema: Any, path: Path) -> str:
    """The only column that can be meant, or the one with the most usual name."""
    for name in usual:
        for column in able:
            if column.lower() == name:
                return column
    if len(able) == 1:
        return able[0]
    raise DataError(f"{shown(path)}: no {what}; name one {usual[0]!r} (the columns are {', '.join(schema.names)})")


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    names = _features(schema).get(label, {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _columns(file: ColumnFile, names: list[str], image: str, path: Path) -> list[list[Any]]:
    missing = [name for name in (*names, image) if name not in file.schema.names]
    if missing:
        raise DataError(f"{shown(path)}: lacks the column {missing[0]!r} that the other files have")
    table = file.table(names)
    return [table[name].to_pylist() for name in names]


def _classes(values: list[Any], names: tuple[str, ...] | None, where: str) -> tuple[Indices, tuple[str, ...]]:
    """Codes and class names; with names given, the values are positions in them and -1 is no label."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {float} and all(value is None or value != value or value.is_integer() for value in values):
        values = [None if value is None or value != value else int(value) for value in values]
        kinds = {int}
    if not kinds <= {int, str} and kinds != {bool}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{where} holds {found}; each image needs one whole number or one string")
    if names is None or kinds != {int}:
        return encode(values)
    labels = np.array([UNLABELLED if value is None else value for value in values], np.int64)
    if labels.min() < UNLABELLED or labels.max() >= len(names):
        raise DataError(f"{where}: label {labels.max()} has no name; the metadata names {len(names)} classes")
    return labels, tuple(map(printable, names))
