"""Square tiles of a stated physical size out of large images, resampled to a side in pixels.

Of a pyramid TIFF the smallest level that is still fine enough is read; a level is decoded as a whole, one image at a
time. The tiles lie in class folders beside a table that names the image, or patient, each was cut from as its group.
"""

from __future__ import annotations

import csv
import io
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sartor.core.errors import DataError
from sartor.core.files import replacing_folder, write_atomic
from sartor.core.rng import generator
from sartor.data.decode import decode, quiet
from sartor.data.source import BadImage, printable, shown

TABLE = "tiles.csv"
MAX_PIXELS = 500_000_000  # of the level that is read: one and a half gigabytes
WHITE = 220  # a pixel whose channels are all at least this is background
SHORT = 0.01  # an image may be this share smaller than a tile: 512 pixels of 0.39 µm are 199.7 of 200 µm
_PLAUSIBLE = (0.02, 50.0)  # micrometres per pixel of a scanner or camera; screens and printers have hundreds
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of ``edge`` micrometres, ``side`` pixels when written, a share ``stride`` of the edge apart.

    ``mpp`` is how many micrometres a pixel of the images is (None: read from each file). A tile of which more than a
    share ``empty`` is background is left out.
    """

    edge: float = 200.0
    side: int = 512
    mpp: float | None = None
    stride: float = 1.0
    empty: float = 0.5

    def __post_init__(self) -> None:
        for name in ("edge", "side", "stride"):
            if getattr(self, name) <= 0:
                raise DataError(f"tiles: {name} must be more than 0, not {getattr(self, name)}")
        if self.mpp is not None and self.mpp <= 0:
            raise DataError(f"tiles: mpp must be more than 0, not {self.mpp}")
        if not 0 <= self.empty <= 1:
            raise DataError(f"tiles: empty is a share from 0 to 1, not {self.empty}")

    @property
    def target(self) -> float:
        """Micrometres per pixel of the tiles."""
        return self.edge / self.side

    def boxes(self, size: tuple[int, int], mpp: float) -> list[tuple[float, float, float, float]]:
        """The tiles (left, top, right, bottom) in pixels of an image (width, height), row by row; perhaps none."""
        edge = self.edge / mpp
        if min(size) < edge * (1 - SHORT):
            return []
        edge = min(edge, *size)
        counts = [int((length - edge) / (edge * self.stride) + 1e-9) + 1 for length in size]
        lefts, tops = ([n * edge * self.stride for n in range(count)] for count in counts)
        return [(left, top, min(left + edge, size[0]), min(top + edge, size[1])) for top in tops for left in lefts]


@dataclass(frozen=True, slots=True)
class Tiled:
    """What tiling did: how many images and tiles, tiles left out as background, and which images were left out."""

    images: int
    tiles: int
    background: int
    skipped: tuple[str, ...]


def tile_images(
    images: Path,
    out: Path,
    tiling: Tiling,
    *,
    group: str = "",
    fold: int | None = None,
    seed: int = 1234,
    progress: Callable[[int, int], None] | None = None,
) -> Tiled:
    """Cut all images of a folder (or one file) into tiles in the new folder ``out``, which appears whole.

    Class folders are kept, and ``tiles.csv`` has a line for each tile, a format that ``open_images`` reads: its group
    is the image or, with ``group``, what that regular expression finds in the file's name (a patient's code).
    ``fold`` adds a split column by ``fold_splits``. Images smaller than a tile are left out.

    Raises DataError if no image gives a tile, one cannot be read, or its resolution is not known.
    """
    found = _found(images)
    if out.exists():
        raise DataError(f"{shown(out)} exists; name a new folder for the tiles")
    rows: list[dict[str, Any]] = []
    skipped, background = list[str](), 0
    with replacing_folder(out) as folder:
        for number, (path, label) in enumerate(found):
            name = path.relative_to(images).as_posix() if path != images else path.name
            owner = _group(path.name, group) or name
            picture, mpp = open_level(path, tiling)
            boxes = tiling.boxes(picture.size, mpp)
            if not boxes:
                skipped.append(_too_small(name, picture.size, mpp, tiling))
                continue
            stem = re.sub(r"[^\w.-]+", "-", printable(str(Path(name).with_suffix(""))).removeprefix(f"{label}/"))
            for box in boxes:
                tile = picture.resize((tiling.side, tiling.side), Image.Resampling.BICUBIC, box=box)
                if background_share(tile) > tiling.empty:
                    background += 1
                    continue
                place = Path(label, f"{stem}_{round(box[0])}_{round(box[1])}.png")
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                tile.save(folder / place)
                rows.append({"image": place.as_posix(), "label": label, "group": owner})
            if progress:
                progress(number + 1, len(found))
        if not rows:
            why = f"; the first: {skipped[0]}" if skipped else f" ({background} tiles are background)"
            raise DataError(f"{shown(images)}: no image gives a tile{why}")
        if fold is not None:
            splits = fold_splits([row["label"] for row in rows], [row["group"] for row in rows], fold, seed)
            rows = [{**row, "split": split} for row, split in zip(rows, splits, strict=True)]
        write_atomic(folder / TABLE, _table(rows))
    return Tiled(len(found) - len(skipped), len(rows), background, tuple(skipped))


def open_level(path: Path, tiling: Tiling) -> tuple[Image.Image, float]:
    """An image in RGB or grey, and its micrometres per pixel; of a pyramid the level that suits the tiling.

    Raises DataError for what cannot be read, is too large, or does not say its resolution.
    """
    with _large(), quiet():
        try:
            with Image.open(path) as file:
                mpp = tiling.mpp or resolution(file)
                if mpp is None:
                    raise DataError(f"{shown(path)}: does not say how many µm a pixel is; give --mpp")
                mpp *= _choose_level(file, mpp, tiling.target)
                if file.width * file.height > MAX_PIXELS:
                    text = f"{file.width} x {file.height} pixels are more than the {MAX_PIXELS:,} that are read at once"
                    raise DataError(f"{shown(path)}: {text}; export a coarser level or regions of it")
                file.load()
                picture = file.copy()
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{shown(path)}: not an image that can be read ({type(error).__name__})") from None
    try:
        return (picture if picture.mode in ("RGB", "L") else _plain(picture)), mpp
    except BadImage as error:
        raise DataError(f"{shown(path)}: {error}") from None


def resolution(picture: Image.Image) -> float | None:
    """Micrometres per pixel as the file says: by its description (Aperio, OME) or its density; None if it does not.

    Densities of screens and printers (72, 300 per inch) are not taken for a scanner's. Raises DataError for pixels
    that are not square.
    """
    tags: Any = getattr(picture, "tag_v2", {})
    text = str(tags.get(270, ""))
    said = re.search(r"MPP\s*=\s*([\d.]+)", text) or re.search(r'PhysicalSizeX="([\d.eE+-]+)"', text)
    unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', text)
    if said and (unit is None or unit.group(1) in ("µm", "um", "&#181;m", "μm")):
        return float(said.group(1))
    per = {2: 25400.0, 3: 10000.0}.get(int(tags.get(296, 2)))
    density = (tags.get(282), tags.get(283)) if tags else picture.info.get("dpi", (None, None))
    if per is None or not density[0] or not density[1]:
        return None
    x, y = (per / float(d) for d in density)
    if not _PLAUSIBLE[0] <= x <= _PLAUSIBLE[1]:
        return None
    if abs(x / y - 1) > SHORT:
        raise DataError(f"pixels of {x:.3g} x {y:.3g} µm are not square; resample the image first")
    return x


def background_share(tile: Image.Image) -> float:
    """The share of a tile's pixels whose channels are all at least ``WHITE``."""
    pixels = np.atleast_3d(np.asarray(tile))
    return float((pixels.min(2) >= WHITE).mean())


def fold_slices(count: int, fold: int, valid: float = 0.02, test: float = 0.01) -> tuple[slice, slice]:
    """Which of ``count`` shuffled slides are for validation and for test: ceil of the shares, one fold after another.

    Raises DataError if nothing would be left to train on.
    """
    for_valid, for_test = math.ceil(valid * count), math.ceil(test * count)
    start = fold * (for_valid + for_test)
    if fold < 0 or start + for_valid + for_test > count or for_valid + for_test >= count:
        raise DataError(f"{count} slides of a class are too few for fold {fold}; use a smaller fold or add slides")
    return slice(start, start + for_valid), slice(start + for_valid, start + for_valid + for_test)


def fold_splits(labels: Sequence[str], groups: Sequence[str], fold: int, seed: int = 1234) -> list[str]:
    """The split of each tile: of every class 2 % of the groups for validation, 1 % for test, no group in two.

    The groups of a class are shuffled once by ``seed``; further folds take the next ones. Raises DataError for a class
    with too few groups.
    """
    split: dict[str, str] = {}
    for label in sorted(set(labels)):
        own = sorted({g for g, of in zip(groups, labels, strict=True) if of == label})
        shuffled = [own[i] for i in generator(seed, "folds", label).permutation(len(own))]
        valid, test = fold_slices(len(own), fold)
        taken = dict.fromkeys(shuffled, "train")
        taken |= dict.fromkeys(shuffled[valid], "valid") | dict.fromkeys(shuffled[test], "test")
        split = taken | split  # a patient with images of two classes stays where it first came
    return [split[g] for g in groups]


def _found(images: Path) -> list[tuple[Path, str]]:
    """The files and their classes: the folder directly below ``images`` that they lie in, if any."""
    if images.is_file():
        return [(images, "")]
    if not images.is_dir():
        raise DataError(f"{shown(images)}: no such file or folder")
    files = sorted(p for p in images.rglob("*") if p.is_file() and not p.name.startswith("."))
    files = [p for p in files if p.suffix.lower() in Image.registered_extensions()]
    if not files:
        raise DataError(f"{shown(images)}: holds no image files")
    parts = [p.relative_to(images).parts for p in files]
    return [(path, part[0] if len(part) > 1 else "") for path, part in zip(files, parts, strict=True)]


def _group(name: str, pattern: str) -> str:
    if not pattern:
        return ""
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise DataError(f"group {pattern!r} is not a regular expression ({error})") from None
    if match is None:
        raise DataError(f"{printable(name)}: nothing in the name fits the group {pattern!r}")
    return match.group(1) if match.groups() else match.group()


def _choose_level(file: Image.Image, mpp: float, target: float) -> float:
    """Seek to the smallest level that is not coarser than the tiles; how many times coarser than the first it is."""
    width, height = file.size
    best, factor = 0, 1.0
    for level in range(1, getattr(file, "n_frames", 1)):
        file.seek(level)
        times = width / file.width
        same = abs(height / file.height / times - 1) < SHORT
        if same and factor < times and times * mpp <= target * (1 + SHORT):
            best, factor = level, times
    file.seek(best)
    return factor


def _plain(picture: Image.Image) -> Image.Image:
    """RGB or grey of another mode: in strips, because ``decode`` refuses what is very large."""
    rows = max(1, 2**24 // picture.width)
    strips = [decode(picture.crop((0, y, picture.width, min(y + rows, picture.height))))
              for y in range(0, picture.height, rows)]  # fmt: skip
    whole = Image.new(strips[0].mode, picture.size)
    for number, strip in enumerate(strips):
        whole.paste(strip, (0, number * rows))
    return whole


@contextmanager
def _large() -> Iterator[None]:
    """Let Pillow open what is larger than it trusts; the size is checked before pixels are decoded."""
    with _LOADING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _too_small(name: str, size: tuple[int, int], mpp: float, tiling: Tiling) -> str:
    needed = math.ceil(tiling.edge / mpp)
    given = f"{size[0]} x {size[1]} pixels at {mpp:.4g} µm"
    return f"{printable(name)}: {given} are too small; a tile of {tiling.edge:g} µm is {needed} pixels there"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
