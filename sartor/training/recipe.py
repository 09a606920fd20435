"""Training recipes as tables of plain values.

The named ones are the TOML files in ``recipes``; the comment at the head of each says where it comes from, what it
needs and what it is expected to reach.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

from sartor.core.errors import SpecError, unknown
from sartor.core.spec import Json, digest, from_json, spec_kind, to_json
from sartor.data.preprocess import Preprocess, Resize
from sartor.training.augment.masks import MaskAugment
from sartor.training.augment.pipeline import Augment
from sartor.training.clipping import Clip
from sartor.training.losses.classification import BinaryCrossEntropy, CrossEntropy
from sartor.training.losses.segmentation import Bootstrapped, PixelCrossEntropy
from sartor.training.losses.semantic import MultiLabel, SemanticSoftmax, TreeLoss
from sartor.training.optimisers import SGD, Adadelta, Adam, AdamW, Lamb, Lars, RMSpropTF
from sartor.training.parametrization import DepthMup, Standard
from sartor.training.schedules import (
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Poly,
    StableDecay,
    Staircase,
    Steps,
)  # fmt: skip


@spec_kind
@dataclass(frozen=True)
class Recipe:
    """How an image classifier is trained; with ``masks``, which then stands for ``augment``, a segmenter.

    ``lr`` is for batches of ``lr_batch`` examples; at another ``batch`` it is multiplied by their ratio
    (``lr_scaling`` "linear"), by its root ("sqrt") or not ("none"). It starts at a share ``warmup_from`` of that for
    ``warmup`` epochs, rising in a line or (``warmup_constant``) staying there, and then follows ``schedule``; with
    ``lr_per`` "epoch" it changes only between epochs.

    ``weight_decay`` leaves out normalisation and biases unless ``decay_all``. ``repeats`` above 1 is repeated
    augmentation, with epochs of a multiple of ``repeat_block`` images (1: of all). ``size`` is the side of training
    images (0: the task's). ``resize`` "squash" takes pictures whole, not their centre square; ``normalise`` says
    whether the data's mean is subtracted and their deviation divided by. ``ema`` is the decay of the moving average of
    the weights, which then is what is kept (0: none). ``drop_path`` and ``dropout`` belong to the network's spec
    (None: as it is). ``parametrization`` says how the learning rate carries over to other depths and widths.
    ``precision`` "auto" lets the machine's measured pace decide. ``clip`` bounds the gradient norm or, with ``clip_by``
    "unit", that of each unit as a share of its weights' norm (0: no bound). ``accumulate`` splits batches that do not
    fit into memory. ``trains`` "head" changes the classifier alone: the network stays in eval mode, its statistics
    what they are (a linear probe).
    """

    kind: ClassVar[str] = "recipe"
    name: str = "custom"
    epochs: float = 100.0
    batch: int = 128
    optimiser: SGD | AdamW | Adam | Lamb | Lars | RMSpropTF | Adadelta = field(default_factory=SGD)
    lr: float = 0.1
    lr_batch: int = 128
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    schedule: Cosine | Steps | Staircase | OneCycle | StableDecay | Constant | Poly | Exponential = field(
        default_factory=Cosine
    )
    lr_per: Literal["step", "epoch"] = "step"
    warmup: float = 0.0
    warmup_from: float = 0.0
    warmup_constant: bool = False
    weight_decay: float = 0.0
    decay_all: bool = False
    loss: CrossEntropy | BinaryCrossEntropy | SemanticSoftmax | MultiLabel | PixelCrossEntropy | Bootstrapped = field(
        default_factory=CrossEntropy
    )
    augment: Augment = field(default_factory=Augment)
    masks: MaskAugment | None = None
    repeats: int = 1
    repeat_block: int = 256
    size: int = 0
    resize: Resize = "crop"
    normalise: bool = True
    ema: float = 0.0
    drop_path: float | None = None
    dropout: float | None = None
    parametrization: Standard | DepthMup = field(default_factory=Standard)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    clip: float = 0.0
    clip_by: Clip = "norm"
    accumulate: int = 1
    trains: Literal["all", "head"] = "all"

    def __post_init__(self) -> None:
        least = {"epochs": 0.0, "lr": 0.0, "batch": 0, "lr_batch": 0, "repeats": 0, "repeat_block": 0, "accumulate": 0}
        for name, bound in least.items():
            if getattr(self, name) <= bound or not math.isfinite(getattr(self, name)):
                raise SpecError(f"recipe {self.name}: {name} must be more than {bound}, not {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "clip", "size"):
            if getattr(self, name) < 0:
                raise SpecError(f"recipe {self.name}: {name} must not be negative")
        if not 0.0 <= self.ema < 1.0:
            raise SpecError(f"recipe {self.name}: ema must be at least 0 and below 1, not {self.ema}")
        self.parametrization.check(self.optimiser)
        if self.batch % self.accumulate or (self.augment.mixes and self.batch // self.accumulate % 2):
            even = " into even parts, for mixup and cutmix" if self.augment.mixes else ""
            raise SpecError(f"recipe {self.name}: a batch of {self.batch} does not divide by {self.accumulate}{even}")

    def full_lr(self) -> float:
        """The learning rate after the warm-up, for this batch."""
        ratio = self.batch / self.lr_batch
        return self.lr * math.pow(ratio, {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[self.lr_scaling])

    def pixels(self, preprocess: Preprocess) -> Preprocess:
        """A task's preprocessing as the recipe wants it."""
        return preprocess if self.normalise else preprocess.plain()

    def check(self) -> None:
        """Read the files the recipe names; raises DataError for one that cannot be read."""
        if isinstance(self.loss, TreeLoss):
            self.loss.check()

    def replace(self, **changes: Any) -> Recipe:
        """A copy with other fields; raises SpecError for values that cannot be."""
        return dataclasses.replace(self, **changes)

    def replace_from(self, settings: Sequence[str]) -> Recipe:
        """A copy with settings such as ``lr=0.004``, ``augment.mixup=0.1`` or ``optimiser.kind=lamb``.

        Values are written as in TOML, text also without quotes, nothing as ``none``. Another ``kind`` starts its table
        from its defaults. Raises SpecError for an unknown name or a value of wrong type.
        """
        return read_recipe(with_values(self, settings), self.name)

    def rung(self, epochs: float, *, last: bool) -> Recipe:
        """The part up to ``epochs`` of a training that may go on: the learning rate falls in the last part only.

        The rate stays full and then falls over a share of the whole, the schedule's if it is "stable-decay". Earlier
        parts should end before that fall begins.
        """
        fall = self.schedule if isinstance(self.schedule, StableDecay) else StableDecay()
        return self.replace(epochs=epochs, schedule=fall if last else StableDecay(0.0))

    def lineage(self) -> Json:
        """The values that must be equal for one training to continue another: all but its length and schedule."""
        data = to_json(self)
        return {key: value for key, value in data.items() if key not in ("name", "epochs", "schedule")}

    def to_json(self) -> Json:
        """Plain values that ``read_recipe`` reads back."""
        return to_json(self)

    def id(self) -> str:
        """Twelve characters that equal recipes share."""
        return digest(to_json(self))


def list_recipes() -> list[str]:
    """The names of the recipes that come with the library, sorted."""
    folder = files("sartor.training").joinpath("recipes")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def recipe(name: str) -> Recipe:
    """A recipe by name, or from a ``.toml`` file; raises SpecError naming the nearest ones or the wrong key."""
    try:
        data = tomllib.loads(recipe_text(name))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"recipe {name} is not TOML: {error}") from None
    return read_recipe(data, Path(name).stem)


def recipe_text(name: str) -> str:
    """The TOML of a recipe, by name or from a file; raises SpecError naming the nearest ones."""
    if name in list_recipes():
        return files("sartor.training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    if not name.endswith(".toml"):
        raise SpecError(unknown("recipe", name, list_recipes()))
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"recipe {name}: cannot be read ({error.__class__.__name__})") from None


def read_recipe(data: Mapping[str, Any], name: str = "custom") -> Recipe:
    """A recipe from plain values; a table that says no kind has the kind of the default."""
    whole = {"kind": Recipe.kind, "name": name, **data}
    for entry in dataclasses.fields(Recipe):
        table = whole.get(entry.name)
        default: Any = entry.default_factory
        if isinstance(table, Mapping) and hasattr(default, "kind"):
            whole[entry.name] = {"kind": default.kind, **table}
    try:
        return from_json(whole, Recipe)  # type: ignore[no-any-return]
    except SpecError as error:
        message = str(error).removeprefix(f"spec {Recipe.kind!r}: ").removeprefix(f"recipe {name}: ")
        raise SpecError(f"recipe {name}: {message}") from None


def with_values(spec: Any, settings: Sequence[str]) -> Json:
    """The plain values of a spec with settings such as ``lr=0.004`` put in, to be read and checked anew."""
    data = to_json(spec)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise SpecError(f"setting {setting!r} must be written name=value, as in lr=0.004")
        _set(data, name.strip(), _value(text.strip()))
    return data


def _set(data: Json, name: str, value: Any) -> None:
    """Set a possibly dotted name; a table that is not written out yet is begun."""
    *path, last = name.split(".")
    for part in path:
        data[part] = dict(data.get(part, {}))
        data = data[part]
    if last == "kind" and data.get("kind") != value:
        data.clear()
    data[last] = value


def _value(text: str) -> Any:
    if text == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
