from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shared_images() -> Path:
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SARTOR_DATA") or default) / "images"
    if not folder.is_dir():
        pytest.skip(f"no shared images at {folder}; set SARTOR_DATA")
    return folder.resolve()
