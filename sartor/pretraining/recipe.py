"""How a backbone is pretrained, as a table of plain values; the named ones are the TOML files in ``recipes``."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, ClassVar, Literal

from sartor.core.errors import SpecError, unknown
from sartor.core.spec import Json, from_json, spec_kind, to_json
from sartor.pretraining.byol import BYOL
from sartor.pretraining.dino import DINO
from sartor.pretraining.mae import MAE
from sartor.pretraining.moco import MoCo
from sartor.pretraining.simclr import SimCLR
from sartor.pretraining.supervised import Supervised
from sartor.training.augment.views import Views
from sartor.training.optimisers import SGD, AdamW, Lars
from sartor.training.plan import Schedule
from sartor.training.recipe import with_values
from sartor.training.schedules import Constant, Cosine, Scaled, StableDecay, Warmup

_EPOCH = 8  # an epoch of few images has at least about so many steps


@spec_kind
@dataclass(frozen=True)
class Pretraining:
    """A method and how it is optimised.

    ``lr`` is for batches of ``lr_batch`` and follows the batch in proportion; it rises in a line over the share
    ``warmup`` of the training and then follows ``schedule``. ``weight_decay`` leaves out normalisation, biases and
    embeddings unless ``decay_all``. ``size`` is the side of the views (0: the data's); ``clip`` bounds the gradient
    norm (0: no bound); ``precision`` "auto" lets the machine's measured pace decide.
    """

    kind: ClassVar[str] = "pretraining"
    name: str
    method: SimCLR | MoCo | BYOL | DINO | MAE | Supervised
    epochs: float = 40.0
    batch: int = 256
    optimiser: SGD | AdamW | Lars = field(default_factory=SGD)
    lr: float = 0.1
    lr_batch: int = 256
    schedule: Cosine | StableDecay | Constant = field(default_factory=Cosine)
    warmup: float = 0.0
    weight_decay: float = 0.0
    decay_all: bool = False
    views: Views = field(default_factory=Views)
    size: int = 0
    clip: float = 0.0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        for name, bound in {"epochs": 0.0, "lr": 0.0, "batch": 1, "lr_batch": 0}.items():
            if getattr(self, name) <= bound or not math.isfinite(getattr(self, name)):
                raise SpecError(f"pretraining: {name} must be more than {bound}, not {getattr(self, name)}")
        if not 0.0 <= self.warmup < 1.0:
            raise SpecError(f"pretraining: warmup is a share of the training below 1, not {self.warmup}")
        for name in ("weight_decay", "clip", "size"):
            if getattr(self, name) < 0:
                raise SpecError(f"pretraining: {name} must not be negative")

    def replace(self, **changes: Any) -> Pretraining:
        """A copy with other fields; raises SpecError for values that cannot be."""
        return dataclasses.replace(self, **changes)

    def replace_from(self, settings: Sequence[str]) -> Pretraining:
        """A copy with settings such as ``batch=64``, ``views.grey=0`` or ``method.temperature=0.1``."""
        return read_pretraining(with_values(self, settings), self.name)

    def fitted(self, examples: int) -> Pretraining:
        """For few images: batches that leave about eight steps an epoch, a queue of at most half the images."""
        batch = min(self.batch, max(2, 2 ** int(math.log2(max(2.0, examples / _EPOCH)))))
        method = self.method
        if isinstance(method, MoCo):
            method = dataclasses.replace(method, queue=min(method.queue, max(batch, examples // 2)))
        return self.replace(batch=batch, method=method)

    def rate(self, steps: int) -> Schedule:
        """The learning rate of a training of so many steps."""
        schedule: Schedule = self.schedule
        if self.warmup:
            schedule = Warmup(schedule, round(self.warmup * steps))
        return Scaled(schedule, self.lr * self.batch / self.lr_batch)


def list_methods() -> list[str]:
    """The names of the methods, sorted."""
    folder = files("sartor.pretraining").joinpath("recipes")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def pretraining(name: str) -> Pretraining:
    """How a method trains by default; raises SpecError naming the nearest for an unknown one."""
    if name not in list_methods():
        raise SpecError(unknown("method", name, list_methods()))
    text = files("sartor.pretraining").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    return read_pretraining(tomllib.loads(text), name)


def read_pretraining(data: Mapping[str, Any], name: str) -> Pretraining:
    """From plain values; a table that says no kind has the kind of the default. Raises SpecError."""
    whole: Json = {"kind": Pretraining.kind, "name": name, **data}
    for entry in dataclasses.fields(Pretraining):
        table, default = whole.get(entry.name), getattr(entry.default_factory, "kind", None)
        if isinstance(table, Mapping) and default:
            whole[entry.name] = {"kind": default, **table}
    return from_json(whole, Pretraining)  # type: ignore[no-any-return]


def values_of(recipe: Pretraining) -> Json:
    """Plain values that ``read_pretraining`` reads back."""
    return to_json(recipe)
