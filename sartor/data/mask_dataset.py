"""A data set of pictures and masks ready for a task: decoded once, split, with its classes and preprocessing."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL
from PIL import Image

from sartor.core.errors import DataError, SpecError
from sartor.core.files import cache_dir, replacing, write_json
from sartor.core.machine import cores
from sartor.core.spec import Json, digest, from_json, spec_kind, to_json
from sartor.data.decode import decode
from sartor.data.decoding import Progress, is_grey
from sartor.data.masks import CLASSES, Pair, decode_mask, read_classes, read_pairs
from sartor.data.source import BadImage, FilesReader, Indices, Pixels, Source, rows_by_split, shown
from sartor.data.splits import complete

IGNORED = 255  # in the masks that training reads: pixels of no class
_LONGEST = 512  # pixels of the longer side, where no size is asked for
_LAYOUT = 1  # changes when the files in the cache do
_SAMPLE = 16
_PART = 64  # pictures decoded between two reports of progress
_DISK_SHARE = 0.5


@spec_kind
@dataclass(frozen=True, slots=True)
class MaskPreprocess:
    """How pictures become arrays: resized whole to ``size`` (height, width), antialiased.

    ``mean`` and ``std`` are per channel, of pixels in 0 to 1.
    """

    kind: ClassVar[str] = "mask-preprocess"
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or min(self.size) < 1:
            raise SpecError(f"mask-preprocess: 1 or 3 channels and a size, not {self.channels} and {self.size}")
        for name, default in (("mean", 0.0), ("std", 1.0)):
            values = tuple(getattr(self, name)) or (default,) * self.channels
            if len(values) != self.channels:
                raise SpecError(f"mask-preprocess: {name} must have {self.channels} values, not {len(values)}")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise SpecError("mask-preprocess: std must be more than zero")

    def fit(self, picture: Image.Image) -> Pixels:
        """The uint8 array [channels, height, width] of a picture that ``decode`` gave."""
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        if picture.size != self.size[::-1]:
            picture = picture.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        return np.ascontiguousarray(pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1))

    def array(self, raw: Any) -> Pixels:
        """Likewise of a path, bytes, Pillow image or array HW or HWC; raises BadImage for what is no picture."""
        return self.fit(decode(raw))

    def fit_mask(self, values: Pixels) -> Pixels:
        """A mask's values [height, width] at that size, each the nearest pixel's."""
        if values.shape == self.size:
            return values
        return np.asarray(Image.fromarray(values).resize(self.size[::-1], Image.Resampling.NEAREST))

    def to_json(self) -> Json:
        """Plain values that ``from_json`` reads back."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: Json) -> MaskPreprocess:
        """The inverse of ``to_json``; raises SpecError for anything else."""
        return from_json(data, cls)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, eq=False)
class MaskDataset:
    """Pictures with a class for every pixel, by row in ``pairs``.

    ``images`` [n, channels, height, width] and ``values`` [n, height, width] are uint8, decoded and resized;
    ``codes`` [256] gives the class of a value (``IGNORED``: of none); ``pixels`` [n, 256] counts the values of each
    mask in its own size. Rows in no split are bad.
    """

    name: str
    pairs: Sequence[Pair]
    root: str
    classes: tuple[str, ...]
    codes: Pixels
    preprocess: MaskPreprocess
    splits: Mapping[str, Indices]
    images: Pixels
    values: Pixels
    pixels: Indices
    skipped: tuple[Mapping[str, str], ...]
    notices: tuple[str, ...]
    fingerprint: str
    labels: Indices = field(init=False)

    def __post_init__(self) -> None:
        known = np.zeros((len(self.pixels), len(self.classes)), np.int64)
        for value, code in enumerate(self.codes.tolist()):
            if code != IGNORED:
                known[:, code] += self.pixels[:, value]
        object.__setattr__(self, "labels", known.argmax(1))

    def mask(self, row: int) -> Pixels:
        """The classes of a mask's pixels in its own size, ``IGNORED`` among them."""
        return self.codes[decode_mask(self.pairs[row].mask)]

    def where(self, row: int) -> str:
        """The picture's path below the data."""
        return FilesReader([self.pairs[row].image], self.root).where(0)


def open_masks(
    data: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: int | None = None,
    ignore: Sequence[int] = (255,),
    strict: bool = False,
    progress: Progress | None = None,
) -> MaskDataset:
    """Read, decode (or find decoded) and split pictures with masks; ``sartor.data.masks`` has the layouts.

    ``size`` is the shorter side in pixels that networks see (default: the pictures', up to 512 for the longer).
    Values in ``ignore`` mean no class. The file ``classes.txt`` in the folder names the classes from value 0 on;
    without it every value found is a class. Raises DataError in one line.
    """
    path = Path(data).expanduser()
    if not path.is_dir():
        raise DataError(f"{shown(path)}: no such folder")
    pairs = read_pairs(path)
    name = shown(path.name or path)
    splits = rows_by_split(pair.split or None for pair in pairs)
    files = [pair.image for pair in pairs] + [pair.mask for pair in pairs]
    reader = FilesReader([pair.image for pair in pairs], str(path))
    source = Source(name, reader, np.zeros(len(pairs), np.int64), (), splits, tuple(files))
    fingerprint = source.fingerprint()
    folder, geometry, bad = _decoded(pairs, fingerprint, size, name, progress)
    images, values = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("images", "masks"))
    moments, pixels = np.load(folder / "moments.npy"), np.load(folder / "values.npy")
    if bad and (strict or 2 * len(bad) > len(pairs)):
        row, why = next(iter(bad.items()))
        raise DataError(
            f"{name}: {len(bad)} of {len(pairs)} pictures cannot be used; the first is {reader.where(row)!r} ({why}); "
            "mend or remove them"
        )
    given = {split: rows[~np.isin(rows, list(bad))] for split, rows in splits.items()}
    rows = complete(np.zeros(len(pairs), np.int64), given, None, seed, name)
    usable = np.sort(np.concatenate(list(rows.values())))
    classes, codes, notices = _classes(path, name, pixels, usable, ignore, pairs)
    preprocess = _normalised(geometry, moments[rows["train"]])
    steps = {split: digest(part.tolist()) for split, part in rows.items()}
    skipped = tuple({"where": reader.where(row), "why": why} for row, why in bad.items())
    return MaskDataset(
        name, pairs, str(path), classes, codes, preprocess, rows, images, values, pixels, skipped, tuple(notices),
        digest([fingerprint, classes, codes.tolist(), steps, preprocess.to_json()], 24),
    )  # fmt: skip


def _classes(
    path: Path, name: str, pixels: Indices, usable: Indices, ignore: Sequence[int], pairs: Sequence[Pair]
) -> tuple[tuple[str, ...], Pixels, list[str]]:
    """Class names, the class of every value, and what is to be said of them."""
    wrong = [value for value in ignore if not 0 <= value <= 255]
    if wrong:
        raise DataError(f"{name}: the ignored value {wrong[0]} is outside 0 to 255")
    found = [value for value in np.flatnonzero(pixels[usable].sum(0)).tolist() if value not in ignore]
    codes = np.full(256, IGNORED, np.uint8)
    named = read_classes(path / CLASSES) if (path / CLASSES).is_file() else None
    if named is None:
        kept = found
        classes = tuple(map(str, found))
    else:
        kept, classes = [v for v in range(len(named)) if v not in ignore], named
        classes = tuple(named[value] for value in kept)
        if strange := [value for value in found if value >= len(named)]:
            row = int(usable[pixels[usable][:, strange[0]].argmax()])
            raise DataError(
                f"{name}: the mask {Path(pairs[row].mask).name} has the value {strange[0]}, which is neither ignored "
                f"nor one of the {len(named)} classes of {CLASSES}; add its name or say --ignore {strange[0]}"
            )
    if len(kept) < 2:
        raise DataError(f"{name}: the masks have {len(kept) or 'no'} class; two or more are needed")
    if len(kept) > 250:
        raise DataError(f"{name}: the masks have {len(kept)} values, which looks like grey levels, not classes")
    codes[kept] = np.arange(len(kept))
    share = pixels[usable][:, list(ignore)].sum() / max(1, pixels[usable].sum())
    notices = [f"pixels of no class (values {', '.join(map(str, ignore))}): {share:.1%}"] if share else []
    if named is not None and (absent := [n for v, n in zip(kept, classes, strict=True) if v not in found]):
        notices.append(f"classes without a pixel: {', '.join(absent[:5])}")
    return classes, codes, notices


def _normalised(geometry: MaskPreprocess, moments: Any) -> MaskPreprocess:
    count = len(moments) * geometry.size[0] * geometry.size[1]
    mean, squares = moments.sum(0) / count
    std = np.sqrt(np.maximum(squares - mean**2, 1.0))
    return MaskPreprocess(geometry.channels, geometry.size, tuple((mean / 255).tolist()), tuple((std / 255).tolist()))


def _decoded(
    pairs: Sequence[Pair], fingerprint: str, size: int | None, name: str, progress: Progress | None
) -> tuple[Path, MaskPreprocess, dict[int, str]]:
    """The cache folder with everything decoded, what was decoded to, and the bad rows with their reasons."""
    try:
        folder = cache_dir("masks", digest([fingerprint, size, _LAYOUT, PIL.__version__], 24))
        try:
            found = json.loads((folder / "survey.json").read_text())
            return folder, MaskPreprocess.from_json(found["geometry"]), {int(r): str(w) for r, w in found["bad"]}
        except (OSError, ValueError, KeyError, TypeError, SpecError):
            pass
        geometry = _geometry(pairs, size, name)
        bad = _decode_into(folder, pairs, geometry, name, progress)
        write_json(folder / "survey.json", {"geometry": geometry.to_json(), "bad": sorted(bad.items())})
    except OSError as error:
        raise DataError(f"the cache cannot be used ({error}); set SARTOR_CACHE to a folder with room") from None
    return folder, geometry, bad


def _geometry(pairs: Sequence[Pair], size: int | None, name: str) -> MaskPreprocess:
    """Channels and size, from some pictures evenly spaced."""
    sizes, colour = Counter[tuple[int, int]](), False
    rows = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _SAMPLE)).astype(int)).tolist()
    for row in rows:
        try:
            picture = decode(Path(pairs[row].image))
        except BadImage as error:
            reason = str(error)
            continue
        sizes[picture.height, picture.width] += 1
        colour = colour or not is_grey(picture)
    if not sizes:
        raise DataError(f"{name}: none of {len(rows)} pictures looked at can be read; the first reason: {reason}")
    height, width = sizes.most_common(1)[0][0]
    scale = size / min(height, width) if size else min(1.0, _LONGEST / max(height, width))
    return MaskPreprocess(3 if colour else 1, (max(1, round(height * scale)), max(1, round(width * scale))))


def _decode_into(
    folder: Path, pairs: Sequence[Pair], geometry: MaskPreprocess, name: str, progress: Progress | None
) -> dict[int, str]:
    """Fill the cache; raises DataError for a mask of another size than its picture or where there is no room."""
    shape, count = geometry.size, len(pairs)
    need = count * (geometry.channels + 1) * shape[0] * shape[1]
    if need > _DISK_SHARE * shutil.disk_usage(folder).free:
        raise DataError(f"{name}: decoded it takes {need / 1e9:.1f} GB in the cache, too much; give a smaller --size")
    shapes = {
        "images": ((count, geometry.channels, *shape), np.uint8), "masks": ((count, *shape), np.uint8),
        "moments": ((count, 2, geometry.channels), np.float64), "values": ((count, 256), np.int64),
    }  # fmt: skip
    bad: dict[int, str] = {}
    with ExitStack() as stack:
        arrays = {}
        for part, (dimensions, kind) in shapes.items():
            path = stack.enter_context(replacing(folder / f"{part}.npy"))
            arrays[part] = np.lib.format.open_memmap(path, "w+", kind, dimensions)

        def work(row: int) -> str:
            return _decode_one(pairs[row], row, geometry, arrays)

        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, count, _PART):
                rows = range(start, min(start + _PART, count))
                bad |= {row: why for row, why in zip(rows, pool.map(work, rows), strict=True) if why}
                if progress is not None:
                    progress(rows.stop, count)
        for array in arrays.values():
            array.flush()
    return bad


def _decode_one(pair: Pair, row: int, geometry: MaskPreprocess, arrays: Mapping[str, Any]) -> str:
    """Write one pair into the arrays; returns why it cannot be used, if so."""
    try:
        picture, values = decode(Path(pair.image)), decode_mask(pair.mask)
    except BadImage as reason:
        return str(reason)
    if values.shape != (picture.height, picture.width):
        raise DataError(
            f"{shown(pair.mask)}: the mask is {values.shape[1]} x {values.shape[0]} pixels and its picture "
            f"{picture.width} x {picture.height}; make them equal"
        )
    image = geometry.fit(picture)
    arrays["images"][row], arrays["masks"][row] = image, geometry.fit_mask(values)
    wide = image.astype(np.float64)
    arrays["moments"][row] = wide.sum((1, 2)), (wide**2).sum((1, 2))
    arrays["values"][row] = np.bincount(values.ravel(), minlength=256)
    return ""
