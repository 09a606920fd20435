"""A fully convolutional head on the last map of any backbone (Long et al. 2015, arXiv 1411.4038)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.core.protocols import Role
from sartor.core.seams import Port, Seam
from sartor.core.spec import spec_kind
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.image_spec import FRAME, MaskSpec
from sartor.models.layers import Conv, Norm, Path, count_paths, place_paths
from sartor.models.network import NetworkSpec, as_spec
from sartor.models.pyramid import as_map, map_port
from sartor.models.stepwise import Stepwise

if TYPE_CHECKING:
    from sartor.models.init import Fan

_CONV, _NORM, _LAST = "classifier.0", "classifier.1", "classifier.4"  # as torchvision names them


@spec_kind
@dataclass(frozen=True, slots=True)
class FCN(MaskSpec):
    """A backbone without its classifier, a 3x3 convolution to a quarter of the width, norm, ReLU, dropout, a 1x1
    convolution to the classes, and enlargement to the image between the pixels' centres.

    Size, channels, initialisation and stochastic depth are the backbone's. Raises SpecError for a backbone that gives
    no map or whose classifier cannot be told from the rest.
    """

    kind: ClassVar[str] = "fcn"
    backbone: NetworkSpec
    classes: int = 21
    dropout: float = 0.1

    def __post_init__(self) -> None:
        inner: Any = self.backbone
        if not hasattr(inner, "head_path") or inner.kind in ("levit", "dense-unet", "fcn"):
            raise SpecError(f"fcn: a {inner.kind} network gives no map that a head could read; take another backbone")
        if getattr(inner, "branch_scale", 1.0) != 1.0 or getattr(inner, "readout_scale", 1.0) != 1.0:
            raise SpecError("fcn: the backbone's factors on branches and readout are not supported; leave them at 1")
        if self.classes < 1 or not 0.0 <= self.dropout < 1.0:
            raise SpecError(f"fcn: needs a class and a dropout below 1, not {self.classes} and {self.dropout:g}")

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        """The height and width it is meant for."""
        return self.backbone.size  # type: ignore[attr-defined,no-any-return]

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Of its images."""
        return self.backbone.channels  # type: ignore[attr-defined,no-any-return]

    @property
    def init(self) -> Fan:
        """How convolutions are drawn."""
        return self.backbone.init  # type: ignore[no-any-return]

    @property
    def fc_std(self) -> float:
        """The last convolution comes from the framework's uniform."""
        return 0.0

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields, the backbone's among them."""
        own = {name: changes.pop(name) for name in ("classes", "dropout", "backbone") if name in changes}
        inner = own.pop("backbone", self.backbone)
        return dataclasses.replace(self, backbone=inner.replace(**changes) if changes else inner, **own)

    def head_of(self, width: int) -> Path:
        """The head on maps of a width."""
        inner = max(1, width // 4)
        return Path({_CONV: Conv(width, inner, 3), _NORM: Norm(inner), _LAST: Conv(inner, self.classes, 1, bias=True)})

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost for one image of ``size`` (height, width): the backbone's without its classifier, the head's."""
        inner: Any = self.backbone
        size = size or self.size
        total, left_out = inner.tally(size, convention), Tally(convention)
        count_paths((inner.head_path(),), left_out, size)
        total.add(left_out, -1)
        port = last_map(_shell(inner))[1]
        height, width = size
        count_paths((self.head_of(port.width),), total, (-(-height // port.stride), -(-width // port.stride)))
        return total  # type: ignore[no-any-return]

    def build(self) -> FCNBackbone:
        """The module, its weights not written yet."""
        return FCNBackbone(self)


def _shell(spec: Any) -> Any:
    """The backbone without weights: what its seams are."""
    with torch.device("meta"):
        return spec.build()


def last_map(backbone: Any) -> tuple[str, Port]:
    """The last seam of a backbone at which a map crosses, and its port."""
    for seam in reversed(backbone.seams):
        port = map_port(seam)
        if port is not None:
            return seam.name, port
    raise SpecError(f"fcn: a {backbone.spec.kind} network gives no map that a head could read; take another backbone")


class FCNBackbone(Stepwise):
    """The network of an ``FCN``: images (batch, channels, height, width), logits (batch, classes, height, width).

    Seams are the backbone's up to its last map, and ``classifier`` after the 3x3 convolution. What crosses is ``x``
    and ``frame``, of no channels, which has the image's size.
    """

    def __init__(self, spec: FCN) -> None:
        super().__init__()
        self.spec = spec
        trunk: Any = spec.backbone.build()
        stop, self._port = last_map(trunk)
        roles = trunk.roles()
        for name in {name.rpartition(".")[0] for name, role in roles.items() if role.kind == "readout"}:
            parent, _, leaf = name.rpartition(".")
            delattr(trunk.get_submodule(parent), leaf)
        self.backbone = trunk
        place_paths(self, (spec.head_of(self._port.width),))
        self._trunk = trunk.steps[: trunk.steps.index(stop) + 1]
        seams = {seam.name: seam for seam in trunk.seams}
        self.steps = (*self._trunk, "classifier", "head")
        inner = max(1, self._port.width // 4)
        self.seams = (
            *(Seam(name, seams[name].stage, (*seams[name].ports, FRAME)) for name in self._trunk),
            Seam("classifier", seams[stop].stage, (Port("x", "stream", inner, "NCHW", self._port.stride), FRAME)),
        )

    def advance(self, step: str, x: Any) -> Any:
        """One step, from an image or what crosses a seam to what crosses the next, or to the logits."""
        state: Mapping[str, Tensor] = {"x": x, "frame": x[:, :0]} if isinstance(x, Tensor) else x
        x, frame = state["x"], state["frame"]
        if step in self._trunk:
            return {"x": self.backbone.advance(step, x), "frame": frame}
        if step == "classifier":
            x = as_map(x, self._port, (frame.shape[2], frame.shape[3]))
            return {"x": F.relu(self.get_submodule(_NORM)(self.get_submodule(_CONV)(x))), "frame": frame}
        x = F.dropout(x, self.spec.dropout, self.training)
        logits: Tensor = self.get_submodule(_LAST)(x)
        return F.interpolate(logits, size=frame.shape[2:], mode="bilinear", align_corners=False)

    def roles(self) -> dict[str, Role]:
        """The backbone's, without its classifier, and the head's."""
        inner = self.backbone.roles()
        branches = next(iter(inner.values())).branches
        roles = {f"backbone.{name}": role for name, role in inner.items()}
        for name, parameter in self.get_submodule("classifier").named_parameters(prefix="classifier"):
            last = "readout" if name.startswith(_LAST) else "hidden"
            kind: Any = "norm" if name.startswith(_NORM) else "bias" if parameter.ndim == 1 else last
            roles[name] = Role(kind, -1, parameter[0].numel(), branches)
        return roles

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As of the backbone."""
        self.backbone.set_grad_checkpointing(enable)


def fcn(backbone: Any, classes: int = 21, dropout: float = 0.1) -> FCN:
    """The head on a named backbone, a spec or its JSON form."""
    return FCN(as_spec(backbone), classes, dropout)
