"""Semantic segmentation: a class for every pixel, cross-entropy, mean intersection over union."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sartor.core.candidate import Metric, Quality
from sartor.core.errors import DataError, SartorError, unknown
from sartor.core.protocols import Servable
from sartor.core.rng import generator, seed_of
from sartor.core.seams import Field, Signature
from sartor.data.decode import decode
from sartor.data.decoding import Progress
from sartor.data.mask_dataset import IGNORED, MaskDataset, open_masks
from sartor.data.source import Indices, Pixels
from sartor.data.splits import carve
from sartor.tasks import mask_metrics

if TYPE_CHECKING:
    from torch import Tensor

_AT_ONCE = 8  # pictures given to ``predict`` at a time


class MaskExamples:
    """Some rows of a data set as a split. The label of a picture is the class of most of its pixels."""

    def __init__(self, data: MaskDataset, rows: Indices) -> None:
        self.data, self.rows = data, rows
        self.labels = data.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, i: int) -> Pixels:
        """The picture in its own size: uint8 [height, width, 1 or 3]."""
        return np.atleast_3d(np.asarray(decode(self.data.pairs[int(self.rows[i])].image)))

    def mask(self, i: int) -> Pixels:
        """Its classes in its own size: uint8 [height, width], 255 where a pixel has none."""
        return self.data.mask(int(self.rows[i]))

    def label(self, i: int) -> int:
        """The class of most of its pixels."""
        return int(self.labels[i])

    def batch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """``image`` uint8 [n, channels, height, width], ``mask`` uint8 [n, height, width] and ``label`` [n]."""
        import torch

        chosen = np.asarray(indices)
        rows = self.rows[chosen]
        masks = self.data.codes[self.data.values[rows]]
        return {
            "image": torch.from_numpy(np.array(self.data.images[rows])),
            "mask": torch.from_numpy(masks),
            "label": torch.from_numpy(self.labels[chosen]),
        }

    def prefetch(self, indices: NDArray[np.int64]) -> None:
        """Nothing to do: everything is decoded."""

    def where(self, i: int) -> str:
        """The file."""
        return self.data.where(int(self.rows[i]))

    def group(self, i: int) -> int | None:
        """None: these layouts give no groups."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class MaskPredictions:
    """What a segmenter answered on a split, as counts of pixels by true and predicted class."""

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    count: int
    ignored: tuple[int, ...] = ()

    def values(self) -> Mapping[str, float]:
        """``miou`` (macro) first, then the micro form, Dice in both, accuracies, and each class's ``iou:NAME``."""
        found = {
            "miou": mask_metrics.macro_iou(self.confusion, self.ignored),
            "micro_iou": mask_metrics.micro_iou(self.confusion, self.ignored),
            "dice": mask_metrics.macro_dice(self.confusion, self.ignored),
            "micro_dice": mask_metrics.micro_dice(self.confusion, self.ignored),
            "pixel_accuracy": mask_metrics.pixel_accuracy(self.confusion),
            "class_accuracy": mask_metrics.mean_class_accuracy(self.confusion, self.ignored),
        }
        by_class = zip(self.classes, mask_metrics.class_iou(self.confusion).tolist(), strict=True)
        return found | {f"iou:{name}": value for name, value in by_class if value == value}


class Segmentation:
    """Pictures with a class for every pixel; ``ignored`` classes are trained on and left out of the means."""

    kind: ClassVar[str] = "segmentation"
    per: ClassVar[str] = "image"
    metric: ClassVar[Metric] = Metric("miou")

    def __init__(self, data: MaskDataset, ignored: Sequence[str] = ()) -> None:
        for name in ignored:
            if name not in data.classes:
                raise DataError(unknown("class", name, data.classes))
        self.data, self.preprocess = data, data.preprocess
        self.name, self.fingerprint = data.name, data.fingerprint
        self.classes, self.skipped, self.notices = data.classes, data.skipped, data.notices
        self.ignored = tuple(data.classes.index(name) for name in ignored)
        height, width = self.preprocess.size
        self.inputs = Signature.image(self.preprocess.channels, height, width)
        self.outputs = Signature({"logits": Field((len(data.classes), height, width), meaning="mask")})
        self._splits = {name: MaskExamples(data, rows) for name, rows in data.splits.items()}

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str],
        *,
        seed: int = 0,
        size: int | None = None,
        ignore: Sequence[int] = (255,),
        ignored: Sequence[str] = (),
        strict: bool = False,
        progress: Progress | None = None,
    ) -> Segmentation:
        """The task of a folder; see ``sartor.data.mask_dataset.open_masks``. Raises DataError."""
        return cls(open_masks(data, seed=seed, size=size, ignore=ignore, strict=strict, progress=progress), ignored)

    def split(self, name: str) -> MaskExamples:
        """``train``, ``valid`` or ``test``."""
        if name not in self._splits:
            raise DataError(unknown("split", name, self._splits))
        return self._splits[name]

    def carve(self, fraction: float, seed: int) -> tuple[MaskExamples, MaskExamples]:
        """``train`` cut in two, the second with about ``fraction`` of the pictures; raises DataError if it is empty."""
        rows = self.data.splits["train"]
        rest, part = carve(np.zeros(len(rows), np.int64), fraction, seed_of(seed, "train"))
        if not len(part):
            raise DataError(f"{self.name}: too few training images to cut off a share of {fraction}; add images")
        return MaskExamples(self.data, rows[rest]), MaskExamples(self.data, rows[part])

    def given(self) -> Mapping[str, Any]:
        """``classes``: the class names, by index."""
        return {"classes": self.classes}

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of logits [n, classes, height, width] and ``mask``, averaged over pixels that have a class."""
        from torch.nn import functional as F

        target = batch["mask"].long()
        total = F.cross_entropy(output, target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)

    def evaluate(self, servable: Servable, split: str) -> Quality:
        """Measures over all pixels of a split (see ``MaskPredictions.values``) from ``predict`` alone."""
        found = self.predictions(servable, split)
        return Quality(found.values(), split, found.count)

    def predictions(self, servable: Servable, split: str) -> MaskPredictions:
        """The answers on a split, compared with the masks in their own sizes.

        Raises SartorError for an answer without a mask of the picture's size and of these classes.
        """
        examples, classes = self.split(split), len(self.classes)
        confusion = np.zeros((classes, classes), np.int64)
        for start in range(0, len(examples), _AT_ONCE):
            chosen = range(start, min(start + _AT_ONCE, len(examples)))
            answers = servable.predict([examples.item(i) for i in chosen])
            for i, answer in zip(chosen, answers, strict=True):
                true, found = examples.mask(i), np.asarray(answer.get("mask", ()))
                if found.shape != true.shape or found.max(initial=0) >= classes:
                    where = examples.where(i)
                    raise SartorError(f"an answer for {where} has no mask of {true.shape} and {classes} classes")
                confusion += mask_metrics.pixel_confusion(true, found, classes)
        if not confusion.sum():
            raise DataError(f"{self.name}: no pixel of the {split} split has a class")
        return MaskPredictions(self.classes, confusion, len(examples), self.ignored)

    def serving(self, n: int, seed: int) -> Sequence[Pixels]:
        """``n`` pictures of ``valid`` in their own sizes: uint8 [height, width, 1 or 3]."""
        valid = self.split("valid")
        order = np.resize(generator(seed, "serving").permutation(len(valid)), n)
        pictures = {int(i): valid.item(int(i)) for i in np.unique(order)}
        return [pictures[int(i)] for i in order]
