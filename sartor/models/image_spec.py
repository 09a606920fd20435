"""What the specs of image classifiers have in common."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from sartor.core.seams import Signature


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
