"""Engines of ordinary PyTorch in float32: eager, with norms folded, and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sartor.runtime.engines import EngineUnavailable
from sartor.runtime.networks import ServedNetwork, backbone_of, set_threads, tensor_of

if TYPE_CHECKING:
    from sartor.runtime.description import Description
    from sartor.runtime.engines import Images, Logits


class TorchEngine:
    """A network called as it is."""

    def __init__(self, name: str, network: Callable[[Tensor], Tensor]) -> None:
        self.name, self._network = name, network

    def __call__(self, images: Images) -> Logits:
        """The network's output."""
        with torch.inference_mode():
            logits: Logits = self._network(tensor_of(images)).numpy()
        return logits


def open_eager(description: Description, source: Path | Any, threads: int | None) -> TorchEngine:
    """Plain PyTorch."""
    set_threads(threads)
    network = ServedNetwork(backbone_of(description, source), description.preprocess, description.views)
    return TorchEngine("eager", network)


def open_folded(description: Description, source: Path | Any, threads: int | None) -> TorchEngine:
    """Plain PyTorch, each norm folded into the convolution before it."""
    from sartor.runtime.engines.lowering import fold_norms

    set_threads(threads)
    folded = fold_norms(backbone_of(description, source))
    return TorchEngine("folded", ServedNetwork(folded, description.preprocess, description.views))


def open_compiled(description: Description, source: Path | Any, threads: int | None) -> TorchEngine:
    """torch.compile with frozen weights; opening compiles for single images, which takes 5 to 25 seconds.

    Raises EngineUnavailable where there is no compiler. Another batch size compiles once more.
    """
    import torch._inductor.config as inductor

    set_threads(threads)
    network = ServedNetwork(backbone_of(description, source), description.preprocess, description.views)
    size, channels = description.preprocess.size, description.preprocess.channels
    try:
        with inductor.patch(freezing=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own use of what PyTorch deprecates
            compiled = torch.compile(network)
            engine = TorchEngine("compiled", compiled)
            engine(torch.zeros(1, channels, size, size, dtype=torch.uint8).numpy())
    except Exception as error:  # whatever a compiler that is missing or broken raises
        reason = str(error).strip().splitlines()[0]
        raise EngineUnavailable(f"torch.compile failed ({reason[:120]})") from None
    return engine
