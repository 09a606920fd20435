"""Pre-activation ResNet and its ablations of activation order and shortcut (He et al. 2016, arXiv 1603.05027)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.spec import from_json, spec_kind
from sartor.models.anynet import AnyNet, Block, Site, Stage, Stem
from sartor.models.layers import Conv, Layer, Norm, Path, activation
from sartor.models.vision.resnet import padded_identity

Order = Literal["original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact"]
PREACTIVATED = ("relu_preact", "full_preact")


@spec_kind
@dataclass(frozen=True, slots=True)
class Shortcut:
    """What a unit adds to its branch: here its input, unchanged; the kinds below change that."""

    kind: ClassVar[str] = "identity_shortcut"

    def paths(self, site: Site) -> tuple[Path, ...]:
        """No layers."""
        return ()

    def weigh(self, unit: Block, x: Tensor, carried: Tensor, branch: Tensor) -> tuple[Tensor | None, Tensor]:
        """What is added: of the unit's input ``x``, what the shortcut ``carried``, and the branch."""
        return carried, branch


@spec_kind
@dataclass(frozen=True, slots=True)
class Scaling(Shortcut):
    """Constant factors on the shortcut (lambda) and the branch (mu); ``shortcut`` 0 is a plain net (section 3.1)."""

    kind: ClassVar[str] = "scaled_shortcut"
    shortcut: float = 0.5
    branch: float = 1.0

    def weigh(self, unit: Block, x: Tensor, carried: Tensor, branch: Tensor) -> tuple[Tensor | None, Tensor]:
        """Both multiplied; None where the shortcut's factor is 0."""
        branch = branch if self.branch == 1.0 else self.branch * branch
        return (self.shortcut * carried if self.shortcut else None), branch


@spec_kind
@dataclass(frozen=True, slots=True)
class Gating(Shortcut):
    """The shortcut times 1 - g(x), g the sigmoid of a 1x1 convolution whose bias starts at ``bias`` (section 3.1).

    ``exclusive`` also multiplies the branch by g(x), as in highway networks.
    """

    kind: ClassVar[str] = "gated_shortcut"
    exclusive: bool = False
    bias: float = -6.0

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The gate."""
        return (Path({"gate": Conv(site.w_in, site.w_out, 1, site.stride, bias=True)}),)

    def weigh(self, unit: Block, x: Tensor, carried: Tensor, branch: Tensor) -> tuple[Tensor | None, Tensor]:
        """Multiplied by the gate's complement, and the branch by the gate."""
        gate = torch.sigmoid(unit.gate(x))
        return (1.0 - gate) * carried, gate * branch if self.exclusive else branch


@spec_kind
@dataclass(frozen=True, slots=True)
class Projected(Shortcut):
    """A 1x1 convolution on every shortcut (option C of the first paper)."""

    kind: ClassVar[str] = "projected_shortcut"


@spec_kind
@dataclass(frozen=True, slots=True)
class Dropped(Shortcut):
    """Dropout on the output of the shortcut."""

    kind: ClassVar[str] = "dropped_shortcut"
    rate: float = 0.5

    def weigh(self, unit: Block, x: Tensor, carried: Tensor, branch: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut with some of its values zeroed in training, the others rescaled."""
        return F.dropout(carried, self.rate, unit.training), branch


@spec_kind
@dataclass(frozen=True, slots=True)
class Unit:
    """Convolutions of ``kernels`` with normalisation and activation in one of five orders (figure 4).

    All but the last have ``inner`` output channels (0: those of the unit), and those from inner to inner width
    ``groups``; the convolution numbered ``stride_at`` has the stride. Where the shape changes, the shortcut
    subsamples and appends zero channels (``change`` A) or projects (B). ``dropout`` acts before every convolution
    but the first (Wide ResNet).

    Pre-activated units that project do so from the activated input. A projection is normalised where the branch
    ends with a normalised convolution. The first unit of a net whose stem normalises has no activation of its own.
    """

    kind: ClassVar[str] = "preact_unit"
    kernels: tuple[int, ...] = (3, 3)
    inner: int = 0
    groups: int = 1
    order: Order = "full_preact"
    shortcut: Shortcut = Shortcut()
    change: Literal["A", "B"] = "B"
    stride_at: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.stride_at < len(self.kernels):
            raise SpecError(f"preact_unit: there is no convolution {self.stride_at} of {len(self.kernels)} to stride")

    @property
    def residual(self) -> bool:
        """Whether a shortcut is left: a factor of 0 makes plain units."""
        return not (isinstance(self.shortcut, Scaling) and self.shortcut.shortcut == 0.0)

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch, then the projection and the gate where there are any."""
        last = len(self.kernels) - 1
        widths = [site.w_in, *[self.inner or site.w_out] * last, site.w_out]
        branch: dict[str, Layer] = {}
        after: tuple[Path, ...] = ()
        for i, kernel in enumerate(self.kernels):
            stride, groups = site.stride if i == self.stride_at else 1, self.groups if 0 < i < last else 1
            conv, norm = f"conv{i + 1}", f"norm{i + 1}"
            if self.order == "full_preact" and not (i == 0 and site.activated):
                branch[norm] = Norm(widths[i])
            branch[conv] = Conv(widths[i], widths[i + 1], kernel, stride, groups)
            if self.order == "bn_after_add" and i == last:
                after = (Path({norm: Norm(site.w_out)}),)
            elif self.order != "full_preact":
                branch[norm] = Norm(widths[i + 1])
        return Path(branch), *after, *self._projection(site), *self.shortcut.paths(site)

    def _projection(self, site: Site) -> tuple[Path, ...]:
        if not self.residual or not (isinstance(self.shortcut, Projected) or (self.change == "B" and site.changes)):
            return ()
        layers: dict[str, Layer] = {"downsample.conv": Conv(site.w_in, site.w_out, 1, site.stride)}
        if self.order not in ("full_preact", "bn_after_add"):
            layers["downsample.norm"] = Norm(site.w_out)
        return (Path(layers),)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return UnitBlock(self, site, act)


class UnitBlock(Block):
    """The module of a ``Unit``."""

    kind: Unit

    def __init__(self, kind: Unit, site: Site, act: str) -> None:
        super().__init__(kind, site, act)
        if kind.order == "relu_preact":
            self.first_act = activation(act, inplace=False)  # the shortcut needs the input as it was

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.kind.residual

    def initialise(self) -> None:
        """Set the bias of the gate."""
        if isinstance(self.kind.shortcut, Gating):
            nn.init.constant_(self.gate.bias, self.kind.shortcut.bias)

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch."""
        order, last = self.kind.order, len(self.kind.kernels)
        entry = branch = self._entry(x)
        for i in range(1, last + 1):
            if i > 1:
                branch = self.act(self._norm(i, branch) if order == "full_preact" else branch)
                if self.kind.dropout:
                    branch = F.dropout(branch, self.kind.dropout, self.training)
            branch = getattr(self, f"conv{i}")(branch)
            if order != "full_preact" and not (order == "bn_after_add" and i == last):
                branch = self._norm(i, branch)
        if order == "relu_before_add":
            branch = self.act(branch)
        return self.kind.shortcut.weigh(self, x, self._carried(x, entry), branch)

    def join(self, shortcut: Tensor | None, branch: Tensor) -> Tensor:
        """The sum, with what the order puts after it."""
        if self.kind.order == "relu_before_add":  # what an activation gave must not change: its gradient needs it
            return branch if shortcut is None else shortcut + branch
        if shortcut is not None:
            branch += shortcut
        if self.kind.order == "bn_after_add":
            branch = self._norm(len(self.kind.kernels), branch)
        return branch if self.kind.order in PREACTIVATED else self.act(branch)

    def _norm(self, i: int, x: Tensor) -> Tensor:
        return getattr(self, f"norm{i}")(x)  # type: ignore[no-any-return]

    def _entry(self, x: Tensor) -> Tensor:
        """The input as the first convolution takes it."""
        if self.site.activated or self.kind.order not in PREACTIVATED:
            return x
        first: Tensor = self.first_act(x) if self.kind.order == "relu_preact" else self.act(self._norm(1, x))
        return first

    def _carried(self, x: Tensor, entry: Tensor) -> Tensor:
        """What the shortcut carries before it is scaled or gated."""
        downsample = getattr(self, "downsample", None)
        if downsample is None:
            return padded_identity(x, self.site)
        carried: Tensor = downsample.conv(entry)
        if hasattr(downsample, "norm"):
            carried = downsample.norm(carried)
        return carried


def preact_resnet(depths: Sequence[int], bottleneck: bool, order: Order = "full_preact") -> AnyNet:
    """The ImageNet form: 7x7 stem with normalisation and max-pooling, four stages; the stride is on the 3x3."""
    return _preactivated(order, Stem(64, 7, 2, pool=True), _imagenet_stages(depths, bottleneck, order))


def resnetv2(depths: Sequence[int], bottleneck: bool) -> AnyNet:
    """timm's form: the stem only convolves and pools, so the first unit has its own normalisation.

    Where the scales of that normalisation are positive it computes what the paper's bottleneck form does.
    """
    stages = _imagenet_stages(depths, bottleneck, "full_preact")
    return AnyNet(Stem(64, 7, 2, pool=True, norm=False), stages, final_norm=True, names="resnetv2")


def preact_resnet_cifar(
    depth: int,
    unit: Literal["basic", "bottleneck", "single"] = "basic",
    order: Order = "full_preact",
    shortcut: Shortcut | Mapping[str, Any] | None = None,
    classes: int = 10,
) -> AnyNet:
    """The CIFAR form: 3x3 stem of width 16, three stages (section 4).

    Depth is 6n+2 with basic units, 9n+2 with bottlenecks (which have their stride on the first 1x1 and end 64,
    128 and 256 wide) and 3n+2 with ``single`` units of one convolution. ``shortcut`` may be in its JSON form.
    Raises SpecError for another depth.
    """
    kernels = {"basic": (3, 3), "bottleneck": (1, 3, 1), "single": (3,)}[unit]
    count, rest = divmod(depth - 2, 3 * len(kernels))
    if count < 1 or rest:
        raise SpecError(f"preact_resnet_cifar: depth with {unit} units is {3 * len(kernels)}n+2, not {depth}")
    carried = from_json(shortcut, Shortcut) if isinstance(shortcut, Mapping) else shortcut or Shortcut()
    stages = []
    for number in range(3):
        base, stride = 16 * 2**number, 1 if number == 0 else 2
        if unit == "bottleneck":
            stages.append(Stage(Unit(kernels, base, order=order, shortcut=carried), count, 4 * base, stride))
        else:
            stages.append(Stage(Unit(kernels, order=order, shortcut=carried, change="A"), count, base, stride))
    return _preactivated(order, Stem(16), tuple(stages)).replace(classes=classes, size=(32, 32))


def _imagenet_stages(depths: Sequence[int], bottleneck: bool, order: Order) -> tuple[Stage, ...]:
    stages = []
    for number, depth in enumerate(depths):
        base = 64 * 2**number
        unit = Unit((1, 3, 1), base, order=order, stride_at=1) if bottleneck else Unit(order=order)
        stages.append(Stage(unit, depth, 4 * base if bottleneck else base, 1 if number == 0 else 2))
    return tuple(stages)


def _preactivated(order: Order, stem: Stem, stages: tuple[Stage, ...]) -> AnyNet:
    """Pre-activated nets end with normalisation and activation of their own."""
    return AnyNet(stem, stages, final_norm=order in PREACTIVATED, names="preact")
