"""SimpleNet (Hasanpour et al. 2016, arXiv 1608.06037) and SimpNet, its second version (2018, arXiv 1802.06205).

Plain nets of 13 convolutions with max-pooling: no branches, no shortcuts. Checkpoints of the authors' PyTorch port,
which numbers all layers in turn, are renamed when they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.checkpointing import checkpointed
from sartor.models.image_spec import ImageSpec
from sartor.models.init import Fan
from sartor.models.layers import Conv, Layer, Linear, MaxPool, Norm, Path, activation, count_paths, place, place_paths
from sartor.models.stepwise import Stepwise

UNIT, CLASSIFIER = "units.{}", "classifier"
MODES: Mapping[int, tuple[int, ...]] = {  # strides of the first convolutions; more of them early is faster
    0: (),
    1: (2, 2, 2),
    2: (2, 2, 1, 2),
    3: (2, 2, 1, 1, 2),
    4: (2, 1, 2, 1, 2, 1),
}


class Shared(NamedTuple):
    """What all units of a network have in common."""

    act: str
    map_dropout: bool
    ceil: bool
    momentum: float


@spec_kind
@dataclass(frozen=True, slots=True)
class PlainUnit:
    """Convolution with bias, normalisation, activation, dropout, then (``pool`` end) 2x2 max-pooling and dropout.

    ``pool`` early has the pooling right after the convolution. Even kernels of stride 1 make maps smaller by 1.
    """

    kind: ClassVar[str] = "plain_unit"
    width: int
    kernel: int = 3
    stride: int = 1
    norm: bool = True
    drop: float = 0.0
    pool: Literal["none", "end", "early"] = "none"
    pool_drop: float = 0.0

    def path(self, w_in: int, shared: Shared) -> Path:
        """The layers on an input of ``w_in`` channels."""
        pool = MaxPool(self.width, 2, 0, shared.ceil)
        layers: dict[str, Layer] = {"conv": Conv(w_in, self.width, self.kernel, self.stride, bias=True)}
        if self.pool == "early":
            layers["pool"] = pool
        if self.norm:
            layers["norm"] = Norm(self.width, shared.momentum)
        if self.pool == "end":
            layers["pool"] = pool
        return Path(layers)


class PlainUnitModule(nn.Module):
    """The module of a ``PlainUnit``."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, unit: PlainUnit, w_in: int, shared: Shared) -> None:
        super().__init__()
        self.unit = unit
        place_paths(self, (unit.path(w_in, shared),))
        self.act = activation(shared.act)
        self.dropout = F.dropout2d if shared.map_dropout else F.dropout

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output for its input, both (batch, channels, height, width)."""
        unit, x = self.unit, self.conv(x)
        if unit.pool == "early":
            x = self.pool(x)
        x = self._dropped(self.act(self.norm(x) if unit.norm else x), unit.drop)
        return self._dropped(self.pool(x), unit.pool_drop) if unit.pool == "end" else x

    def _dropped(self, x: Tensor, rate: float) -> Tensor:
        return self.dropout(x, rate) if rate and self.training else x


@spec_kind
@dataclass(frozen=True, slots=True)
class SimpleNet(ImageSpec):
    """Units in a row, the maximum over the remaining map, dropout (``dropout``) and a classifier.

    ``map_dropout`` drops whole maps of units instead of single values; ``ceil`` rounds sizes of pooled maps up.
    ``size`` is the height and width it is meant for; any runs that leaves a pixel.
    """

    kind: ClassVar[str] = "simplenet"
    names: ClassVar[str] = "simplenet"  # under which maps of checkpoints' keys are found
    units: tuple[PlainUnit, ...]
    classes: int = 10
    channels: int = 3
    size: tuple[int, int] = (32, 32)
    act: Literal["relu", "silu", "gelu"] = "relu"
    dropout: float = 0.0
    map_dropout: bool = True
    ceil: bool = False
    momentum: float = 0.05
    init: Fan = "xavier"
    fc_std: float = 0.0

    def __post_init__(self) -> None:
        if not self.units or min([self.classes, self.channels, *self.size]) < 1:
            raise SpecError("simplenet: needs at least one unit, and classes, channels and size of at least 1")
        for number, unit in enumerate(self.units, 1):
            if min(unit.width, unit.kernel, unit.stride) < 1:
                raise SpecError(f"simplenet: unit {number} has a width, kernel or stride below 1")

    @property
    def shared(self) -> Shared:
        """What all units have in common."""
        return Shared(self.act, self.map_dropout, self.ceil, self.momentum)

    def widths_in(self) -> tuple[int, ...]:
        """The input width of each unit."""
        return self.channels, *(unit.width for unit in self.units[:-1])

    def body_path(self) -> Path:
        """The layers of all units under their state-dict names."""
        layers: dict[str, Layer] = {}
        for number, (unit, w_in) in enumerate(zip(self.units, self.widths_in(), strict=True)):
            unit_layers = unit.path(w_in, self.shared).layers
            layers |= {f"{UNIT.format(number)}.{name}": layer for name, layer in unit_layers.items()}
        return Path(layers)

    def head_path(self) -> Path:
        """The classifier."""
        return Path({CLASSIFIER: Linear(self.units[-1].width, self.classes)}, pooled=True)

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width); raises SpecError where nothing is left of it."""
        total = Tally(convention)
        if min(count_paths((self.body_path(), self.head_path()), total, size or self.size)) < 1:
            raise SpecError(f"simplenet: images of {size or self.size} are too small for this pooling")
        return total

    def build(self) -> SimpleNetBackbone:
        """The module, its weights not written yet."""
        return SimpleNetBackbone(self)


class SimpleNetBackbone(Stepwise):
    """The network of a ``SimpleNet`` spec. Images are (batch, channels, height, width); logits (batch, classes).

    Seams: ``stage1.1`` … one per unit, stages being what poolings part, as long as maps are the input's size over a
    power of two; and ``pool``. There are no taps.
    """

    def __init__(self, spec: SimpleNet) -> None:
        super().__init__()
        self.spec = spec
        self.ends = {f"{UNIT.format(0)}.conv": "input", CLASSIFIER: "readout"}
        for number, (unit, w_in) in enumerate(zip(spec.units, spec.widths_in(), strict=True)):
            place(self, UNIT.format(number), PlainUnitModule(unit, w_in, spec.shared))
        place_paths(self, (spec.head_path(),))
        self.seams = (*_unit_seams(spec), Seam("pool", 1, (Port("x", "stream", spec.units[-1].width, "ND", 0),)))
        names = [seam.name for seam in self.seams[:-1]]
        names += [UNIT.format(number) for number in range(len(names), len(spec.units))]
        self._units = {name: UNIT.format(number) for number, name in enumerate(names)}
        self.steps = (*names, "pool", "head")

    def advance(self, step: str, x: Tensor) -> Tensor:
        """One step."""
        if step == "pool":
            return F.adaptive_max_pool2d(x, 1).flatten(1)
        if step == "head":
            if self.spec.dropout and self.training:
                x = F.dropout(x, self.spec.dropout)
            return self.get_submodule(CLASSIFIER)(x)  # type: ignore[no-any-return]
        unit = self.get_submodule(self._units[step])
        return checkpointed(unit, x) if self.checkpointing and self.training else unit(x)


def _unit_seams(spec: SimpleNet) -> Iterator[Seam]:
    stage, place, stride = 1, 0, 1
    for unit in spec.units:
        if unit.kernel % 2 == 0 and unit.stride == 1:
            return
        place, stride = place + 1, stride * unit.stride * (1 if unit.pool == "none" else 2)
        yield Seam(f"stage{stage}.{place}", stage, (Port("x", "stream", unit.width, "NCHW", stride),))
        if unit.pool != "none":
            stage, place = stage + 1, 0


def units_of(layers: Sequence[int | str], scale: float = 1.0, strides: Sequence[int] = ()) -> list[PlainUnit]:
    """Units of a row such as ``[64, 128, "P", "256k1"]``: widths, with a kernel other than 3 after k, and poolings.

    Widths are multiplied by ``scale`` and rounded, ties to even. Raises SpecError for anything else in the row.
    """
    units: list[PlainUnit] = []
    for layer in layers:
        width, _, kernel = str(layer).partition("k")
        if layer == "P" and units and units[-1].pool == "none":
            units[-1] = replace(units[-1], pool="end")
        elif width.isdigit() and (kernel or "3").isdigit():
            stride = strides[len(units)] if len(units) < len(strides) else 1
            units.append(PlainUnit(round(int(width) * scale), int(kernel or 3), stride))
        else:
            raise SpecError(f"simplenet: {layer!r} in a row of layers is neither a width nor one pooling P after one")
    return units


def simplenet(
    layers: Sequence[int | str],
    scale: float = 1.0,
    mode: int = 0,
    rates: Mapping[str, float] | None = None,
    classes: int = 10,
    size: int = 32,
) -> SimpleNet:
    """The form of the authors' PyTorch port; ``mode`` is a key of ``MODES``.

    ``rates`` maps positions in ``layers`` (from 0, in text) to rates of dropout after them, elsewhere there is none.
    Raises SpecError for an unknown mode or position.
    """
    if mode not in MODES:
        raise SpecError(f"simplenet: mode {mode} is none of {', '.join(map(str, MODES))}")
    left, units, position = dict(rates or {}), list[PlainUnit](), 0
    for unit in units_of(layers, scale, MODES[mode]):
        drop = left.pop(str(position), 0.0)
        pool_drop = left.pop(str(position + 1), 0.0) if unit.pool == "end" else 0.0
        units.append(replace(unit, drop=drop, pool_drop=pool_drop))
        position += 2 if unit.pool == "end" else 1
    if left:
        raise SpecError(f"simplenet: there is no layer {', '.join(left)} to drop after among {len(layers)}")
    return SimpleNet(tuple(units), classes, size=(size, size))


def simplenet_caffe(
    layers: Sequence[int | str],
    drop: float = 0.0,
    undropped: Sequence[int] = (),
    early: Sequence[int] = (),
    bn_tail: bool = True,
    late: float | None = None,
    head: float = 0.0,
    channels: int = 3,
    size: int = 32,
) -> SimpleNet:
    """The form of the papers' Caffe nets: dropout of single values, pooled sizes rounded up.

    Dropout with rate ``drop`` (from the second pooling on ``late``, if given; ``head`` before the classifier) follows
    units or the pooling that ends them, but not those numbered ``undropped`` (from 1). Units numbered ``early`` pool
    before they normalise. Without ``bn_tail`` the last three convolutions have no normalisation.
    """
    units, pools = list[PlainUnit](), 0
    plain = units_of(layers)
    for number, unit in enumerate(plain, 1):
        pooled = unit.pool == "end"
        pools += pooled
        rate = 0.0 if number in undropped else late if late is not None and pools > 1 else drop
        first = pooled and number not in early
        units.append(
            replace(
                unit,
                norm=bn_tail or number <= len(plain) - 3,
                drop=0.0 if first else rate,
                pool="early" if pooled and not first else unit.pool,
                pool_drop=rate if first else 0.0,
            )
        )
    return SimpleNet(
        tuple(units), channels=channels, size=(size, size), dropout=head, map_dropout=False, ceil=True
    )  # fmt: skip
