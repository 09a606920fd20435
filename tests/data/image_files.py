"""Small real files in the formats users have, made on the spot."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def colours(n: int, side: int = 8, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random uint8 images [n, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def class_folders(root: Path, counts: dict[str, int], side: int = 8, seed: int = 0) -> Path:
    """PNG files ``root/class/number.png``."""
    for i, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for j, image in enumerate(colours(count, side, seed + i)):
            (root / name / f"{j}.png").write_bytes(encoded(image))
    return root


def write_idx(path: Path, array: np.ndarray[Any, Any], *, shape: tuple[int, ...] | None = None) -> None:
    """A uint8 IDX file, compressed if its name says so; ``shape`` lies in the header."""
    shape = shape or array.shape
    raw = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def png_claiming(width: int, height: int, depth: int = 1) -> bytes:
    """A PNG whose header states a size that its few bytes of content do not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content
