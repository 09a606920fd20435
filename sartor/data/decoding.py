"""One pass over all images of a data set, in this process or in workers: decode, resize, sum up, note the bad ones."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np
from PIL.Image import Image

from sartor.core.errors import DataError
from sartor.core.machine import cores
from sartor.data.arrays import ArrayReader
from sartor.data.decode import decode, quiet
from sartor.data.preprocess import Preprocess
from sartor.data.source import BadImage, Indices, Pixels, Reader, window

Progress = Callable[[int, int], None]  # images done, of how many
Bad = list[tuple[int, str]]  # rows and reasons
Results = Generator[tuple[range, Bad], None, None]  # by span
_SPAN = 1024  # images after which progress is told
_HELD = 8 * 2**20  # bytes of pixels summed up at a time
_WORTH = 1.0  # seconds of work below which starting workers does not pay


class Coloured(Exception):
    """A picture with colour in a set that was taken for grey."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What to do with every image: bring it to ``geometry``, write its pixels and moments to the files named.

    ``pixels`` [n, channels, side, side] uint8, or None to look at the images only; ``moments`` [n, 2, channels]
    int64: the sums of an image's pixels and of their squares.
    """

    geometry: Preprocess
    pixels: Path | None
    moments: Path

    def run(self, reader: Reader, start: int, rows: range) -> Bad:
        """Do it for some rows of a reader, the first of which is row ``start`` of the whole; returns the bad ones."""
        moments = np.load(self.moments, mmap_mode="r+")
        pixels = np.load(self.pixels, mmap_mode="r+") if self.pixels else None
        bad: Bad = []
        image = (self.geometry.channels, self.geometry.side, self.geometry.side)
        step = max(1, _HELD // math.prod(image))
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            here = slice(start + first, start + first + len(part))
            shape = (len(part), *image)
            out = np.zeros(shape, np.uint8) if pixels is None else np.asarray(pixels[here])
            if not self._copied(reader, part, out):
                bad += [(here.start + i, why) for i, why in self._decode(reader, part, out)]
            flat = out.reshape(*shape[:2], -1)
            moments[here, 0] = flat.sum(2, dtype=np.int64)
            moments[here, 1] = np.square(flat, dtype=np.uint16).sum(2, dtype=np.int64)
        return bad

    def _copied(self, reader: Reader, part: range, out: Pixels) -> bool:
        """Copy at once what lies in arrays of the shape wanted."""
        images = reader.block(part.start, part.stop) if isinstance(reader, ArrayReader) else None
        if images is None or images.shape != (len(part), *out.shape[2:], out.shape[1]):
            return False
        out[:] = images.transpose(0, 3, 1, 2)
        return True

    def _decode(self, reader: Reader, part: range, out: Pixels) -> Iterator[tuple[int, str]]:
        with quiet():
            for i, raw in enumerate(reader.read(part)):
                try:
                    picture = decode(raw)
                    if self.geometry.channels == 1 and not is_grey(picture):
                        raise Coloured
                    out[i] = self.geometry.fit(picture)
                except (BadImage, MemoryError) as reason:
                    yield i, str(reason) or "does not fit in memory"


def is_grey(picture: Image) -> bool:
    """Whether a decoded picture has no colour: by its mode, or because its three channels are equal."""
    if picture.mode == "L":
        return True
    pixels = np.asarray(picture)
    return bool((pixels[..., :1] == pixels[..., 1:]).all())


def decode_all(reader: Reader, work: Pass, seconds: float, progress: Progress | None) -> Bad:
    """Run a pass over all rows; ``seconds`` is what one image is expected to take. Returns the bad rows, ascending.

    Workers write to the files themselves, so nothing but row numbers goes through pipes. Raises Coloured.
    """
    count = len(reader)
    workers = cores()
    alone = workers == 1 or seconds * count < _WORTH or isinstance(reader, ArrayReader) or not sys.executable
    spans = _spans(reader.starts(), count, _SPAN if alone else max(16, min(_SPAN, count // (8 * workers))))
    results = _here(reader, work, spans) if alone else _in_workers(reader, work, spans, min(workers, len(spans)))
    bad: Bad = []
    done = 0
    with closing(results):  # an interrupted pass ends its workers now, not when it is collected
        for span, found in results:
            bad += found
            done += len(span)
            if progress is not None:
                progress(done, count)
    return sorted(bad)


def _spans(starts: Indices, count: int, least: int) -> list[range]:
    """All rows in pieces of ``least`` or more that begin where reading can begin."""
    cuts = [0]
    while (following := int(np.searchsorted(starts, cuts[-1] + least))) < len(starts):
        cuts.append(int(starts[following]))
    return [range(a, b) for a, b in zip(cuts, [*cuts[1:], count], strict=True)]


def _here(reader: Reader, work: Pass, spans: list[range]) -> Results:
    for span in spans:
        yield span, work.run(reader, span.start, span)


def _in_workers(reader: Reader, work: Pass, spans: list[range], count: int) -> Results:
    """Results as they come. Workers end with this process, however it ends, because their input does."""
    workers = [_start() for _ in range(count)]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(span: range) -> tuple[range, Bad]:
        worker = idle.get()
        try:
            return span, _ask(worker, reader, work, span)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(count)
    try:
        for future in as_completed([pool.submit(ask, span) for span in spans]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with suppress(BrokenPipeError):  # of what was not sent any more
                    pipe.close()  # type: ignore[union-attr]
        pool.shutdown()


def _start() -> subprocess.Popen[bytes]:
    """A fresh interpreter: it inherits no threads and, unlike a spawned process, does not run the user's script."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
    command = [sys.executable, "-P", "-c", "from sartor.data.decoding import serve; serve()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _ask(worker: subprocess.Popen[bytes], reader: Reader, work: Pass, span: range) -> Bad:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        pickle.dump((work, span.start, *window(reader, span.start, span.stop)), worker.stdin)
        worker.stdin.flush()
        line = worker.stdout.readline()
    except (BrokenPipeError, ValueError):
        line = b""
    if not line:
        raise DataError(
            f"a decoding process died between {reader.where(span.start)} and {reader.where(span.stop - 1)} "
            f"(exit code {worker.wait()}); take the image that does it out of the data"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise DataError(answer["error"])
    if answer["coloured"]:
        raise Coloured
    return [(row, why) for row, why in answer["bad"]]


def serve() -> None:
    """A worker: spans come on standard input, pickled by the process that started it; answers go out as lines."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers, sys.stdout = sys.stdout, sys.stderr
    while (answer := _answer(sys.stdin.buffer)) is not None:
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:
            os._exit(0)  # the parent was killed; there is nobody to complain to


def _answer(stream: IO[bytes]) -> dict[str, Any] | None:
    try:
        work, start, reader, rows = pickle.load(stream)
    except EOFError:
        return None
    try:
        return {"coloured": False, "bad": work.run(reader, start, rows)}
    except Coloured:
        return {"coloured": True}
    except DataError as error:
        return {"error": str(error)}
