from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_files import class_folders

from sartor.core.errors import DataError
from sartor.data.recognise import open_images


def test_class_folders(tmp_path: Path) -> None:
    source = open_images(class_folders(tmp_path / "pets", {"dog": 3, "cat": 2}))
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1, 1, 1]
    assert list(source.splits) == ["train"]
    assert [source.reader.where(i) for i in range(5)] == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "dog/1.png",
        "dog/2.png",
    ]
    assert [path.name for path in source.reader.read([1, 4])] == ["1.png", "2.png"]  # type: ignore[union-attr]


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "Val", "dev"])
def test_split_folders(tmp_path: Path, valid: str) -> None:
    for split, counts in {"train": {"a": 3, "b": 3}, valid: {"a": 1}, "test": {"b": 2}}.items():
        class_folders(tmp_path / split, counts)
    source = open_images(tmp_path)
    assert source.classes == ("a", "b")
    assert {name: source.labels[rows].tolist() for name, rows in source.splits.items()} == {
        "train": [0, 0, 0, 1, 1, 1],
        "valid": [0],
        "test": [1, 1],
    }


@pytest.mark.parametrize("inside", ["PetImages", "a/b", "train"])
def test_a_folder_around_the_class_folders_is_looked_through(tmp_path: Path, inside: str) -> None:
    class_folders(tmp_path / "pets" / inside, {"cat": 2, "dog": 2})
    source = open_images(tmp_path / "pets")
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert source.reader.where(0).endswith("cat/0.png")


def test_a_folder_beside_the_splits_is_noted(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 1, "b": 1})
    class_folders(tmp_path / "extra", {"a": 1})
    source = open_images(tmp_path)
    assert len(source.labels) == 2
    assert any("extra" in notice for notice in source.notices)


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    assert open_images(class_folders(tmp_path, {"test": 2, "control": 2})).classes == ("control", "test")


def test_files_may_lie_deeper_and_hidden_ones_are_none(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    class_folders(tmp_path / "a", {"more": 2})
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / name).write_text("x")
    assert open_images(tmp_path).labels.tolist() == [0, 0, 0, 1]


def test_an_empty_class_folder_is_dropped_and_noted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2, "nothing": 0})
    source = open_images(tmp_path)
    assert source.classes == ("a", "b")
    assert any("nothing is empty" in notice for notice in source.notices)


def test_an_empty_split_folder_is_a_split_without_images(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 2})
    (tmp_path / "valid").mkdir()
    assert len(open_images(tmp_path).splits["valid"]) == 0


def test_any_name_works(tmp_path: Path) -> None:
    names = ["<script>alert(1)<\\script>", "naïve 雪 🐈", "two\nlines", " spaces ", "-rf", "'; drop"]
    class_folders(tmp_path, dict.fromkeys(names, 2))
    source = open_images(tmp_path)
    assert source.classes == tuple(sorted(names))
    assert all(Path(path).is_file() for path in source.files)


def test_names_that_are_not_text_can_still_be_written_down(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    try:
        os.rename(os.fsencode(tmp_path / "a"), os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes no such names")
    source = open_images(tmp_path)
    assert [name.encode() for name in source.classes] == [b"b", "caf\ufffd".encode()]
    assert source.reader.where(1).encode()


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 0, "b": 0})
    with pytest.raises(DataError, match="none of a known layout"):
        open_images(tmp_path)
