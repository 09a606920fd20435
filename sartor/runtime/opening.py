"""A saved folder, whatever it serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sartor.runtime.classifier import ImageClassifier
from sartor.runtime.description import CONFIG
from sartor.runtime.segmenter import KIND, ImageSegmenter


def servable_kind(folder: str | Path) -> type[Any]:
    """The class that opens a folder: of classifiers, unless its ``config.json`` says that it is a segmenter."""
    try:
        kind = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, LookupError, TypeError):
        return ImageClassifier  # which says what is wrong with it
    return ImageSegmenter if kind == KIND else ImageClassifier


def open_servable(folder: str | Path, engine: str | None = None) -> Any:
    """The classifier or segmenter that was saved to a folder; raises what their ``open`` raises."""
    return servable_kind(folder).open(folder, engine=engine)
