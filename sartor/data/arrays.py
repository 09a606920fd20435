"""A reader of images that lie decoded in arrays: IDX files, CIFAR batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from sartor.core.errors import DataError
from sartor.data.source import BadImage, Indices, Pixels


@dataclass(frozen=True)
class ArrayPart:
    """``count`` images that ``load`` gives as one uint8 array [count, height, width(, channels)]."""

    load: Callable[[], np.ndarray[Any, Any]]
    count: int
    name: str


@dataclass(frozen=True)
class ArrayReader:
    """The images of several parts, one after another; each part is loaded once, when it is first read."""

    parts: tuple[ArrayPart, ...]

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts}

    @cached_property
    def _arrays(self) -> tuple[Pixels, ...]:
        arrays = tuple(part.load() for part in self.parts)
        for part, array in zip(self.parts, arrays, strict=True):
            if array.dtype != np.uint8 or array.ndim not in (3, 4):
                raise DataError(f"{part.name}: {array.dtype} of shape {array.shape} are no 8-bit images")
        return arrays

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(part.count for part in self.parts))

    def where(self, row: int) -> str:
        """The part's name and the number within it."""
        part = int(np.searchsorted(self._ends, row, side="right"))
        return f"{self.parts[part].name} #{row - self._ends[part] + self.parts[part].count}"

    def read(self, rows: Sequence[int]) -> Iterator[Pixels | BadImage]:
        """The pixels HW or HWC."""
        for row in rows:
            part = int(np.searchsorted(self._ends, row, side="right"))
            yield self._arrays[part][row - self._ends[part]]  # counted from the part's end

    def block(self, start: int, stop: int) -> Pixels | None:
        """The images [n, height, width, channels] of a range of rows, if it lies in one part."""
        part = int(np.searchsorted(self._ends, start, side="right"))
        if stop > self._ends[part]:
            return None
        first = self._ends[part] - self.parts[part].count
        images = self._arrays[part][start - first : stop - first]
        return images if images.ndim == 4 else images[..., None]

    def starts(self) -> Indices:
        """Every row."""
        return np.arange(len(self))
