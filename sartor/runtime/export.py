"""From a classifier to a folder that serves it: weights, description, and an ONNX graph checked against PyTorch."""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sartor.core.errors import DataError, SartorError, WeightsError
from sartor.core.files import replacing_folder
from sartor.core.spec import Json
from sartor.runtime.choose import choose_engine
from sartor.runtime.description import GRAPH
from sartor.runtime.engines import run
from sartor.runtime.engines.lowering import fold_norms
from sartor.runtime.engines.onnx import open_onnx
from sartor.runtime.engines.plain import open_eager
from sartor.runtime.networks import ServedNetwork, backbone_of

if TYPE_CHECKING:
    from sartor.runtime.classifier import ImageClassifier
    from sartor.runtime.description import Description
    from sartor.runtime.engines import Engine, Images

BATCHES = (1, 3, 16)  # the sizes at which the graph is compared
LIMIT = 1e-3  # of the difference over the largest logit: beyond it the graph is wrong, not rounded
_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


def export(classifier: ImageClassifier, folder: str | Path, images: Images, *, batch: int | None = None) -> Description:
    """Write ``model.safetensors``, ``config.json`` and ``model.onnx`` to a folder, which appears whole or not at all.

    The graph takes uint8 "images" (any number, C, H, W) and gives float32 "logits", normalisation and views
    included. It is compared with PyTorch on ``images``: numerically in batches of ``BATCHES``, and by class on all.
    The result is returned, and kept in ``config.json``, under ``checks["onnx"]``: ``max_abs``, ``max_rel`` (over the
    largest logit), ``different`` (images given another class) of ``images``, and the ``seconds`` it all took. A
    graph that cannot be made or is wrong is left out; the reason is there as ``error``. With ``batch``, the engine
    that answers so many images soonest is chosen too (``choose_engine``), before the folder appears. Raises
    DataError if no images are given.
    """
    if len(images) == 0:
        raise DataError("export compares the graph with PyTorch on images and was given none; give at least one")
    description, began = classifier.description, time.monotonic()
    with replacing_folder(Path(folder)) as new:
        classifier.write(new)
        backbone = backbone_of(description, new)
        checks: Json
        try:
            write_graph(backbone, description, new / GRAPH)
            eager, onnx = open_eager(description, backbone, None), open_onnx(description, new, None)
            checks = {**compare(eager, onnx, images), "seconds": round(time.monotonic() - began, 2)}
        except SartorError as error:
            (new / GRAPH).unlink(missing_ok=True)
            checks = {"error": str(error)}
        description = description.having(checks={**description.checks, "onnx": checks})
        description.write(new)
        if batch is not None:
            description = choose_engine(new, images, batch)
    return description


def write_graph(backbone: Any, description: Description, path: Path) -> None:
    """Write the ONNX graph of a served backbone, its norms folded; raises WeightsError if it cannot be made."""
    size, channels = description.preprocess.size, description.preprocess.channels
    try:
        folded = fold_norms(backbone)
    except torch.fx.proxy.TraceError:
        folded = backbone
    network = ServedNetwork(folded, description.preprocess, description.views).eval()
    save_graph(network, (channels, size, size), path)


def save_graph(network: torch.nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Write the ONNX graph of a network from uint8 images of (channels, height, width), any number at once.

    Raises WeightsError if it cannot be made.
    """
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        with _silence():
            program = torch.onnx.export(
                network, (example,), input_names=["images"], output_names=["logits"], dynamic_shapes=(batch,),
                dynamo=True, verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(path, external_data=False)
    except Exception as error:  # the exporter's own types, and whatever an operator it does not know raises
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(f"the network has no ONNX form ({reason[:160]}); serve it with another engine") from None


def compare(expected: Engine, engine: Engine, images: Images) -> Json:
    """How far an engine is from another on images; raises WeightsError if it is wrong."""
    parts = [images[np.arange(batch) % len(images)] for batch in BATCHES]
    pairs = [(expected(part), engine(part)) for part in parts]
    difference = float(np.max([np.abs(wanted - got).max() for wanted, got in pairs]))  # NaN if any is
    largest = float(np.max([np.abs(wanted).max() for wanted, _ in pairs]))
    relative = difference / largest if largest else difference
    if not relative <= LIMIT:
        raise WeightsError(f"the {engine.name} engine differs from PyTorch by {relative:.1e} of the largest logit")
    different = int((run(expected, images).argmax(1) != run(engine, images).argmax(1)).sum())
    return {"max_abs": difference, "max_rel": relative, "different": different, "images": len(images)}


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing the exporter prints, logs or warns of gets out."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
