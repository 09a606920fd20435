from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import class_folders

from sartor.core.errors import DataError
from sartor.data.recognise import BUNDLED, open_images


def test_digits_are_bundled() -> None:
    source = open_images("digits")
    assert len(source.labels) == 1797
    assert source.classes == tuple("0123456789")
    counts = np.bincount(source.labels[source.splits["test"]])
    assert counts.sum() == 359
    assert counts.min() >= 35
    levels = np.unique(np.stack(list(source.reader.read(range(1797)))))  # type: ignore[arg-type]
    assert levels.tolist() == np.rint(np.arange(17) * 255 / 16).tolist()


def test_digits_are_scikit_learns() -> None:
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    source = open_images("digits")
    images = np.stack(list(source.reader.read(range(1797)))).reshape(1797, 64)  # type: ignore[arg-type]
    theirs = np.rint(bundled.images.reshape(1797, 64) * 255 / 16).astype(np.uint8)
    ours = sorted(map(bytes, np.column_stack([images, source.labels.astype(np.uint8)])))
    assert ours == sorted(map(bytes, np.column_stack([theirs, bundled.target.astype(np.uint8)])))


def test_a_path_called_digits_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "digits", {"a": 1, "b": 1})
    monkeypatch.chdir(tmp_path)
    assert len(open_images("digits").labels) == 2


def folder(path: Path) -> Path:
    return path


def text_file(path: Path) -> Path:
    (path / "x.md").write_text("# hello")
    return path / "x.md"


def flat(path: Path) -> Path:
    for i in range(3):
        (path / f"{i}.jpg").write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (folder, "an empty folder"),
        (text_file, "begins with b'# hello'"),
        (flat, r"3 files \(3 .jpg\) and 0 folders"),
        (lambda path: path / "missing", "no such file or folder"),
    ],
)
def test_what_is_not_recognised_is_said_in_one_line(tmp_path: Path, make: Callable[[Path], Path], found: str) -> None:
    with pytest.raises(DataError, match=found) as caught:
        open_images(make(tmp_path))
    assert "digits" in str(caught.value), "says what is taken"
    assert "\n" not in str(caught.value)


def test_a_name_with_a_line_break_still_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(DataError) as caught:
        open_images(tmp_path / "a\nb")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    first = class_folders(tmp_path / "first", {"a": 3, "b": 3})
    before = open_images(first).fingerprint()
    assert open_images(shutil.copytree(first, tmp_path / "elsewhere" / "second")).fingerprint() == before
    (first / "a" / "1.png").touch()
    assert open_images(first).fingerprint() == before
    changed = shutil.copytree(first, tmp_path / "changed")
    content = bytearray((changed / "a" / "1.png").read_bytes())
    content[-20] ^= 1
    (changed / "a" / "1.png").write_bytes(content)
    assert open_images(changed).fingerprint() != before


def test_a_moved_label_changes_the_fingerprint(tmp_path: Path) -> None:
    lines = ["path,label", "a.png,x", "b.png,y", "c.png,x"]
    prints = set()
    for change in (None, ("b.png,y", "b.png,x"), ("c.png,x", "c.png,y"), ("path,label", "path,target")):
        text = "\n".join(lines)
        (tmp_path / "list.csv").write_text(text.replace(*change) if change else text)
        prints.add(open_images(tmp_path / "list.csv").fingerprint())
    assert len(prints) == 4


def test_a_file_in_another_class_folder_changes_the_fingerprint(tmp_path: Path) -> None:
    """Even if the files keep their order."""
    class_folders(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "3.png")
    before = open_images(tmp_path).fingerprint()
    (tmp_path / "a" / "1.png").rename(tmp_path / "b" / "1.png")
    assert open_images(tmp_path).fingerprint() != before


def test_a_byte_in_another_file_changes_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for first, second in (("ab", "c"), ("a", "bc")):
        for name, content in (("x", first), ("y", second)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "0.png").write_text(content)
        prints.add(open_images(tmp_path).fingerprint())
    assert len(prints) == 2


def test_a_class_renamed_changes_the_fingerprint(tmp_path: Path) -> None:
    before = open_images(class_folders(tmp_path, {"a": 1, "b": 1})).fingerprint()
    (tmp_path / "b").rename(tmp_path / "c")
    assert open_images(tmp_path).fingerprint() != before


def test_large_sets_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sartor.data import source

    monkeypatch.setattr(source, "_HASHED_WHOLE", 1000)
    root = class_folders(tmp_path, {"a": 20, "b": 20}, side=32)
    before = open_images(root).fingerprint()
    assert open_images(root).fingerprint() == before
    file = root / "a" / "0.png"
    file.write_bytes(file.read_bytes()[:-1])
    assert open_images(root).fingerprint() != before, "a size has changed"
    file.write_bytes(bytes(len(file.read_bytes()) + 1))
    assert open_images(root).fingerprint() != before, "4,096 samples see every file of forty"


def test_the_bundled_folder_says_where_it_is_from() -> None:
    assert "CC BY 4.0" in (BUNDLED / "README.md").read_text()
