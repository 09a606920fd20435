from __future__ import annotations

from pathlib import Path

import pytest

from sartor.core.files import recall, replacing, replacing_folder, sha256_folder, size_of, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_atomic(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with replacing_folder(path) as temporary:
            (temporary / "file").write_text(content)
            assert not (path / "file").exists() or (path / "file").read_text() != content
        assert (path / "file").read_text() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_hash_sees_names_and_contents(tmp_path: Path) -> None:
    hashes = set()
    for name, content in (("a", "1"), ("a", "2"), ("b", "1")):
        folder = tmp_path / f"{name}{content}"
        write_atomic(folder / name, content)
        hashes.add(sha256_folder(folder))
        assert size_of(folder) == 1
    assert len(hashes) == 3


def test_recall_survives_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    assert recall(path) is None
    write_json(path, {"x": 1})
    assert recall(path) == {"x": 1}
    path.write_text("{")
    assert recall(path) is None
