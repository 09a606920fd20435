"""What a network costs to run on this machine before anybody has trained it: its engines, and a training step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.core.errors import SartorError
from sartor.core.rng import generator
from sartor.cost.meters import Reading, latency, peak_memory, train_memory
from sartor.runtime.classifier import ImageClassifier
from sartor.runtime.description import GRAPH, Description
from sartor.runtime.engines import OPENERS, open_engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINES = ("eager", "folded", "compiled", "onnx", "packed", "packed-bf16")


@contextmanager
def untrained(spec: Any, size: int, graph: bool = True) -> Iterator[Path]:
    """A folder with a classifier of random weights for images of ``size`` x ``size``, with its ONNX graph if possible.

    It is removed at the end.
    """
    from sartor.data.preprocess import Preprocess
    from sartor.models.network import build

    names = [str(number) for number in range(spec.classes)]
    classifier = ImageClassifier.of(build(spec).eval(), Preprocess(spec.channels, size), names)
    with tempfile.TemporaryDirectory(prefix="sartor-table-") as temporary:
        folder = Path(temporary, "model")
        classifier.save(folder)
        if graph:
            from sartor.runtime.export import write_graph
            from sartor.runtime.networks import backbone_of

            with suppress(SartorError):  # without a graph the engine itself says what is missing
                write_graph(backbone_of(classifier.description, folder), classifier.description, folder / GRAPH)
        yield folder


def latency_table(
    folder: Path, batch: int = 1, threads: int | None = None, engines: Sequence[str] = ENGINES
) -> Mapping[str, Reading]:
    """The latency of ``predict`` per image, by engine, of the classifier in a folder.

    ``threads`` None is one for each core. An engine that cannot run here has its reason instead. ``packed-bf16``
    is timed without a guard, which only a trained network can have. Raises SartorError for an unknown engine.
    """
    for name in engines:
        OPENERS[name]
    openers = [partial(open_bare, folder, name) for name in engines]
    readings = latency(openers, list(pictures(8, folder)), batch=batch, threads=threads)
    return dict(zip(engines, readings, strict=True))


def serving_memory(folder: Path, batch: int, threads: int | None = None, engine: str = "eager") -> Reading:
    """The peak memory of answering ``batch`` images at once on an engine, of the classifier in a folder."""
    return peak_memory(partial(open_bare, folder, engine), list(pictures(batch, folder)), batch=batch, threads=threads)


def training_memory(spec: Any, size: int, batch: int, threads: int | None = None) -> Reading:
    """The peak memory of training a network by SGD with momentum in float32, images of ``size`` x ``size``."""
    return train_memory(partial(training_step, spec, size, batch), threads=threads)


def open_bare(folder: Path, engine: str) -> ImageClassifier:
    """A saved classifier on an engine as it is: reduced precision without its guard."""
    description = Description.read(folder).having(engine=engine)
    return ImageClassifier(description, open_engine(engine, description, folder), folder)


def training_step(spec: Any, size: int, batch: int) -> Callable[[], None]:
    """A function that takes one training step on random images."""
    import torch
    from torch.nn import functional as F

    from sartor.models.network import build

    network = build(spec).train()
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    images = torch.randn(batch, spec.channels, size, size)
    labels = torch.randint(spec.classes, (batch,))

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def pictures(count: int, folder: Path) -> NDArray[np.uint8]:
    """Random uint8 pictures that suit a folder's classifier: (count, size, size, 3), or without the 3 for grey."""
    preprocess = Description.read(folder).preprocess
    size = preprocess.size
    shape = (count, size, size, 3) if preprocess.channels == 3 else (count, size, size)
    return generator("pictures", shape).integers(0, 256, shape).astype("uint8")
