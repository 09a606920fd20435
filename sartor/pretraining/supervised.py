"""Pretraining on labels, perhaps weak ones such as the organ a tile was cut from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch.nn import functional as F

from sartor.core.errors import TrainingError
from sartor.core.spec import spec_kind
from sartor.pretraining.method import Encoding
from sartor.training.plan import Batch, Context, Member, Modules

if TYPE_CHECKING:
    from torch import Tensor


@spec_kind
@dataclass(frozen=True)
class Supervised(Encoding):
    """Cross-entropy on one view of each image, with the network's own classifier."""

    kind: ClassVar[str] = "supervised"
    smoothing: float = 0.0

    @property
    def views(self) -> int:
        """One."""
        return 1

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """The network. Raises TrainingError without labels."""
        if not classes:
            raise TrainingError("method supervised: the images have no labels; use a method that needs none")
        return {"model": Member(backbone)}

    def backbone_of(self, model: Any) -> Any:
        """The network."""
        return model

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The cross-entropy."""
        logits = modules["model"](batch["view0"]).float()
        return {"cross_entropy": F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)}
