"""onnxruntime. Opening a classifier with it imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sartor.core.errors import WeightsError
from sartor.runtime.description import GRAPH, Description
from sartor.runtime.engines import EngineUnavailable

if TYPE_CHECKING:
    from sartor.runtime.engines import Images, Logits


class OnnxEngine:
    """An onnxruntime session on a graph from uint8 "images" to float32 "logits".

    ``threads`` None is what OMP_NUM_THREADS says, as for torch, and without it the library's choice.
    """

    name = "onnx"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineUnavailable("onnxruntime is not installed; pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        options.intra_op_num_threads = threads or (int(named) if named.isdigit() else 0)
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's own types, of a private module
            reason = str(error).splitlines()[0]
            raise WeightsError(f"{path}: cannot be run ({reason[:120]}); export the model again") from None

    def __call__(self, images: Images) -> Logits:
        """The graph's "logits" for "images"."""
        logits: Logits = self.session.run(["logits"], {"images": np.ascontiguousarray(images)})[0]
        return logits


def open_onnx(description: Description, source: Path | Any, threads: int | None) -> OnnxEngine:
    """The engine of an exported folder; raises EngineUnavailable if there is no ``model.onnx`` in it."""
    if not isinstance(source, Path) or not (source / GRAPH).is_file():
        raise EngineUnavailable(f"no {GRAPH} to run; export the model first")
    return OnnxEngine(source / GRAPH, threads)
