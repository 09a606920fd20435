"""CIFAR-10 and CIFAR-100 as published: binary or Python batches, in a folder or in the .tar.gz.

The Python batches are pickles. They are read by an unpickler that knows only the few names such a file needs, and
stands inert values in for them, so that nothing in a file runs.
"""

from __future__ import annotations

import pickle
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sartor.core.errors import DataError
from sartor.core.files import cache_dir, replacing_folder
from sartor.core.spec import digest
from sartor.data.arrays import ArrayPart, ArrayReader
from sartor.data.source import Indices, Pixels, Source, printable, rows_by_split, shown

_PIXELS = 3 * 32 * 32
_MOST = 256 * 2**20  # bytes of one member of an archive; the largest published one has 184 million
_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TRAIN = {*_BATCHES, "train"}
_TEST = {"test_batch", "test"}
_NAMES = ("batches.meta", "meta", "batches.meta.txt", "fine_label_names.txt")
_KNOWN = {*_TRAIN, *_TEST, *(f"{name}.bin" for name in _TRAIN | _TEST), *_NAMES}


def matches(path: Path) -> bool:
    """Whether a folder (or one folder in it), a tar archive or a single file holds batches under their usual names."""
    if path.is_file() and path.name not in _KNOWN:
        return _is_archive(path)
    return any(map(_is_batch, _members(path)))


def read(path: Path) -> Source:
    """All batches found; CIFAR-100 with its fine labels. An archive is unpacked into the cache, once."""
    members = _members(path if path.is_dir() or path.name in _KNOWN else _unpacked(path))
    batches = sorted(filter(_is_batch, members))
    if len({name.endswith(".bin") for name in batches}) > 1:
        raise DataError(f"{shown(path)}: both binary and Python batches; keep one kind")
    labels = [_batch(members[name])[1] for name in batches]
    parts = tuple(
        ArrayPart(partial(_pixels, members[name]), len(codes), name)
        for name, codes in zip(batches, labels, strict=True)
    )
    splits = ("test" if name.removesuffix(".bin") in _TEST else "train" for name in batches)
    joined = np.concatenate(labels)
    return Source(
        name=shown(path.name or path),
        reader=ArrayReader(parts),
        labels=joined,
        classes=_class_names(members, int(joined.max()) + 1),
        splits=rows_by_split(split for split, part in zip(splits, parts, strict=True) for _ in range(part.count)),
        files=tuple(str(members[name]) for name in batches),
    )


def unpickle(content: bytes, name: str) -> dict[bytes, Any]:
    """The dictionary in a Python batch; raises DataError for a pickle of anything but plain values and arrays."""
    try:
        found = _Unpickler(BytesIO(content), encoding="bytes").load()
    except _Refused as refused:
        raise DataError(f"{shown(name)}: not a CIFAR batch: its pickle asks for {refused}, which is not run") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{shown(name)}: not a CIFAR batch ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise DataError(f"{shown(name)}: not a CIFAR batch: it holds no dictionary")
    return {key if isinstance(key, bytes) else str(key).encode(): value for key, value in found.items()}


class _Refused(Exception):
    """A pickle names something that a batch does not need; the message is the name."""


class _Inert:
    """Stands for any NumPy object in a pickle: keeps what it is made from and its state, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _Unpickler(pickle._Unpickler):
    """The pure Python one: the other allocates as much memory as a file's numbers say."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _Inert


def _batch(file: Path) -> tuple[Pixels, Indices]:
    """Pixels [n, 32, 32, 3] and labels [n] of a batch."""
    name, content = file.name, file.read_bytes()
    if name.endswith(".bin"):
        width = _PIXELS + (1 if name.removesuffix(".bin") in {*_BATCHES, "test_batch"} else 2)
        if not content or len(content) % width:
            raise DataError(f"{shown(file)}: {len(content)} bytes are no whole number of {width}-byte records")
        records = np.frombuffer(content, np.uint8).reshape(-1, width)
        labels, flat = records[:, -_PIXELS - 1].astype(np.int64), records[:, -_PIXELS:]
    else:
        found = unpickle(content, name)
        labels, flat = _label_list(found, name), _array(found.get(b"data"), name)
        if len(labels) != len(flat):
            raise DataError(f"{shown(file)}: {len(labels)} labels for {len(flat)} images")
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _label_list(found: Mapping[bytes, Any], name: str) -> Indices:
    labels = found.get(b"fine_labels", found.get(b"labels"))
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 100 for label in labels):
        raise DataError(f"{shown(name)}: not a CIFAR batch: it has no list of labels")
    return np.array(labels, np.int64)


def _array(value: Any, name: str) -> Pixels:
    """The pixels in the state of a pickled array: (version, shape, dtype, Fortran order, content)."""
    state = value.state if isinstance(value, _Inert) else None
    if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], bytes) and len(state[4]) % _PIXELS == 0:
        return np.frombuffer(state[4], np.uint8).reshape(-1, _PIXELS)
    raise DataError(f"{shown(name)}: not a CIFAR batch: it has no array of {_PIXELS} bytes per image")


def _pixels(file: Path) -> Pixels:
    return _batch(file)[0]


def _class_names(members: Mapping[str, Path], count: int) -> tuple[str, ...]:
    """The names in the file of names; numbers where there is none."""
    for file in (members[name] for name in _NAMES if name in members):
        if file.suffix == ".txt":
            lines = file.read_text("utf-8", errors="replace").splitlines()
            names: Any = [line.strip() for line in lines if line.strip()]
        else:
            meta = unpickle(file.read_bytes(), file.name)
            names = meta.get(b"fine_label_names", meta.get(b"label_names"))
        if isinstance(names, list) and len(names) >= count:
            return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
    return tuple(map(str, range(count)))


def _is_batch(name: str) -> bool:
    return name.removesuffix(".bin") in _TRAIN | _TEST


def _members(path: Path) -> dict[str, Path]:
    """The files of CIFAR's names in a folder and in the one folder within it, or beside a single batch."""
    if path.is_dir():
        inner = [entry for entry in path.iterdir() if entry.name.startswith("cifar-10") and entry.is_dir()]
        files = [file for folder in (path, *inner[:1]) for file in folder.iterdir()]
    else:
        files = [path, *(path.parent / name for name in _NAMES)]
    return {file.name: file for file in files if file.name in _KNOWN and _plausible(file)}


def _plausible(file: Path) -> bool:
    """Whether a file that has one of the short names begins like one of CIFAR's."""
    if not file.is_file():
        return False
    if file.suffix:
        return True
    with file.open("rb") as stream:
        return stream.read(1) in (b"\x80", b"(")


def _is_archive(path: Path) -> bool:
    """Whether a file is a tar archive that soon comes to a batch."""
    try:
        with tarfile.open(path) as archive:
            return any(_is_batch(Path(member.name).name) for member in islice(archive, 16))
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False


def _unpacked(path: Path) -> Path:
    """A folder of the cache with the archive's files of CIFAR's names, whatever folders they are in there."""
    status = path.stat()
    folder = cache_dir("archives") / digest([printable(str(path.resolve())), status.st_size, status.st_mtime_ns], 24)
    if folder.is_dir():
        return folder
    try:
        with replacing_folder(folder) as temporary, tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in _KNOWN and member.isfile() and member.size <= _MOST:
                    with archive.extractfile(member) as stream, (temporary / name).open("wb") as file:  # type: ignore[union-attr]
                        shutil.copyfileobj(stream, file)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{shown(path)}: damaged archive ({error}); get the file again") from None
    return folder
