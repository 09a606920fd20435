"""Signatures, ports and seams: what goes into a network, and the places between its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["NCHW", "NCDHW", "NCL", "NLC", "ND", "VD"]  # V: graph nodes
State = Mapping[str, "Tensor"]  # one entry per port: all that is alive at a seam


@dataclass(frozen=True, slots=True)
class Field:
    """One named input or output: its shape without the batch (None = varies), dtype and meaning."""

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    meaning: str = "image"


@dataclass(frozen=True, slots=True)
class Signature:
    """The fields a network takes or gives, by name."""

    fields: Mapping[str, Field]

    @classmethod
    def image(cls, channels: int, height: int, width: int) -> Signature:
        """One image, channels first."""
        return cls({"image": Field((channels, height, width))})

    @classmethod
    def classes(cls, count: int) -> Signature:
        """One logit per class."""
        return cls({"logits": Field((count,), meaning="classes")})


@dataclass(frozen=True, slots=True)
class Port:
    """One tensor alive at a seam.

    ``stream`` is what the next block transforms, ``carry`` was computed on the way and is needed later,
    ``context`` is computed from the inputs alone. ``stride`` is input size over map size. Tokens (NLC) of images are
    ``prefix`` tokens without a place, such as a class token, then those of the map row by row.
    """

    name: str
    role: Literal["stream", "carry", "context"]
    width: int
    layout: Layout
    stride: int = 1
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Seam:
    """The place after the block it is named after (``stem``, ``stage2.1``, ``pool``); stage 0 is the stem."""

    name: str
    stage: int
    ports: tuple[Port, ...]

    @property
    def narrow(self) -> bool:
        """Whether one stream is all that crosses here, so that other networks can be joined."""
        return [port.role for port in self.ports if port.role != "context"] == ["stream"]
