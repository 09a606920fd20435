"""What a way of pretraining is: a spec that says which modules train, and by which loss on which views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from sartor.training.plan import Batch, Context, Member, Modules, Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Pretext(Protocol):
    """A frozen dataclass of plain values with a ``kind``. The batch has ``view0``, ``view1`` … and ``label``."""

    kind: str

    @property
    def views(self) -> int:
        """How many views of each image it compares."""

    def check(self, spec: Any) -> None:
        """Raises TrainingError, before data are read, for a network the method cannot train."""

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """The modules of the plan, ``model`` among them; ``classes`` is the number of the data's (0: no labels)."""

    def backbone_of(self, model: Any) -> Any:
        """The backbone in the trained ``model``."""

    def schedules(self) -> Mapping[str, Schedule]:
        """Values that change during training, beside the learning rate."""

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The terms of the loss."""

    def after_backward(self, modules: Modules, context: Context) -> None:
        """A last change of the gradients."""


class Encoding:
    """What methods share whose ``model`` is an ``Encoder``."""

    @property
    def views(self) -> int:
        """Two."""
        return 2

    def check(self, spec: Any) -> None:
        """Any network will do."""

    def backbone_of(self, model: Any) -> Any:
        """The trunk's."""
        return model.trunk.backbone

    def schedules(self) -> Mapping[str, Schedule]:
        """None."""
        return {}

    def after_backward(self, modules: Modules, context: Context) -> None:
        """Nothing."""
