from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from image_files import colours, encoded

from sartor.core.errors import DataError
from sartor.data.recognise import open_images


def installed(monkeypatch: pytest.MonkeyPatch, load: Any, *, offline: bool = False) -> list[str]:
    """A stand-in for the library: what it gives is Arrow streams in a cache. Returns what the hub is asked about."""
    module, asked = ModuleType("datasets"), []
    module.load_dataset = load  # type: ignore[attr-defined]
    module.config = SimpleNamespace(HF_HUB_OFFLINE=offline)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)

    def dataset_info(_: Any, name: str, *, timeout: float) -> None:
        asked.append(name)
        if "nobody" in name:
            raise ConnectionError(f"cannot reach\nthe hub for {name}")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    return asked


def stream(path: Path, count: int) -> Path:
    table = pa.table({"image": [encoded(image) for image in colours(count)], "label": [i % 2 for i in range(count)]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["hub:owner/pets", "owner/pets"])
def test_the_cached_arrow_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files = {split: stream(tmp_path / f"pets-{split}.arrow", n) for split, n in {"train": 6, "validation": 4}.items()}

    def load(short: str) -> Any:
        assert short == "owner/pets"
        return {split: SimpleNamespace(cache_files=[{"filename": str(file)}]) for split, file in files.items()}

    asked = installed(monkeypatch, load)
    source = open_images(name)
    assert asked == ["owner/pets"]
    assert {split: len(rows) for split, rows in source.splits.items()} == {"train": 6, "valid": 4}


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"^owner/pets: no such path; .* install sartor\[hub\]$"):
        open_images("owner/pets")


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    with pytest.raises(DataError, match=r"cannot reach the hub for nobody/pets.*HF_HUB_OFFLINE") as caught:
        open_images("hub:nobody/pets")
    assert "\n" not in str(caught.value)


def test_offline_the_cache_is_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stream(tmp_path / "pets-train.arrow", 6)
    found = {"train": SimpleNamespace(cache_files=[{"filename": str(file)}])}
    asked = installed(monkeypatch, lambda _: found, offline=True)
    assert len(open_images("hub:nobody/pets").labels) == 6
    assert asked == []
