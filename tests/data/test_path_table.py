from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_files import class_folders

from sartor.core.errors import DataError
from sartor.data.recognise import open_images


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    class_folders(tmp_path / "all", {"x": 4})
    lines = [
        "Id,Filename,Target,Split,Group",
        *(f"{i},all/x/{i}.png,{'ab'[i % 2]},{s},g{i // 2}" for i, s in enumerate(["train", "", "val", "test"])),
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    for path in (tmp_path / "list.csv", tmp_path):
        source = open_images(path)
        assert source.classes == ("a", "b")
        assert source.labels.tolist() == [0, 1, 0, 1]
        assert {name: rows.tolist() for name, rows in source.splits.items()} == {
            "train": [0, 1],
            "valid": [2],
            "test": [3],
        }
        assert source.groups is not None
        assert source.groups.tolist() == [0, 0, 1, 1]
        assert all(path.is_file() for path in source.reader.read(range(4)))  # type: ignore[union-attr]
        assert source.reader.where(1) == "all/x/1.png"


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_delimiters(tmp_path: Path, suffix: str, delimiter: str) -> None:
    file = tmp_path / f"list.{suffix}"
    file.write_text(
        "\n".join(delimiter.join(row) for row in [("path", "label"), ("a.png", "1"), ("b.png", "10"), ("c.png", "2")])
    )
    source = open_images(file)
    assert source.classes == ("1", "2", "10")
    assert source.labels.tolist() == [0, 2, 1]


def test_odd_names_quoted_and_a_byte_order_mark(tmp_path: Path) -> None:
    names = ["a, b.png", "two\nlines.png", "雪.png", 'quo"te.png']
    rows = "".join('"{}",<script>\r\n'.format(name.replace('"', '""')) for name in names)
    (tmp_path / "list.csv").write_bytes(("\ufefffile,class\r\n" + rows + "\r\n").encode())
    source = open_images(tmp_path / "list.csv")
    assert [source.reader.where(i) for i in range(4)] == names
    assert source.classes == ("<script>",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.png\n", "entry 1 has 1 values"),
        ("path,label\n", "no lines"),
        ("path,label,split\na.png,x,tset\n", "unknown split 'tset'"),
        ("path,label\na.png,x\n./a.png,y\n", "'./a.png' is listed as 'x' and as 'y'"),
        ("path,label,split\na.png,x,train\na.png,x,test\n", "as 'train' and as 'test'"),
        ('path,label\n"a.png,x\n' + "y" * 200_000, "not a table that can be read"),
        ("one,two\n1,2\n", "give a folder of class folders"),
    ],
)
def test_tables_without_a_meaning_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "list.csv")


def test_an_image_listed_twice_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\nb.png,x\na.png,y\n./b.png,x\n")
    source = open_images(tmp_path / "list.csv")
    assert [source.reader.where(i) for i in range(2)] == ["b.png", "a.png"]
    assert source.notices == ("lines of list.csv that list an image again: 1",)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    name = b"caf\xe9.png"
    (tmp_path / "list.csv").write_bytes(b"path,label\n" + name + b",\xe9t\xe9\n")
    source = open_images(tmp_path / "list.csv")
    assert os.fsencode(next(iter(source.reader.read([0])))) == os.fsencode(tmp_path) + b"/" + name
    assert source.classes[0].encode()


def test_a_table_in_a_folder_counts_if_its_images_are_there(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "results.csv").write_text("image,label\n17,cat\n")
    assert open_images(tmp_path).classes == ("a", "b")


def test_of_several_tables_one_has_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path,label\nx.png,1\n")
    (tmp_path / "other.csv").write_text("this,that\n")
    with pytest.raises(DataError, match="several tables"):
        open_images(tmp_path)
    assert len(open_images(tmp_path / "b.csv").labels) == 1
