"""``config.json``: the spec of a saved network, beside the keys timm reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sartor.core.errors import SartorError, WeightsError
from sartor.core.spec import Json, from_json, to_json
from sartor.models.network import list_models, spec_of
from sartor.weights.read import short

if TYPE_CHECKING:
    from pathlib import Path

# what plain values of the wrong kind or size raise on their way to a network
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_FREE = ("classes", "channels", "size", "dropout", "drop_path", "init", "fc_std", "zero_gamma")
_READ = (
    "num_classes",
    "in_chans",
    "img_size",
    "drop_rate",
    "drop_path_rate",
)  # timm's arguments that leave the blocks as they are
_USUAL = {"global_pool": "avg"}


def name_of(spec: Any) -> str | None:
    """The name ``list_models`` has for a spec, whatever its ends, size and regularisation; None if it has none."""
    for name in list_models():
        named = spec_of(name)
        if type(named) is type(spec) and _architecture(named) == _architecture(spec):
            return name
    return None


def _architecture(spec: Any) -> Json:
    values = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in _FREE}
    inner = values.get("backbone")  # a network with a head of another kind: its ends are free too
    return values if inner is None else {**values, "backbone": (inner.kind, _architecture(inner))}


def named(network: Any, kind: str) -> list[str]:
    """The names of a backbone's parameters of one role, such as ``input`` or ``readout``."""
    return [name for name, role in network.roles().items() if role.kind == kind]


def config_of(network: Any) -> Json:
    """The content of ``config.json``.

    ``spec`` is all that Sartor reads. ``architecture`` (where the network has a name), ``num_classes``,
    ``pretrained_cfg`` and ``model_args`` are what timm reads.
    """
    spec, name = network.spec, name_of(network.spec)
    sized = {"img_size": list(spec.size)} if getattr(spec, "fixed_size", False) else {}
    first, last = (next(iter(named(network, kind))).rpartition(".")[0] for kind in ("input", "readout"))
    return {
        **({"architecture": name} if name else {}),
        "num_classes": spec.classes,
        "model_args": {"in_chans": spec.channels, "num_classes": spec.classes, **sized},
        "pretrained_cfg": {
            "input_size": [spec.channels, *spec.size],
            "num_classes": spec.classes,
            "first_conv": first,
            "classifier": last,
        },
        "spec": to_json(spec),
    }


def read_config(path: Path) -> Any:
    """The spec in a ``config.json`` of ours or of timm's; raises WeightsError for anything else."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return from_json(config["spec"]) if "spec" in config else _of_timm(config)
    except SartorError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (OSError, *MALFORMED) as error:
        text = f"{path}: describes no network ({type(error).__name__}: {short(error)}); save the network again"
        raise WeightsError(text) from None


def _of_timm(config: Mapping[str, Any]) -> Any:
    """The spec of timm's keys: a name, and the ends and the input size where they differ from the name's."""
    arguments, inner = config.get("model_args") or {}, config.get("pretrained_cfg") or config
    strange = [key for key in arguments if key not in _READ and arguments[key] != _USUAL.get(key)]
    if strange:
        raise WeightsError(f"made with timm's {', '.join(strange)}, which has no counterpart here; open it with timm")
    channels, *size = inner.get("input_size", (3, 224, 224))
    side = arguments.get("img_size", size)
    spec = spec_of(
        config["architecture"],
        classes=config.get("num_classes", inner.get("num_classes", 1000)),
        channels=arguments.get("in_chans", channels),
        size=(side, side) if isinstance(side, int) else tuple(side),
    )
    return from_json(to_json(spec))  # checks the types of what was put in
