"""IDX, the format of MNIST: a file of images and a file of labels, plain or gzip-compressed."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from sartor.core.errors import DataError
from sartor.data.arrays import ArrayPart, ArrayReader
from sartor.data.source import Source, encode, rows_by_split, shown, split_of

_DTYPES: Mapping[int, str] = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_GZIP_MOST = 1032  # deflate cannot grow further


def matches(path: Path) -> bool:
    """Whether a file is IDX, or a folder has IDX files directly in it."""
    files = [path] if path.is_file() else _candidates(path)
    return any(_shape(file) is not None for file in files)


def read(path: Path) -> Source:
    """Pairs of an images file and a labels file whose names differ in that word only; ``t10k`` is the test split.

    Of an images file alone, the labels beside it are taken.
    """
    folder = path if path.is_dir() else path.parent
    shapes = {file: shape for file in _candidates(folder) if (shape := _shape(file)) is not None}
    labels = {_stem(file): file for file, shape in shapes.items() if len(shape) == 1}
    images = [file for file, shape in shapes.items() if len(shape) in (3, 4) and path in (file, folder)]
    if not images:
        raise DataError(f"{shown(path)}: IDX files, but none with images (three or four dimensions)")
    parts, values, splits, files = [], [], [], []
    for file in images:
        beside = labels.get(_stem(file))
        if beside is None:
            raise DataError(
                f"{shown(file)}: no labels file beside it; it must have the same name but 'labels' for 'images'"
            )
        count = shapes[file][0]
        if shapes[beside] != (count,):
            raise DataError(f"{shown(beside)}: {shapes[beside][0]} labels for {count} images of {shown(file.name)}")
        split = split_of(file.name) or "train"
        if split in splits:
            raise DataError(f"{shown(folder)}: several {split} sets; give the images file of the one you mean")
        parts.append(ArrayPart(partial(load, file), count, file.name))
        values += load(beside).tolist()
        splits.append(split)
        files += [str(file), str(beside)]
    codes, classes = encode(values)
    return Source(
        name=shown(path.name or path),
        reader=ArrayReader(tuple(parts)),
        labels=codes,
        classes=classes,
        splits=rows_by_split(split for split, part in zip(splits, parts, strict=True) for _ in range(part.count)),
        files=tuple(files),
    )


def load(file: Path) -> np.ndarray[Any, Any]:
    """The array of an IDX file; plain files are mapped into memory. Raises DataError if it is not whole."""
    shape = _shape(file)
    if shape is None:
        raise DataError(f"{shown(file)}: not an IDX file")
    with _open(file) as stream:
        dtype = np.dtype(_DTYPES[_header(stream.read(4))[0]])
    offset = 4 + 4 * len(shape)
    needed, there = offset + math.prod(shape) * dtype.itemsize, file.stat().st_size
    if _compressed(file):
        content = _decompressed(file, needed) if needed <= there * _GZIP_MOST else b""
        if len(content) == needed:
            return np.frombuffer(content, dtype, offset=offset).reshape(shape)
    elif needed <= there:
        return np.memmap(file, dtype, "r", offset, shape) if needed > offset else np.empty(shape, dtype)
    raise DataError(f"{shown(file)}: shorter than its header says; get the file again")


def _decompressed(file: Path, size: int) -> bytes:
    try:
        with _open(file) as stream:
            return stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{shown(file)}: damaged gzip file ({error}); get the file again") from None


def _candidates(folder: Path) -> list[Path]:
    files = sorted(entry for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else []
    return files if len(files) <= 64 else []


def _shape(file: Path) -> tuple[int, ...] | None:
    """The dimensions an IDX header states; None if the file does not begin with one."""
    try:
        with _open(file) as stream:
            kind, dimensions = _header(stream.read(4))
            if kind not in _DTYPES or not 1 <= dimensions <= 4:
                return None
            return struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
    except (OSError, EOFError, ValueError, struct.error, zlib.error):
        return None


def _header(magic: bytes) -> tuple[int, int]:
    """Type code and number of dimensions."""
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError("not IDX")
    return magic[2], magic[3]


def _compressed(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == _GZIP


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file) if _compressed(file) else file.open("rb")  # type: ignore[return-value]


def _stem(file: Path) -> str:
    """What the names of an images file and of its labels file have in common."""
    return re.sub(r"images?|labels?|idx\d", "", file.name.lower())
