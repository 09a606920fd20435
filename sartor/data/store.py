"""Decoded squares by row: from a memory-mapped file or, where that has no room, decoded on demand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sartor.core.errors import DataError
from sartor.core.machine import cores
from sartor.data.preprocess import Preprocess
from sartor.data.source import BadImage, Indices, Pixels, Reader

_AHEAD = 4  # batches a stream decodes before they are asked for


class Gather(Protocol):
    """The images of a data set as uint8 squares [channels, side, side]."""

    def gather(self, rows: Indices) -> Pixels:
        """The pixels [n, channels, side, side] of some rows, in any order, as a new array."""

    def prefetch(self, rows: Indices) -> None:
        """Say that these very rows will be gathered soon."""


class PixelStore:
    """Pixels in a file that every process maps; the system keeps in memory what there is room for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        mapped = np.load(path, mmap_mode="r")
        self.shape = mapped.shape
        self._flat = np.asarray(mapped).reshape(len(mapped), -1)  # plain rows are gathered fastest

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelStore, (self.path,)

    def gather(self, rows: Indices) -> Pixels:
        """See ``Gather``; a copy of memory."""
        return self._flat[rows].reshape(len(rows), *self.shape[1:])

    def prefetch(self, rows: Indices) -> None:
        """Nothing to do."""


class PixelStream:
    """Images decoded when asked for, by threads on all cores: Pillow decodes and resizes outside Python's lock."""

    def __init__(self, reader: Reader, geometry: Preprocess) -> None:
        self.reader, self.geometry = reader, geometry
        self._threads = cores()
        self._pool = ThreadPoolExecutor(self._threads)
        self._ahead: OrderedDict[bytes, tuple[Pixels, list[Future[None]]]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelStream, (self.reader, self.geometry)

    def gather(self, rows: Indices) -> Pixels:
        """See ``Gather``. Raises DataError for an image that could be read before and now cannot."""
        with self._lock:
            found = self._ahead.pop(rows.tobytes(), None)
        out, parts = found or self._begin(rows)
        for part in parts:
            part.result()
        return out

    def prefetch(self, rows: Indices) -> None:
        """Begin to decode; of more than a few batches waiting, the oldest is given up."""
        with self._lock:
            if len(rows) and (key := rows.tobytes()) not in self._ahead:
                self._ahead[key] = self._begin(rows)
            if len(self._ahead) > _AHEAD:
                for part in self._ahead.popitem(last=False)[1][1]:
                    part.cancel()

    def _begin(self, rows: Indices) -> tuple[Pixels, list[Future[None]]]:
        out = np.empty((len(rows), self.geometry.channels, self.geometry.side, self.geometry.side), np.uint8)
        order = np.argsort(rows, kind="stable")
        pieces = [piece for piece in np.array_split(order, self._threads) if len(piece)]
        return out, [self._pool.submit(self._decode, rows[piece], piece, out) for piece in pieces]

    def _decode(self, rows: Indices, places: Indices, out: Pixels) -> None:
        unique, first = np.unique(rows, return_inverse=True)
        squares = np.empty((len(unique), *out.shape[1:]), np.uint8)
        for i, raw in enumerate(self.reader.read(unique.tolist())):
            try:
                squares[i] = self.geometry.square(raw)
            except BadImage as reason:
                raise DataError(f"{self.reader.where(int(unique[i]))}: could be read before, now: {reason}") from None
        out[places] = squares[first]
