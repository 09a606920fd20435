"""Data sets of the Hugging Face hub by name, through the ``datasets`` library (the extra ``hub``)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sartor.core.errors import DataError
from sartor.data.source import Source, split_of

PREFIX = "hub:"
_PATIENCE = 10.0  # seconds to wait for the hub's first answer


def matches(name: str) -> bool:
    """Whether a text reads as ``hub:name``, ``hub:owner/name`` or ``owner/name``."""
    return name.startswith(PREFIX) or re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def read(name: str) -> Source:
    """Download the set (or take it from the cache) as Arrow files and read these; no code of the set is run."""
    short = name.removeprefix(PREFIX)
    try:
        import datasets
        from huggingface_hub import HfApi
    except ImportError:
        raise DataError(f"{name}: no such path; to read it from the hub, install sartor[hub]") from None
    try:
        if not datasets.config.HF_HUB_OFFLINE:
            HfApi().dataset_info(short, timeout=_PATIENCE)  # the other call would try for half a minute
        found = datasets.load_dataset(short)
    except Exception as error:  # whatever a network, a server or a data set may do
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(
            f"{name}: no such path, and the hub does not give it ({why}); HF_HUB_OFFLINE=1 takes what was loaded before"
        ) from None
    files = [(Path(part["filename"]), split) for split, table in found.items() for part in table.cache_files]
    if not files:
        raise DataError(f"{name}: the hub's data set has no rows")
    from sartor.data.arrow import read_files

    paths = [path for path, _ in files]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return read_files(paths, [split_of(split) for _, split in files], root, short)
