"""A segmentation network with its preprocessing and its class names: what answers a picture with a mask."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sartor.core.errors import DataError, SartorError, WeightsError, unknown
from sartor.core.files import replacing_folder, write_atomic, write_json
from sartor.core.spec import Json
from sartor.data.decode import decode
from sartor.data.mask_dataset import MaskPreprocess
from sartor.runtime.description import CONFIG, FORMAT, GRAPH, WEIGHTS, library_versions
from sartor.runtime.engines import EngineUnavailable, files_of

if TYPE_CHECKING:
    from sartor.core.cost import Cost
    from sartor.core.protocols import Raw
    from sartor.runtime.engines import Engine, Images

KIND = "image-segmenter"
ENGINES = ("onnx", "eager")  # the first that can run serves, unless a folder records another
BATCHES = (1, 3)  # sizes at which an exported graph is compared
LIMIT = 1e-3  # of the difference over the largest logit
_PIXELS = 1 << 20  # of pictures run at once


@dataclass(frozen=True, slots=True)
class SegmenterDescription:
    """A segmenter without its weights: what ``config.json`` says. ``network`` has the spec under ``spec``."""

    network: Json
    preprocess: MaskPreprocess
    classes: tuple[str, ...]
    engine: str = "eager"
    checks: Json = field(default_factory=dict)
    views: int = 1

    def write(self, folder: Path) -> None:
        """Write ``config.json``."""
        own = {
            "format": FORMAT, "kind": KIND, **self.network, "preprocess": self.preprocess.to_json(),
            "classes": list(self.classes), "engine": self.engine, "checks": self.checks,
            "versions": library_versions(),
        }  # fmt: skip
        write_json(folder / CONFIG, own)

    @classmethod
    def read(cls, folder: Path) -> SegmenterDescription:
        """The content of ``folder/config.json``; raises WeightsError if it is missing or describes no segmenter."""
        path = folder / CONFIG
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["kind"] != KIND or content["format"] > FORMAT:
                raise WeightsError(f"a {content['kind']} of format {content['format']}")
            own = ("format", "kind", "preprocess", "classes", "engine", "checks", "versions")
            network = {key: value for key, value in content.items() if key not in own}
            classes, expected = tuple(map(str, content["classes"])), network["num_classes"]
            if len(classes) != expected:
                raise WeightsError(f"{len(classes)} class names for {expected} outputs")
            preprocess = MaskPreprocess.from_json(content["preprocess"])
            return cls(network, preprocess, classes, str(content["engine"]), dict(content["checks"]))
        except FileNotFoundError:
            raise WeightsError(f"{folder}: no {CONFIG} in it; name a folder that save or export wrote") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SartorError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise WeightsError(f"{path}: describes no segmenter ({reason}); save the model again") from None


class ImageSegmenter:
    """Answers pictures with masks. Made by ``of`` from a backbone, or by ``open`` from a saved folder."""

    def __init__(self, description: SegmenterDescription, engine: Engine, source: Path | Any) -> None:
        self.description, self.engine, self._source = description, engine, source
        height, width = description.preprocess.size
        self._at_once = max(1, _PIXELS // (height * width))

    @classmethod
    def of(cls, backbone: Any, preprocess: MaskPreprocess, classes: Sequence[str]) -> ImageSegmenter:
        """The segmenter of a backbone's present weights, of which it keeps a copy.

        Raises SartorError if names, channels or size do not fit the network.
        """
        from sartor.runtime.networks import frozen_copy
        from sartor.weights.config import config_of

        spec = backbone.deploy().spec
        given = len(classes), preprocess.channels, tuple(preprocess.size)
        if given != (spec.classes, spec.channels, tuple(spec.size)):
            raise SartorError(
                f"a network of {spec.classes} classes for {spec.channels} channels and {spec.size} pixels does not fit "
                f"{given[0]} class names and pictures of {given[1]} channels and {given[2]} pixels"
            )
        description = SegmenterDescription(config_of(backbone.deploy()), preprocess, tuple(classes))
        own = frozen_copy(backbone)
        return cls(description, _open("eager", description, own, None), own)

    @classmethod
    def open(cls, folder: str | Path, engine: str | None = None, threads: int | None = None) -> ImageSegmenter:
        """The segmenter that ``save`` or ``export`` wrote to a folder; ``engine`` is ``onnx`` or ``eager``.

        Raises WeightsError for a folder that is damaged, SartorError for an engine that is unknown or cannot run.
        """
        folder = Path(folder)
        description = SegmenterDescription.read(folder)
        if engine is not None and engine not in ENGINES:
            raise SartorError(unknown("engine", engine, ENGINES))
        reasons = []
        for name in [engine] if engine else dict.fromkeys([description.engine, *ENGINES]):
            try:
                return cls(replace(description, engine=name), _open(name, description, folder, threads), folder)
            except EngineUnavailable as error:
                reasons.append(f"{name}: {error}")
        raise SartorError(f"{folder}: cannot run here; {'; '.join(reasons)}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, by the numbers in a mask."""
        return self.description.classes

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the saved folder that serving with this engine reads."""
        return files_of(self.engine.name)

    def predict(self, raw: Sequence[Raw]) -> list[dict[str, Any]]:
        """For each picture its ``mask``, uint8 [height, width] of class numbers in the picture's own size, and
        ``shares``, the share of the pixels by the name of each class in it.

        A picture is a path, the bytes of a file, a Pillow image or a uint8 array HWC or HW. Raises DataError naming
        the first that cannot be read.
        """
        answers = []
        for start in range(0, len(raw), self._at_once):
            pictures = list(self._decoded(raw[start : start + self._at_once], start))
            images = np.stack([self.description.preprocess.fit(picture) for picture in pictures])
            for picture, logits in zip(pictures, self.engine(images), strict=True):
                answers.append(self._answer(logits.argmax(0).astype(np.uint8), picture.size))
        return answers

    def logits(self, images: Images) -> Any:
        """Float32 logits (N, K, H, W) of preprocessed uint8 images (N, C, H, W)."""
        return self.engine(images)

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
            from safetensors.torch import save

            write_atomic(folder / WEIGHTS, save(self._source.state_dict(), metadata={"format": "pt"}))

    def counted(self) -> Cost:
        """The counted cost of one answer."""
        from sartor.core.spec import from_json
        from sartor.models.network import count

        return count(from_json(self.description.network["spec"]))

    def _decoded(self, raw: Sequence[Raw], start: int) -> Iterator[Image.Image]:
        for number, picture in enumerate(raw, start + 1):
            try:
                yield decode(picture)
            except DataError as error:
                name = str(picture) if isinstance(picture, str | Path) else f"picture {number}"
                raise DataError(f"{name if name.isprintable() else repr(name)}: {error}") from None

    def _answer(self, mask: Any, size: tuple[int, int]) -> dict[str, Any]:
        if mask.shape != size[::-1]:
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        counts = np.bincount(mask.ravel(), minlength=len(self.classes))
        shares = {self.classes[i]: float(counts[i] / mask.size) for i in np.flatnonzero(counts)}
        return {"mask": mask, "shares": shares}


def export_segmenter(segmenter: ImageSegmenter, folder: str | Path, images: Images) -> SegmenterDescription:
    """Write weights, description and an ONNX graph to a folder, which appears whole or not at all.

    The graph takes uint8 "images" (any number, C, H, W) and gives float32 "logits" (N, K, H, W). It is compared with
    PyTorch on ``images`` in batches of ``BATCHES``; the result is kept under ``checks["onnx"]``, and the faster of
    the two is recorded as the engine. A graph that cannot be made or is wrong is left out; the reason is there.
    """
    from sartor.runtime.export import save_graph
    from sartor.runtime.networks import ServedNetwork, backbone_of

    description, began = segmenter.description, time.monotonic()
    with replacing_folder(Path(folder)) as new:
        segmenter.write(new)
        backbone = backbone_of(description, new)  # type: ignore[arg-type]
        engine, checks = "eager", dict[str, Any]()
        try:
            network = ServedNetwork(backbone, description.preprocess, 1).eval()  # type: ignore[arg-type]
            save_graph(network, (description.preprocess.channels, *description.preprocess.size), new / GRAPH)
            eager, onnx = (
                _open(name, description, backbone if name == "eager" else new, None) for name in ("eager", "onnx")
            )
            checks, seconds = _compared(eager, onnx, images)
            engine = "onnx" if seconds["onnx"] < seconds["eager"] else "eager"
        except SartorError as error:
            (new / GRAPH).unlink(missing_ok=True)
            checks = {"error": str(error)}
        checks["seconds"] = round(time.monotonic() - began, 2)
        description = replace(description, engine=engine, checks={**description.checks, "onnx": checks})
        description.write(new)
    return description


def _compared(eager: Engine, onnx: Engine, images: Images) -> tuple[dict[str, Any], Mapping[str, float]]:
    """How far a graph is from PyTorch, and the seconds one picture takes with each; raises WeightsError if wrong."""
    difference = largest = 0.0
    different = pixels = 0
    for batch in BATCHES:
        part = images[np.arange(batch) % len(images)]
        wanted, got = eager(part), onnx(part)
        difference = max(difference, float(np.abs(wanted - got).max()))
        largest = max(largest, float(np.abs(wanted).max()))
        different += int((wanted.argmax(1) != got.argmax(1)).sum())
        pixels += wanted[:, 0].size
    relative = difference / largest if largest else difference
    if not relative <= LIMIT:
        raise WeightsError(f"the onnx engine differs from PyTorch by {relative:.1e} of the largest logit")
    seconds = {}
    for engine in (eager, onnx):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            engine(images[:1])
            times.append(time.perf_counter() - began)
        seconds[engine.name] = min(times)
    return {"max_abs": difference, "max_rel": relative, "different": different, "pixels": pixels}, seconds


def _open(name: str, description: SegmenterDescription, source: Path | Any, threads: int | None) -> Engine:
    from sartor.runtime.engines.onnx import open_onnx

    if name == "onnx":
        return open_onnx(description, source, threads)  # type: ignore[arg-type]
    from sartor.runtime.engines.plain import open_eager

    return open_eager(description, source, threads)  # type: ignore[arg-type]
