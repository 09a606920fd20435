"""Parquet and Arrow files behind one face: blocks that can be read alone, and columns read without the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sartor.core.errors import DataError
from sartor.data.source import shown

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARRO", b"\xff\xff\xff\xff"
_BATCH = 256  # rows of a Parquet row group held at a time


class ColumnFile(Protocol):
    """A table in blocks of rows."""

    schema: Any

    def sizes(self) -> list[int]:
        """The rows of each block."""

    def table(self, columns: Sequence[str]) -> Any:
        """Some columns of all rows."""

    def batches(self, block: int, column: str) -> Iterator[Any]:
        """One column of a block, as arrays of some rows each."""


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        self.schema = self._file.schema_arrow

    def sizes(self) -> list[int]:
        metadata = self._file.metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def table(self, columns: Sequence[str]) -> Any:
        return self._file.read(columns=list(columns))

    def batches(self, block: int, column: str) -> Iterator[Any]:
        for batch in self._file.iter_batches(_BATCH, row_groups=[block], columns=[column]):
            yield batch.column(0)

    def close(self) -> None:
        self._file.close()


class _Ipc:
    """An Arrow file or stream, mapped into memory: a block is a record batch."""

    def __init__(self, path: Path, stream: bool) -> None:
        self._map, self._stream = pa.memory_map(str(path)), stream
        self.schema = self._reader([]).schema

    def _reader(self, fields: list[int]) -> Any:
        self._map.seek(0)
        opened = pa.ipc.open_stream if self._stream else pa.ipc.open_file
        return opened(self._map, options=pa.ipc.IpcReadOptions(included_fields=fields))

    def _all(self, columns: Sequence[str]) -> list[Any]:
        reader = self._reader([self.schema.get_field_index(name) for name in columns])
        return list(reader) if self._stream else [reader.get_batch(i) for i in range(reader.num_record_batches)]

    def sizes(self) -> list[int]:
        return [batch.num_rows for batch in self._all(self.schema.names[-1:])]

    def table(self, columns: Sequence[str]) -> Any:
        return pa.Table.from_batches(self._all(columns))

    def batches(self, block: int, column: str) -> Iterator[Any]:
        if self._stream:
            batch = self._all([column])[block]
        else:
            batch = self._reader([self.schema.get_field_index(column)]).get_batch(block)
        yield batch.column(0)

    def close(self) -> None:
        self._map.close()


def magic(path: Path) -> bytes:
    """The first four bytes."""
    with path.open("rb") as file:
        return file.read(4)


@contextmanager
def open_columns(path: Path) -> Iterator[ColumnFile]:
    """Open a Parquet file, an Arrow (Feather) file or an Arrow stream; raises DataError if it is damaged."""
    try:
        start = magic(path)
        file = _Parquet(path) if start == PARQUET else _Ipc(path, start == ARROW_STREAM)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{shown(path)}: cannot be read as Parquet or Arrow: {_first_line(error)}") from None
    try:
        yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown(path)}: damaged: {_first_line(error)}") from None
    finally:
        file.close()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
