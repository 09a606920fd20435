"""Image classification: one class per image, cross-entropy, accuracy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sartor.core.candidate import Metric, Quality
from sartor.core.errors import DataError, unknown
from sartor.core.protocols import Servable
from sartor.core.rng import generator, seed_of
from sartor.core.seams import Signature
from sartor.core.spec import digest
from sartor.data.dataset import ImageDataset, open_dataset
from sartor.data.decode import decode
from sartor.data.decoding import Progress
from sartor.data.source import Indices, Pixels
from sartor.data.splits import carve
from sartor.tasks.predictions import Predictions

if TYPE_CHECKING:
    from torch import Tensor

_BATCH = 256  # images given to ``predict`` at a time


class ImageExamples:
    """Some rows of a data set as a split."""

    def __init__(self, data: ImageDataset, rows: Indices) -> None:
        self.data, self.rows = data, rows
        self.labels = data.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, i: int) -> Pixels:
        """The image in its own size: uint8 [height, width, 1 or 3]."""
        return next(iter(self.items([i])))

    def items(self, indices: Sequence[int]) -> list[Pixels]:
        """The images at some positions in their own sizes."""
        rows = self.rows[np.asarray(indices)]
        unique, places = np.unique(rows, return_inverse=True)
        pictures = [np.atleast_3d(np.asarray(decode(raw))) for raw in self.data.source.reader.read(unique.tolist())]
        return [pictures[place] for place in places]

    def label(self, i: int) -> int:
        """The index of its class."""
        return int(self.labels[i])

    def batch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """``image`` uint8 [n, channels, side, side] (``preprocess.crop`` gives what is served) and ``label`` [n]."""
        import torch

        chosen = np.asarray(indices)
        images = self.data.pixels.gather(self.rows[chosen])
        return {"image": torch.from_numpy(images), "label": torch.from_numpy(self.labels[chosen])}

    def prefetch(self, indices: NDArray[np.int64]) -> None:
        """Begin to decode a batch, where images are decoded on demand."""
        self.data.pixels.prefetch(self.rows[np.asarray(indices)])

    def squares(self, indices: NDArray[np.int64]) -> Pixels:
        """The stored images as a user would give them: uint8 [n, side, side, channels]."""
        return np.ascontiguousarray(self.data.pixels.gather(self.rows[indices]).transpose(0, 2, 3, 1))

    def where(self, i: int) -> str:
        """The file, and the row in it if it holds several."""
        return self.data.source.reader.where(int(self.rows[i]))

    def group(self, i: int) -> int | None:
        """The code of its group, if the data give groups."""
        groups = self.data.source.groups
        return None if groups is None else int(groups[self.rows[i]])


class ImageClassification:
    """A data set of images with one class each."""

    kind: ClassVar[str] = "image-classification"
    per: ClassVar[str] = "image"
    metric: ClassVar[Metric] = Metric("accuracy")

    def __init__(self, data: ImageDataset) -> None:
        self.data = data
        self.preprocess = data.preprocess
        self.name, self.fingerprint = data.source.name, data.fingerprint
        self.classes, self.skipped, self.notices = data.classes, data.skipped, data.notices
        self.inputs = Signature.image(self.preprocess.channels, self.preprocess.size, self.preprocess.size)
        self.outputs = Signature.classes(len(data.classes))
        self._splits = {name: ImageExamples(data, rows) for name, rows in data.splits.items()}

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str],
        *,
        seed: int = 0,
        size: int | None = None,
        squash: bool = False,
        strict: bool = False,
        progress: Progress | None = None,
    ) -> ImageClassification:
        """The task of a data set; see ``sartor.data.dataset.open_dataset``. Raises DataError."""
        return cls(open_dataset(data, seed=seed, size=size, squash=squash, strict=strict, progress=progress))

    def split(self, name: str) -> ImageExamples:
        """``train``, ``valid`` or ``test``."""
        if name not in self._splits:
            raise DataError(unknown("split", name, self._splits))
        return self._splits[name]

    def carve(self, fraction: float, seed: int) -> tuple[ImageExamples, ImageExamples]:
        """``train`` cut in two, the second with about ``fraction`` of every class, no group in both.

        Raises DataError if nothing can be cut off.
        """
        rows = self.data.splits["train"]
        groups = self.data.source.groups
        inside = None if groups is None else groups[rows]
        rest, part = carve(self.data.labels[rows], fraction, seed_of(seed, "train"), inside)
        if not len(part):
            raise DataError(f"{self.name}: too few training images to cut off a share of {fraction}; add images")
        return ImageExamples(self.data, rows[rest]), ImageExamples(self.data, rows[part])

    def with_labels(self, share: float, seed: int) -> ImageClassification:
        """The task with only a share of the training images of every class, at least one; other splits as they are.

        Normalisation stays that of all training images, which needs no labels. Raises DataError for a share that is
        none.
        """
        if not 0 < share <= 1:
            raise DataError(f"labels is the share of the training labels to use, above 0 and at most 1, not {share:g}")
        if share == 1:
            return self
        rows = self.data.splits["train"]
        _, part = carve(self.data.labels[rows], share, seed_of(seed, "labels"))
        if len(np.unique(self.data.labels[rows[part]])) < len(self.classes):
            raise DataError(f"{self.name}: a share of {share:g} leaves classes without images; use more labels")
        splits = {**self.data.splits, "train": rows[part]}
        notice = f"trained with the labels of {len(part):,} of {len(rows):,} images"
        fewer = replace(
            self.data, splits=splits, notices=(*self.data.notices, notice),
            fingerprint=digest([self.fingerprint, "labels", share, seed], 24),
        )  # fmt: skip
        return ImageClassification(fewer)

    def given(self) -> Mapping[str, Any]:
        """``classes``: the class names, by index."""
        return {"classes": self.classes}

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of logits [n, classes] and ``label`` [n], averaged."""
        from torch.nn import functional as F

        return F.cross_entropy(output, batch["label"])

    def evaluate(self, servable: Servable, split: str) -> Quality:
        """Accuracy and other measures (see ``Predictions.values``) from ``predict`` alone."""
        found = self.predictions(servable, split)
        return Quality(found.values(), split, len(found.labels))

    def predictions(self, servable: Servable, split: str) -> Predictions:
        """The answers on a split.

        The images are given as they are stored, squares of ``preprocess.side`` pixels: preprocessing makes of them
        exactly what it makes of the files, and decoding is not done again.
        """
        examples = self.split(split)
        answers: list[Any] = []
        for start in range(0, len(examples), _BATCH):
            chosen = np.arange(start, min(start + _BATCH, len(examples)))
            examples.prefetch(np.arange(chosen[-1] + 1, min(chosen[-1] + 1 + _BATCH, len(examples))))
            answers += servable.predict(list(examples.squares(chosen)))
        return Predictions.of(answers, examples.labels, len(self.classes))

    def serving(self, n: int, seed: int) -> Sequence[Pixels]:
        """``n`` images of ``valid`` in their own sizes: uint8 [height, width, 1 or 3]."""
        valid = self.split("valid")
        order = generator(seed, "serving").permutation(len(valid))
        return valid.items(np.resize(order, n).tolist())
