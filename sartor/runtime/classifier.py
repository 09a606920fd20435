"""A network with its preprocessing and its class names: what answers a picture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sartor.core.errors import DataError, SartorError
from sartor.core.files import replacing_folder, write_atomic
from sartor.runtime.description import GRAPH, WEIGHTS, Description
from sartor.runtime.engines import PREFERRED, REDUCED, Engine, EngineUnavailable, at_once, files_of, open_engine, run
from sartor.runtime.engines.guard import Guarded

if TYPE_CHECKING:
    from sartor.core.cost import Cost
    from sartor.core.protocols import Raw
    from sartor.data.preprocess import Preprocess
    from sartor.runtime.engines import Images, Logits


class ImageClassifier:
    """Answers pictures with classes. Made by ``of`` from a backbone, or by ``open`` from a saved folder."""

    def __init__(self, description: Description, engine: Engine, source: Path | Any) -> None:
        self.description, self.engine, self._source = description, engine, source
        self._at_once = at_once(description.preprocess.size)

    @classmethod
    def of(
        cls, backbone: Any, preprocess: Preprocess, classes: Sequence[str], *, views: int = 1, engine: str = "eager"
    ) -> ImageClassifier:
        """The classifier of a backbone's present weights, of which it keeps a copy.

        ``views=2`` averages the logits of the image and of its mirror image. Raises SartorError if the class names
        are not as many as the outputs or the preprocessing gives other channels than the network takes.
        """
        from sartor.runtime.networks import describe, frozen_copy

        description = describe(backbone, preprocess, tuple(classes), views)
        own = frozen_copy(backbone)
        return cls(description, open_engine(engine, description, own), own)

    @classmethod
    def open(cls, folder: str | Path, engine: str | None = None, threads: int | None = None) -> ImageClassifier:
        """The classifier that ``save`` or ``export`` wrote to a folder.

        ``engine`` None means the one recorded there, or the next best where that cannot run. ``threads`` None
        leaves the library's choice; for the torch engines it holds for the whole process. Raises WeightsError for
        a folder that is damaged, SartorError if the engine asked for is unknown or cannot run.
        """
        folder = Path(folder)
        description = Description.read(folder)
        names = [engine] if engine else list(dict.fromkeys([description.engine, *PREFERRED]))
        reasons = []
        for name in names:
            try:
                opened = _open(name, description, folder, threads)
                return cls(description.having(engine=name), opened, folder)
            except EngineUnavailable as error:
                reasons.append(f"{name}: {error}")
        raise SartorError(f"{folder}: cannot run here; {'; '.join(reasons)}")

    def with_views(self, views: int) -> ImageClassifier:
        """The same network, answering from the image alone (1) or with its mirror image (2), in plain PyTorch."""
        description = self.description.having(views=views, engine="eager", guard=None)
        return ImageClassifier(description, open_engine("eager", description, self._source), self._source)

    def faster(self) -> ImageClassifier:
        """The same network on the packed engine, in float32 too, where that runs here; else itself."""
        try:
            packed = open_engine("packed", self.description, self._source)
        except EngineUnavailable:
            return self
        return ImageClassifier(self.description, packed, self._source)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return self.description.classes

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the saved folder that serving with this engine reads."""
        names = files_of(self.engine.name)
        return (*names, GRAPH) if isinstance(self.engine, Guarded) and self.engine.exact.name == "onnx" else names

    def predict(self, raw: Sequence[Raw]) -> list[dict[str, Any]]:
        """For each picture its "label", "index", "probability" and, in the order of the classes, "probabilities".

        A picture is a path, the bytes of a file, a Pillow image or a uint8 array HWC or HW. Raises DataError naming
        the first that cannot be read.
        """
        return [answer for logits in self._batches(raw) for answer in self._answers(logits)]

    def logits(self, images: Images) -> Logits:
        """Float32 logits (N, K) of preprocessed uint8 images (N, C, H, W); raises DataError for other arrays."""
        images = np.asarray(images)
        preprocess = self.description.preprocess
        expected = preprocess.channels, preprocess.size, preprocess.size
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            what = f"{images.dtype} {images.shape}"
            raise DataError(f"images must be a uint8 array (N, {', '.join(map(str, expected))}), not {what}")
        return run(self.engine, images) if len(images) else np.empty((0, len(self.classes)), np.float32)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json``, and ``model.onnx`` if it was opened with one, atomically."""
        with replacing_folder(Path(folder)) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """As ``save``, into a folder that is there."""
        self.description.write(folder)
        if isinstance(self._source, Path):
            for name in (WEIGHTS, GRAPH):
                if (self._source / name).is_file():
                    shutil.copyfile(self._source / name, folder / name)
        else:
            from safetensors.torch import save  # save_file would leave temporary files of its own when killed

            write_atomic(folder / WEIGHTS, save(self._source.state_dict(), metadata={"format": "pt"}))

    def counted(self) -> Cost:
        """The counted cost of one answer: the network's, times the views where it is run on each."""
        from sartor.core.spec import from_json
        from sartor.runtime.networks import counted

        size, views = self.description.preprocess.size, self.description.views
        return counted(from_json(self.description.network["spec"]), (size, size), views)

    def _batches(self, raw: Sequence[Raw]) -> Iterator[Logits]:
        array = self.description.preprocess.array
        for start in range(0, len(raw), self._at_once):
            images = []
            for number, picture in enumerate(raw[start : start + self._at_once], start + 1):
                try:
                    images.append(array(picture))
                except DataError as error:
                    name = str(picture) if isinstance(picture, str | os.PathLike) else f"picture {number}"
                    raise DataError(f"{name if name.isprintable() else repr(name)}: {error}") from None
            yield self.engine(np.stack(images))

    def _answers(self, logits: Logits) -> Iterator[dict[str, Any]]:
        scores = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities = scores / scores.sum(axis=1, keepdims=True)
        for row, index in zip(probabilities.tolist(), logits.argmax(axis=1).tolist(), strict=True):
            yield {"label": self.classes[index], "index": index, "probability": row[index], "probabilities": row}


def _open(name: str, description: Description, folder: Path, threads: int | None) -> Engine:
    """The engine, with its guard if it needs one."""
    if name not in REDUCED:
        return open_engine(name, description, folder, threads)
    if description.guard is None:
        raise EngineUnavailable("its rounding was not calibrated for this model; choose_engine does it")
    from sartor.runtime.networks import backbone_of

    backbone = backbone_of(description, folder)
    fast, exact = (open_engine(engine, description, backbone, threads) for engine in (name, "packed"))
    return Guarded(fast, exact, description.guard.tolerance)
