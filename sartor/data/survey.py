"""The first pass over a data set: choose a geometry, decode everything once, keep pixels and findings in the cache."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
import PIL

from sartor.core.errors import DataError, SpecError
from sartor.core.files import cache_dir, replacing, write_json
from sartor.core.spec import digest
from sartor.data.decode import decode
from sartor.data.decoding import Coloured, Pass, Progress, decode_all, is_grey
from sartor.data.preprocess import Preprocess
from sartor.data.source import BadImage, Indices, Source, shown
from sartor.data.store import Gather, PixelStore, PixelStream

_LAYOUT = 1  # changes when the files below do
_SAMPLE = 256  # images looked at to choose a geometry
_UNIFORM, _UNIFORM_SIDE = 0.9, 224  # so many images of one square size, up to this side, are kept as they are
_SIDE, _CROP_RATIO = 256, 0.875  # of photographs: resize to 256, crop 224
_DISK_SHARE = 0.5  # of the free space that one data set may take
_IDLE = 60.0  # seconds without a write after which a process must have ended
_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What one pass over the images found.

    ``bad`` gives the reason by row; ``moments`` [n, 2, channels] the sums of each image's pixels and their squares;
    ``fingerprint`` is the source's.
    """

    fingerprint: str
    geometry: Preprocess
    bad: Mapping[int, str]
    moments: Indices
    notices: tuple[str, ...]

    def normalised(self, rows: Indices) -> Preprocess:
        """The geometry with the mean and standard deviation per channel over the squares of some rows."""
        mean, squares = self.moments[rows].sum(0) / (len(rows) * self.geometry.side**2)
        std = np.sqrt(np.maximum(squares - mean**2, 1.0))  # one grey level at least, for sets without contrast
        return Preprocess(
            channels=self.geometry.channels,
            size=self.geometry.size,
            crop_ratio=self.geometry.crop_ratio,
            mean=tuple((mean / 255).tolist()),
            std=tuple((std / 255).tolist()),
            resize=self.geometry.resize,
        )


def open_pixels(
    source: Source, *, size: int | None = None, squash: bool = False, progress: Progress | None = None
) -> tuple[Survey, Gather]:
    """What is known of a source's images, and the images; ``size`` is the side in pixels that networks will see.

    With ``squash`` pictures are resized whole, not their centre square.
    All is decoded once and kept below ``cache_dir("pixels")``, found again by the contents' fingerprint. Several
    processes may read, and even build, at once. Where the pixels would take more than half of the free disk space,
    they are decoded on demand instead. Raises DataError if no image can be read or the cache cannot be written.
    """
    fingerprint = source.fingerprint()
    key = digest([fingerprint, size, _LAYOUT, PIL.__version__, *["squash"] * squash], 24)
    try:
        with _BUILDING:
            folder = cache_dir("pixels", key)
            _sweep(folder)
            found = _open(folder, source, fingerprint)
            if found is None:
                _survey(folder, source, size, squash, progress)
                found = _open(folder, source, fingerprint)
    except OSError as error:
        raise DataError(f"the cache cannot be used ({error}); set SARTOR_CACHE to a folder with room") from None
    if found is None:
        raise DataError(f"{shown(folder)}: the cache cannot be read back; delete this folder and try again")
    return found


def _open(folder: Path, source: Source, fingerprint: str) -> tuple[Survey, Gather] | None:
    """What an earlier pass left, if it is whole; a stream is given up when there is room for a store by now."""
    try:
        data = json.loads((folder / "survey.json").read_text())
        geometry = Preprocess.from_json(data["geometry"])
        bad = {int(row): str(why) for row, why in data["bad"]}
        survey = Survey(fingerprint, geometry, bad, np.load(folder / "moments.npy"), tuple(data["notices"]))
        store = PixelStore(folder / "pixels.npy") if data["stored"] else None
    except (OSError, ValueError, KeyError, TypeError, SpecError):
        return None
    if store is not None:
        return (survey, store) if store.shape == _shape(len(source.labels), geometry) else None
    fits = _fits(folder, len(source.labels), geometry)
    return None if fits else (survey, PixelStream(source.reader, geometry))


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: files of no living process here that nobody has written to for a minute."""
    for file in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _IDLE and not _alive(file.suffixes[-2][1:]):
                file.unlink()


def _alive(process: str) -> bool:
    """Whether a process of this machine has this number; on systems where that cannot be asked, none has."""
    try:
        if os.name == "posix":
            os.kill(int(process), 0)
            return True
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        pass
    return False


def _survey(folder: Path, source: Source, size: int | None, squash: bool, progress: Progress | None) -> None:
    geometry, notices, seconds = _choose_geometry(source, size, squash)
    try:
        _decode(folder, source, geometry, notices, seconds, progress)
    except Coloured:
        geometry = Preprocess(3, geometry.size, geometry.crop_ratio, resize=geometry.resize)
        _decode(folder, source, geometry, notices, seconds, progress)


def _choose_geometry(source: Source, size: int | None, squash: bool) -> tuple[Preprocess, list[str], float]:
    """Channels and size from up to 256 images, evenly spaced; also notices, and seconds per image.

    Sets of one square size up to 224 keep it. Others are resized to 256 (or to their median short side) and cropped
    to 224 (or to the multiple of 8 at or below 7/8 of it); with ``squash`` they are resized to that at once.
    """
    rows = np.unique(np.linspace(0, len(source.labels) - 1, min(len(source.labels), _SAMPLE)).astype(np.int64)).tolist()
    sizes, colour, reasons = [], False, []
    begun = time.perf_counter()
    for row, raw in zip(rows, source.reader.read(rows), strict=True):
        try:
            picture = decode(raw)
        except BadImage as reason:
            reasons.append(f"{source.reader.where(row)}: {reason}")
            continue
        sizes.append(picture.size)
        colour = colour or not is_grey(picture)
    seconds = (time.perf_counter() - begun) / len(rows)
    if not sizes:
        raise DataError(f"{source.name}: none of {len(rows)} images looked at can be read; the first is {reasons[0]}")
    (width, height), count = Counter(sizes).most_common(1)[0]
    uniform = count >= _UNIFORM * len(sizes)
    if uniform and width == height <= _UNIFORM_SIDE:
        return Preprocess(3 if colour else 1, size or width), [], seconds
    side = min(median_low([min(pair) for pair in sizes]), _SIDE)
    fitting = max(8, int(side * _CROP_RATIO) // 8 * 8)
    if squash:
        return Preprocess(3 if colour else 1, size or fitting, resize="squash"), [], seconds
    notices = [f"images are {width} x {height}: their centre square is used"] if uniform and width != height else []
    return Preprocess(3 if colour else 1, size or fitting, _CROP_RATIO), notices, seconds


def _decode(
    folder: Path, source: Source, geometry: Preprocess, notices: list[str], seconds: float, progress: Progress | None
) -> None:
    """Fill the cache folder; the survey is written last and says that the rest is whole."""
    count = len(source.labels)
    with ExitStack() as stack:
        moments = stack.enter_context(replacing(folder / "moments.npy"))
        np.lib.format.open_memmap(moments, "w+", np.int64, (count, 2, geometry.channels))
        pixels = None
        if _fits(folder, count, geometry):
            pixels = stack.enter_context(replacing(folder / "pixels.npy"))
            mapped = np.lib.format.open_memmap(pixels, "w+", np.uint8, _shape(count, geometry))
            _reserve(pixels, mapped.nbytes)
        bad = decode_all(source.reader, Pass(geometry, pixels, moments), seconds, progress)
    found = {"geometry": geometry.to_json(), "stored": pixels is not None, "bad": bad, "notices": notices}
    write_json(folder / "survey.json", found)


def _shape(count: int, geometry: Preprocess) -> tuple[int, int, int, int]:
    return count, geometry.channels, geometry.side, geometry.side


def _fits(folder: Path, count: int, geometry: Preprocess) -> bool:
    return int(np.prod(_shape(count, geometry), dtype=np.int64)) <= _DISK_SHARE * shutil.disk_usage(folder).free


def _reserve(path: Path, size: int) -> None:
    """Take the disk space now, for a disk that is full later would end the process, not raise an error."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
