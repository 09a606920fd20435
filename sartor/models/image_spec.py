"""What the specs of networks for images have in common."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from sartor.core.seams import Field, Port, Signature


class ImageSpec:
    """A frozen dataclass that has these three fields among its own."""

    __slots__ = ()
    classes: int
    channels: int
    size: tuple[int, int]

    @property
    def inputs(self) -> Signature:
        """One image of the size the network is meant for."""
        return Signature.image(self.channels, *self.size)

    @property
    def outputs(self) -> Signature:
        """One logit per class."""
        return Signature.classes(self.classes)

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


class MaskSpec(ImageSpec):
    """Likewise, of a network that gives logits for every pixel."""

    __slots__ = ()

    @property
    def outputs(self) -> Signature:
        """One logit per class and pixel: (classes, height, width)."""
        return Signature({"logits": Field((self.classes, *self.size), meaning="mask")})


# Of images (batch, channels, height, width) no channel at all: it carries their height and width along.
FRAME = Port("frame", "context", 0, "NCHW", 1)
