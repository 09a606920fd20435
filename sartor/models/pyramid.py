"""Maps at several strides, as detection and segmentation heads read them, of any backbone for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import SpecError
from sartor.core.seams import Port

NECK = ("norm", "conv", "pool")  # seams between the last block and the classifier: no map of a pyramid
STRIDES = (4, 8, 16, 32)


def map_port(seam: Any) -> Port | None:
    """What crosses a seam as a map or as the tokens of one; None where nothing does."""
    return next((port for port in seam.ports if port.role == "stream" and port.layout in ("NCHW", "NLC")), None)


class Pyramid(nn.Module):
    """The last map of each of some strides of a backbone, whose steps after the last of them are not run.

    It is what timm's ``features_only=True`` gives: the output of the last block at a stride, before a final norm or
    convolution. Tokens become maps again, without those that have no place. ``channels`` and ``strides`` say what
    comes; ``names`` are the seams it comes from. Raises SpecError for a stride at which the backbone has no map.
    """

    def __init__(self, backbone: Any, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        found: dict[int, tuple[str, Port]] = {}
        for seam in backbone.seams:
            port = map_port(seam)
            if port is not None and seam.name not in NECK:
                found[port.stride] = seam.name, port
        if missing := [stride for stride in strides if stride not in found]:
            there = ", ".join(map(str, sorted(found))) or "none"
            raise SpecError(
                f"{backbone.spec.kind}: no map of stride {missing[0]}; there are maps of strides {there}: ask for those"
            )
        self.backbone = backbone
        self.strides = tuple(strides)
        self.names = tuple(found[stride][0] for stride in strides)
        self._ports = tuple(found[stride][1] for stride in strides)
        self.channels = tuple(port.width for port in self._ports)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Of images (batch, channels, height, width) the maps (batch, width, height, width), as ``strides`` orders."""
        features = self.backbone.features(x, self.names)
        size = x.shape[-2], x.shape[-1]
        return [as_map(features[name], port, size) for name, port in zip(self.names, self._ports, strict=True)]


def as_map(state: Any, port: Port, size: tuple[int, int]) -> Tensor:
    """The map (batch, width, height, width) of what crosses a seam, for images of ``size`` (height, width)."""
    x: Tensor = state if isinstance(state, Tensor) else state[port.name]
    if port.layout == "NCHW":
        return x
    height, width = (-(-side // port.stride) for side in size)
    return x[:, port.prefix :].transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-untyped-call,no-any-return]
