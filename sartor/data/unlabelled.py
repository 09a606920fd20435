"""Images to pretrain on: any data set, labelled or not, also a plain folder of image files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sartor.core.errors import DataError
from sartor.core.spec import digest
from sartor.data.dataset import open_dataset
from sartor.data.decoding import Progress
from sartor.data.preprocess import Preprocess
from sartor.data.recognise import open_images
from sartor.data.source import UNLABELLED, FilesReader, Indices, Source, shown
from sartor.data.store import Gather
from sartor.data.survey import open_pixels

_IGNORED = (".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".toml", ".yaml", ".db", ".ini", ".h5")


@dataclass(frozen=True, slots=True, eq=False)
class ImagePool:
    """Images that may be learnt from. ``labels`` [rows] index ``classes``; -1 where there is none.

    ``held`` is the number of images of the validation and test splits, which are not among the ``rows``.
    """

    name: str
    pixels: Gather
    rows: Indices
    labels: Indices
    classes: tuple[str, ...]
    preprocess: Preprocess
    fingerprint: str
    held: int
    skipped: int


def open_pool(
    data: str | os.PathLike[str], *, seed: int = 0, size: int | None = None, progress: Progress | None = None
) -> ImagePool:
    """The images of a data set that pretraining may see: all but those fine-tuning would be judged on.

    ``data`` is what ``open_images`` takes, or a folder that holds image files without class folders. Where there are
    labels, the validation and test splits of the same ``seed`` are left out, with all images of their groups; images
    without a label are used. Raises DataError if no two images can be read.
    """
    source = _source(data)
    if len(source.classes) > 1 and len(np.unique(source.labels[source.labels != UNLABELLED])) > 1:
        return _labelled(data, source, seed, size, progress)
    survey, pixels = open_pixels(source, size=size, progress=progress)
    rows = np.setdiff1d(np.arange(len(source.labels)), list(survey.bad))
    if len(rows) < 2:
        raise DataError(f"{source.name}: {len(rows)} images can be read; pretraining needs many")
    preprocess = survey.normalised(rows)
    fingerprint = digest([survey.fingerprint, preprocess.to_json(), "pool"], 24)
    none = np.full(len(rows), UNLABELLED)
    return ImagePool(source.name, pixels, rows, none, (), preprocess, fingerprint, 0, len(survey.bad))


def _labelled(
    data: str | os.PathLike[str], source: Source, seed: int, size: int | None, progress: Progress | None
) -> ImagePool:
    dataset = open_dataset(data, seed=seed, size=size, progress=progress)
    survey, pixels = open_pixels(source, size=size)
    held = [dataset.splits[name] for name in ("valid", "test")]
    held += [rows for name, rows in source.splits.items() if name != "train" and len(source.splits) > 1]
    kept = np.ones(len(source.labels), bool)
    kept[np.concatenate(held)] = False
    if source.groups is not None:
        kept &= ~np.isin(source.groups, source.groups[~kept])
    left_out = int((~kept).sum())
    kept[list(survey.bad)] = False
    rows = np.flatnonzero(kept)
    labels = np.full(len(rows), UNLABELLED)
    known = np.isin(rows, dataset.splits["train"])
    labels[known] = dataset.labels[rows[known]]
    fingerprint = digest([dataset.fingerprint, len(rows), "pool"], 24)
    return ImagePool(
        source.name, pixels, rows, labels, dataset.classes, dataset.preprocess, fingerprint, left_out, len(survey.bad)
    )


def _source(data: str | os.PathLike[str]) -> Source:
    path = Path(data).expanduser()
    if path.is_dir():
        with os.scandir(path) as entries:
            names = sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))
        images = [name for name in names if not name.lower().endswith(_IGNORED)]
        try:
            return open_images(data)
        except DataError:
            if len(images) < 2:
                raise
        files = tuple(str(path / name) for name in images)
        none = np.full(len(files), UNLABELLED)
        rows = {"train": np.arange(len(files))}
        return Source(shown(path.name or path), FilesReader(files, str(path)), none, (), rows, files)
    return open_images(data)
