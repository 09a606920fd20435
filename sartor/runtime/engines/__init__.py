"""How a classifier's network is run: one callable from uint8 images to float32 logits, several ways to make it.

``eager`` is plain PyTorch in float32, against which all others are checked. ``onnx`` is onnxruntime (no torch).
``packed`` and ``packed-bf16`` run the network lowered to fused oneDNN operators. ``folded`` and ``compiled`` are
there for comparison: norms folded into convolutions, and torch.compile.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sartor.core.errors import SartorError
from sartor.core.registry import Table
from sartor.runtime.description import CONFIG, GRAPH, WEIGHTS, Description

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]  # (images, channels, height, width), in any memory order
    Logits = NDArray[np.float32]  # (images, classes)

_PIXELS = 8 * 224 * 224  # of the images run at once: their maps stay in the cache, and malloc keeps their memory
_MOST = 64
REDUCED = ("packed-bf16",)  # engines whose rounding may change a class, so that they need a guard
PREFERRED = ("packed-bf16", "packed", "onnx", "eager")  # engines worth measuring for serving


class EngineUnavailable(SartorError):
    """An engine that this machine, this installation or this model cannot run; the message is the reason."""


class Engine(Protocol):
    """Runs a network with its normalisation, and with the mirrored view where the description asks for it."""

    name: str

    def __call__(self, images: Images) -> Logits:
        """The logits of images (N, C, H, W) of the size the network was described with."""


class Opener(Protocol):
    """Makes an engine from a description and a source: the saved folder, or the backbone itself."""

    def __call__(self, description: Description, source: Path | Any, threads: int | None) -> Engine:
        """The engine; raises EngineUnavailable, or WeightsError for a damaged folder."""


OPENERS: Table[Opener] = Table(
    "engine",
    {
        "eager": "sartor.runtime.engines.plain:open_eager",
        "folded": "sartor.runtime.engines.plain:open_folded",
        "compiled": "sartor.runtime.engines.plain:open_compiled",
        "packed": "sartor.runtime.engines.packed:open_packed",
        "packed-bf16": "sartor.runtime.engines.packed:open_packed_bf16",
        "onnx": "sartor.runtime.engines.onnx:open_onnx",
    },
)


def open_engine(name: str, description: Description, source: Path | Any, threads: int | None = None) -> Engine:
    """The named engine, as fast as it is: a reduced-precision one without its guard.

    ``threads`` None leaves the library's own choice. Raises SartorError for an unknown name, EngineUnavailable, or
    WeightsError if the folder is damaged.
    """
    return OPENERS[name](description, source, threads)


def at_once(size: int) -> int:
    """How many images of a side are best run at once."""
    return max(1, min(_MOST, _PIXELS // size**2))


def run(engine: Engine, images: Images) -> Logits:
    """The logits of any number of images (at least one), run in parts."""
    step = at_once(images.shape[-1])
    return np.concatenate([engine(images[start : start + step]) for start in range(0, len(images), step)])


def files_of(name: str) -> tuple[str, ...]:
    """The files of an exported folder that an engine reads."""
    return (CONFIG, GRAPH) if name == "onnx" else (CONFIG, WEIGHTS)
