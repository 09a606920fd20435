"""A data set ready for a task: usable images, the classes that can be learnt, three splits, preprocessing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sartor.core.errors import DataError
from sartor.core.spec import digest
from sartor.data.decoding import Progress
from sartor.data.preprocess import Preprocess
from sartor.data.recognise import open_images
from sartor.data.source import UNLABELLED, Indices, Source
from sartor.data.splits import complete
from sartor.data.store import Gather
from sartor.data.survey import open_pixels

Splits = Mapping[str, Indices]


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """Images with one class each. ``labels`` index ``classes`` by row; rows in no split have no meaning.

    ``skipped`` lists every image left out as bad, {"where", "why"}; ``notices`` say what else was done to the data.
    """

    source: Source
    pixels: Gather
    preprocess: Preprocess
    classes: tuple[str, ...]
    labels: Indices
    splits: Splits
    skipped: tuple[Mapping[str, str], ...]
    notices: tuple[str, ...]
    fingerprint: str


def open_dataset(
    data: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: int | None = None,
    squash: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> ImageDataset:
    """Recognise, decode (or find decoded) and split a data set; see ``open_images`` for what ``data`` may be.

    ``seed`` steers the splits that are not given; ``size`` is the side in pixels that networks see, chosen from the
    data by default; ``squash`` resizes pictures whole, not their centre square; ``strict`` makes the first bad image
    an error. Raises DataError, in one line, for data that no classifier can be trained on.
    """
    source = open_images(data)
    given, notices = _labelled_splits(source)
    survey, pixels = open_pixels(source, size=size, squash=squash, progress=progress)
    bad = {int(row): "no label" for row in np.flatnonzero(source.labels == UNLABELLED)} | dict(survey.bad)
    skipped = _skipped(source, given, bad, strict)
    given = {name: rows[~np.isin(rows, list(bad))] for name, rows in given.items()}
    classes, labels, given, lost = _learnable(source, given)
    splits = complete(labels, given, source.groups, seed, source.name)
    preprocess = survey.normalised(splits["train"])
    told = (*source.notices, *notices, *survey.notices, *lost, *_split_notices(given, splits, labels, source.groups))
    return ImageDataset(
        source=source,
        pixels=pixels,
        preprocess=preprocess,
        classes=classes,
        labels=labels,
        splits=splits,
        skipped=skipped,
        notices=told,
        fingerprint=_fingerprint(survey.fingerprint, classes, splits, preprocess),
    )


def _labelled_splits(source: Source) -> tuple[Splits, list[str]]:
    """The given splits but those published without labels; raises DataError for one without images."""
    for name, rows in source.splits.items():
        if not len(rows):
            raise DataError(f"{source.name}: the {name} split has no images; put some there or remove it")
    bare = [name for name, rows in source.splits.items() if (source.labels[rows] == UNLABELLED).all()]
    if len(bare) == len(source.splits):
        raise DataError(f"{source.name}: no image has a label")
    notices = [f"the {name} split has no labels and is not used" for name in bare]
    return {name: rows for name, rows in source.splits.items() if name not in bare}, notices


def _skipped(source: Source, given: Splits, bad: Mapping[int, str], strict: bool) -> tuple[Mapping[str, str], ...]:
    """The bad images of the splits in use; raises DataError if they are more than half of one, or ``strict``."""
    skipped: list[Mapping[str, str]] = []
    for name, rows in given.items():
        found = [{"where": source.reader.where(row), "why": bad[row]} for row in rows.tolist() if row in bad]
        skipped += found
        if found and (strict or 2 * len(found) > len(rows)):
            first = f"{found[0]['where']!r} ({found[0]['why']})"
            share = f"{len(found)} of {len(rows)} images of the {name} split cannot be used"
            raise DataError(f"{source.name}: {share}; the first is {first}; mend or remove them")
    return tuple(skipped)


def _learnable(source: Source, given: Splits) -> tuple[tuple[str, ...], Indices, Splits, list[str]]:
    """Classes with images to train on, labels among them, the splits without other classes, and what was left out."""
    train = given.get("train", next(iter(given.values())))
    counts = np.bincount(source.labels[train], minlength=len(source.classes))
    kept = np.flatnonzero(counts)
    if len(train) < 2:
        found = "one usable training image" if len(train) else "no usable training image"
        raise DataError(f"{source.name}: there is {found}; a classifier needs several of each class")
    if len(kept) < 2:
        raise DataError(
            f"{source.name}: all images are of the class {source.classes[kept[0]]!r}; add images of another class"
        )
    new = np.full(len(source.classes) + 1, UNLABELLED)  # the last stands for UNLABELLED itself
    new[kept] = np.arange(len(kept))
    labels = new[source.labels]
    lost = [source.classes[i] for i in np.flatnonzero(counts == 0)]
    notices = [f"classes without usable training images are left out: {_listed(lost)}"] if lost else []
    splits = {name: rows[labels[rows] != UNLABELLED] for name, rows in given.items()}
    for name, rows in splits.items():
        if not len(rows):
            raise DataError(f"{source.name}: the {name} split has no image of a class that is trained on")
    return tuple(source.classes[i] for i in kept), labels, splits, notices


def _fingerprint(source: str, classes: Sequence[str], splits: Splits, preprocess: Preprocess) -> str:
    rows = {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in splits.items()}
    return digest([source, classes, rows, preprocess.to_json()], 24)


def _split_notices(given: Splits, splits: Splits, labels: Indices, groups: Indices | None) -> list[str]:
    notices = []
    if len(given) == 1 and "train" not in given:
        notices.append(f"there is only a {next(iter(given))} split: train, valid and test are all cut from it")
    for name in splits.keys() - given.keys():
        missing = len(np.unique(labels[splits["train"]])) - len(np.unique(labels[splits[name]]))
        if missing:
            notices.append(f"classes with too few images to give one to the {name} split: {missing}")
    if groups is not None and (shared := _shared_groups(given, groups)):
        notices.append(f"groups with images in more than one of the given splits: {shared}")
    return sorted(notices)


def _shared_groups(given: Splits, groups: Indices) -> int:
    members = np.concatenate([np.unique(groups[rows]) for rows in given.values()])
    return int((np.unique(members, return_counts=True)[1] > 1).sum())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
