"""What measurements are taken on: one line that names the machine."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def machine() -> str:
    """Processor, cores this process may use, and PyTorch: ``AMD EPYC 9R14, 2 cores, torch 2.13.0``."""
    try:
        torch = f", torch {version('torch').partition('+')[0]}"
    except PackageNotFoundError:
        torch = ""
    count = cores()
    return f"{_processor()}, {count} core{'s' if count > 1 else ''}{torch}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown processor"
