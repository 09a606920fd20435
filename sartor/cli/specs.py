"""Networks as arguments."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import Any

from sartor.core.errors import SpecError


def name_or_spec(model: str) -> Any:
    """A name, or the spec that a JSON file holds; raises SpecError if it cannot be read."""
    if not model.endswith(".json"):
        return model
    try:
        data = loads(Path(model).read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{model} is not a JSON file that can be read ({type(error).__name__})") from None
    return data.get("spec", data) if isinstance(data, dict) else data
