"""The lowered network: norms folded, convolutions packed and fused for oneDNN, channels last, float32 or bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sartor.runtime.engines import EngineUnavailable
from sartor.runtime.engines.lowering import lower, unavailable
from sartor.runtime.networks import affine, backbone_of, set_threads, tensor_of

if TYPE_CHECKING:
    from sartor.runtime.description import Description
    from sartor.runtime.engines import Images, Logits


class PackedEngine:
    """A lowered backbone behind its normalisation, written so that a pixel row is one run of memory."""

    def __init__(self, name: str, backbone: Any, description: Description, dtype: torch.dtype) -> None:
        preprocess = description.preprocess
        size, channels = preprocess.size, preprocess.channels
        scale, shift = affine(preprocess)
        self.name, self._dtype, self._views = name, dtype, description.views
        self._scale, self._shift = scale.repeat(size), shift.repeat(size)  # for a row of size x channels values
        self._run = lower(backbone, torch.zeros(1, channels, size, size), dtype).forward

    def __call__(self, images: Images) -> Logits:
        """The lowered network's output for the normalised images and, with two views, their mirror images."""
        with torch.inference_mode():
            x = self._normalised(tensor_of(images.transpose(0, 2, 3, 1)))
            if self._views == 2:
                x = torch.cat([x, x.flip(2)])
            logits: Tensor = self._run(x.permute(0, 3, 1, 2))
            if self._views == 2:
                logits = logits.view(2, -1, logits.shape[1]).mean(0)
            array: Logits = logits.numpy()
        return array

    def _normalised(self, images: Tensor) -> Tensor:
        """Of uint8 images (N, H, W, C): the same in the network's dtype."""
        rows = images.contiguous().flatten(2).float()
        return torch.addcmul(self._shift, rows, self._scale).to(self._dtype).view(images.shape)


def open_packed(description: Description, source: Path | Any, threads: int | None) -> PackedEngine:
    """In float32."""
    return _open("packed", torch.float32, description, source, threads)


def open_packed_bf16(description: Description, source: Path | Any, threads: int | None) -> PackedEngine:
    """In bfloat16, the classifier layer in float32."""
    return _open("packed-bf16", torch.bfloat16, description, source, threads)


def _open(
    name: str, dtype: torch.dtype, description: Description, source: Path | Any, threads: int | None
) -> PackedEngine:
    reason = unavailable(dtype)
    if reason:
        raise EngineUnavailable(reason)
    set_threads(threads)
    backbone, preprocess = backbone_of(description, source), description.preprocess
    try:
        engine = PackedEngine(name, backbone, description, dtype)
        engine(np.zeros((1, preprocess.channels, preprocess.size, preprocess.size), np.uint8))
    except (torch.fx.proxy.TraceError, RuntimeError) as error:  # of another build's operators, or of the network
        raise EngineUnavailable(f"the network cannot be lowered ({str(error).splitlines()[0][:120]})") from None
    return engine
