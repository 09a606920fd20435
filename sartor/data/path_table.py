"""A CSV (or TSV) file with the path and the label of each image, and optionally its split and group."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TextIO

from sartor.core.errors import DataError
from sartor.data.source import FilesReader, Source, encode, encode_groups, printable, rows_by_split, shown, split_values

_PATHS = ("image", "path", "file", "filename", "file_name", "filepath", "image_path")
_LABELS = ("label", "class", "target")
_SUFFIXES = (".csv", ".tsv")


def matches(path: Path) -> bool:
    """Whether a file is a table with the two columns, or a folder has one such table directly in it."""
    return bool(_tables(path))


def read(path: Path) -> Source:
    """One image per line; columns are found by name, paths are taken from the table's folder."""
    tables = _tables(path)
    if len(tables) > 1:
        raise DataError(f"{shown(path)}: several tables ({', '.join(shown(t.name) for t in tables)}); give one of them")
    table = tables[0]
    delimiter, header = _header(table)
    file, label = _column(header, _PATHS), _column(header, _LABELS)
    split, group = _column(header, ("split",)), _column(header, ("group",))
    listed = _lines(table, delimiter, len(header))
    lines = _once_each(listed, table, file, [column for column in (label, split) if column >= 0])
    labels, classes = encode([line[label].strip() for line in lines.values()])
    splits = [line[split] if split >= 0 else "" for line in lines.values()]
    again = len(listed) - len(lines)
    return Source(
        name=shown(path.name or path),
        reader=FilesReader(list(lines), str(table.parent)),
        labels=labels,
        classes=classes,
        splits=rows_by_split(split_values(splits, shown(table))),
        files=(*lines, str(table)),
        groups=encode_groups([line[group].strip() for line in lines.values()]) if group >= 0 else None,
        notices=(f"lines of {shown(table.name)} that list an image again: {again}",) if again else (),
    )


def _lines(table: Path, delimiter: str, width: int) -> list[list[str]]:
    """The lines below the header that are not blank."""
    try:
        with _open(table) as stream:
            lines = [line for line in csv.reader(stream, delimiter=delimiter) if line][1:]
    except csv.Error as error:
        raise DataError(f"{shown(table)}: not a table that can be read ({error})") from None
    for number, line in enumerate(lines):
        if len(line) != width:
            raise DataError(f"{shown(table)}: entry {number + 1} has {len(line)} values; the header names {width}")
    if not lines:
        raise DataError(f"{shown(table)}: no lines below the header")
    return lines


def _once_each(lines: list[list[str]], table: Path, file: int, columns: list[int]) -> dict[str, list[str]]:
    """Lines by path; raises DataError if an image is listed twice with different values in some columns."""
    found: dict[str, list[str]] = {}
    for line in lines:
        first = found.setdefault(os.path.normpath(os.path.join(table.parent, line[file])), line)
        for column in columns:
            if first[column] != line[column]:
                twice = f"{line[file]!r} is listed as {first[column]!r} and as {line[column]!r}"
                raise DataError(f"{shown(table)}: {printable(twice)}; an image has one label and one split")
    return found


def _tables(path: Path) -> list[Path]:
    """A file itself, or of a folder those tables whose first image is there, if they have the two columns."""
    if path.is_file():
        return [path] if path.suffix.lower() in _SUFFIXES and _is_table(path) else []
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _SUFFIXES and file.is_file()]
    return [file for file in files if _is_table(file) and _first_is_there(file)]


def _is_table(file: Path) -> bool:
    header = _header(file)[1]
    return _column(header, _PATHS) >= 0 <= _column(header, _LABELS)


def _first_is_there(table: Path) -> bool:
    delimiter, header = _header(table)
    with suppress(csv.Error, IndexError), _open(table) as stream:
        second = next(islice(csv.reader(stream, delimiter=delimiter), 1, None), [])
        return (table.parent / second[_column(header, _PATHS)]).is_file()
    return False


def _header(table: Path) -> tuple[str, list[str]]:
    """The delimiter (the one that the first line has most of) and the column names."""
    with _open(table) as stream:
        line = stream.readline(2**16)
    delimiter = max(",;\t", key=line.count)
    try:
        return delimiter, next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return delimiter, []


def _open(table: Path) -> TextIO:
    """As text; bytes that are none stay what they are, for file names may be so."""
    return table.open(newline="", encoding="utf-8-sig", errors="surrogateescape")


def _column(header: list[str], names: tuple[str, ...]) -> int:
    """The position of the first of the names that the header has, else -1."""
    present = [name.strip().lower() for name in header]
    return next((present.index(name) for name in names if name in present), -1)
