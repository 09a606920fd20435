"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_dir(*parts: str) -> Path:
    """A folder below ``$SARTOR_CACHE`` (default: the user's cache folder), made if missing."""
    root = os.environ.get("SARTOR_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "sartor")
    path = Path(root).expanduser().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a kill or a power cut leaves the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically."""
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success sync it and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder; on success sync its files and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_temporaries(folder: Path, name: str = "*") -> None:
    """Remove what killed writers left beside the files of a folder; nobody may be writing there."""
    for leftover in (*folder.glob(f".{name}.*.tmp"), *folder.glob(f".{name}.*.old")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(path: Path) -> str:
    """The SHA-256 of a folder: of the names and contents of its files, in sorted order."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def recall(path: Path) -> Any:
    """The JSON value stored at ``path``; None if it is not there or not readable."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, where the system lets us."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, PermissionError):
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # folders cannot be synced on some systems
    finally:
        os.close(descriptor)
