"""Networks by name, with weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sartor.models.network import as_spec, build
from sartor.weights.load import load_weights

if TYPE_CHECKING:
    from pathlib import Path


def create_model(
    model: Any,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
) -> Any:
    """A backbone by name (``list_models()``), spec or JSON form of a spec.

    ``weights`` is what ``load_weights`` takes: a local file or folder, or a hub name such as
    ``timm/resnext50_32x4d.a1h_in1k``. Where ``num_classes`` or ``in_channels`` differ from the checkpoint's, the ends
    are adapted and a message says so. Raises SpecError or WeightsError.
    """
    changes = {"classes": num_classes, "channels": in_channels}
    spec = as_spec(model, **{key: value for key, value in changes.items() if value is not None})
    if weights is None:
        return build(spec, device=device)
    return load_weights(build(spec, device="meta"), weights, device=device)
