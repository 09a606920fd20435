"""``config.json`` of a served classifier: all that is known of it but its weights. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sartor.core.errors import SartorError, WeightsError
from sartor.core.files import write_json
from sartor.core.spec import Json
from sartor.data.preprocess import Preprocess

CONFIG, WEIGHTS, GRAPH = "config.json", "model.safetensors", "model.onnx"
FORMAT = 1
_LIBRARIES = ("sartor", "torch", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Guard:
    """When a reduced-precision engine's answer is computed again in float32.

    That is where its two largest logits are at most ``tolerance`` apart. At calibration on ``images`` images this
    was a share ``recomputed`` of them.
    """

    tolerance: float
    images: int
    recomputed: float


@dataclass(frozen=True, slots=True)
class Description:
    """A classifier without its weights.

    ``network`` has the network's spec under ``spec`` (and keys other libraries read). ``views`` is 2 if the logits
    of the image and of its mirror image are averaged. ``engine`` is what runs it unless another is asked for.
    ``checks`` records what was compared and timed when it was exported.
    """

    network: Json
    preprocess: Preprocess
    classes: tuple[str, ...]
    views: int = 1
    engine: str = "eager"
    guard: Guard | None = None
    checks: Json = field(default_factory=dict)
    versions: Json = field(default_factory=dict)

    def having(self, **changes: Any) -> Description:
        """A copy with other fields."""
        return replace(self, **changes)

    def write(self, folder: Path) -> None:
        """Write ``config.json``, stamped with the versions of the libraries at hand."""
        content = {
            "format": FORMAT,
            "kind": "image-classifier",
            **self.network,
            "preprocess": self.preprocess.to_json(),
            "classes": list(self.classes),
            "views": self.views,
            "engine": self.engine,
            "guard": self.guard and {name: getattr(self.guard, name) for name in Guard.__slots__},
            "checks": self.checks,
            "versions": library_versions(),
        }
        write_json(folder / CONFIG, content)

    @classmethod
    def read(cls, folder: Path) -> Description:
        """The content of ``folder/config.json``; raises WeightsError if it is missing, damaged or inconsistent."""
        path = folder / CONFIG
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls._of(content)
        except FileNotFoundError:
            raise WeightsError(f"{folder}: no {CONFIG} in it; name a folder that save or export wrote") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SartorError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise WeightsError(f"{path}: describes no classifier ({reason}); save the model again") from None

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Description:
        if content["format"] > FORMAT:
            raise WeightsError(f"format {content['format']} is of a later version; this one reads up to {FORMAT}")
        own = ("format", "kind", "preprocess", "classes", "views", "engine", "guard", "checks", "versions")
        network = {key: value for key, value in content.items() if key not in own}
        classes, views, guard = tuple(map(str, content["classes"])), content["views"], content["guard"]
        expected = network["spec"].get("classes", len(classes))
        if len(classes) != expected or not classes:
            raise WeightsError(f"{len(classes)} class names for {expected} outputs")
        if views not in (1, 2):
            raise WeightsError(f"views is {views!r}, not 1 or 2")
        if guard is not None and not (math.isfinite(guard["tolerance"]) and guard["tolerance"] >= 0):
            raise WeightsError(f"guard tolerance {guard['tolerance']!r} is no distance")
        return cls(
            network,
            Preprocess.from_json(content["preprocess"]),
            classes,
            views,
            str(content["engine"]),
            Guard(**guard) if guard else None,
            dict(content["checks"]),
            dict(content["versions"]),
        )


def library_versions() -> Json:
    """Versions of the libraries at hand, by name."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
