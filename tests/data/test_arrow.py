from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from image_files import colours, encoded

from sartor.core.errors import DataError
from sartor.data.decode import decode
from sartor.data.recognise import open_images
from sartor.data.source import BadImage, Source

NAMES = ["cat", "dog", "emu"]
IMAGES = colours(12)
CONTENTS = [encoded(image) for image in IMAGES]


def table(labels: Any = None, *, struct: bool = True, names: list[str] | None = None, **columns: Any) -> pa.Table:
    images = [{"bytes": content, "path": None} for content in CONTENTS] if struct else CONTENTS
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    labels = labels if labels is not None else [i % 3 for i in range(12)]
    made = pa.table({"image": pa.array(images, kind), "label": labels, **columns})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return made


def write(made: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(made, path, row_group_size=5)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(made, path, chunksize=5)
    else:
        opened = pa.ipc.new_stream if path.stem.endswith("stream") else pa.ipc.new_file
        with opened(path, made.schema) as writer:
            writer.write_table(made, max_chunksize=5)
    return path


def check_images(source: Source, rows: list[int], expected: list[int]) -> None:
    for image, raw in zip(expected, source.reader.read(rows), strict=True):
        assert (np.asarray(decode(raw)) == IMAGES[image]).all()


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow", "a_stream.arrow"])
@pytest.mark.parametrize("struct", [True, False])
def test_every_container_and_layout(tmp_path: Path, name: str, struct: bool) -> None:
    source = open_images(write(table(struct=struct, names=NAMES), tmp_path / name))
    assert source.classes == tuple(NAMES)
    assert source.labels.tolist() == [0, 1, 2] * 4
    assert len(source.reader) == 12
    check_images(source, list(range(12)), list(range(12)))
    check_images(source, [0, 4, 5, 11], [0, 4, 5, 11])
    check_images(source, [7], [7])
    assert source.reader.where(7) == f"{name} row 7"


def test_the_content_tells_a_file_from_its_suffix(tmp_path: Path) -> None:
    assert len(open_images(write(table(), tmp_path / "a.parquet").rename(tmp_path / "a.bin")).labels) == 12


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        ([7, 3, 10] * 4, ("3", "7", "10"), [1, 0, 2] * 4),
        (["b", "a", "ü"] * 4, ("a", "b", "ü"), [1, 0, 2] * 4),
        (pa.array(["b", "a"] * 6).dictionary_encode(), ("a", "b"), [1, 0] * 6),
        ([1.0, 0.0, None] * 4, ("0", "1"), [1, 0, -1] * 4),
        ([True, False] * 6, ("False", "True"), [1, 0] * 6),
        (["a", None, ""] * 4, ("a",), [0, -1, -1] * 4),
        ([-1, 1] * 6, ("-1", "1"), [0, 1] * 6),
    ],
)
def test_labels_without_names(tmp_path: Path, labels: Any, classes: tuple[str, ...], codes: list[int]) -> None:
    source = open_images(write(table(labels), tmp_path / "a.parquet"))
    assert source.classes == classes
    assert source.labels.tolist() == codes


def test_minus_one_is_no_label_where_there_are_names(tmp_path: Path) -> None:
    source = open_images(write(table([-1, 0, 2] * 4, names=NAMES), tmp_path / "a.parquet"))
    assert source.labels.tolist() == [-1, 0, 2] * 4


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (table([0, 1, 9] * 4, names=NAMES), "label 9 has no name"),
        (table([[0, 1]] * 12), "list"),
        (table([0.5] * 12), "float"),
        (pa.table({"image": [1, 2], "label": [0, 1]}), "column of image bytes"),
        (pa.table({"image": CONTENTS, "size": [1] * 12, "age": [2] * 12}), "column of labels"),
        (pa.table({"left": CONTENTS, "right": CONTENTS, "label": [1] * 12}), "left, right, label"),
        (table().slice(0, 0), "no rows"),
    ],
)
def test_tables_without_a_meaning_are_refused(tmp_path: Path, made: pa.Table, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_images(write(made, tmp_path / "a.parquet"))
    assert "\n" not in str(caught.value)


def test_unusual_column_names_are_found_when_alone(tmp_path: Path) -> None:
    source = open_images(write(pa.table({"scan": CONTENTS, "diagnosis": [0, 1] * 6}), tmp_path / "a.parquet"))
    assert source.labels.tolist() == [0, 1] * 6


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet", "test.parquet"],
        ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["train/0000.parquet", "test/0000.parquet"],
        ["cifar10-train.arrow", "cifar10-test.arrow"],
    ],
)
def test_splits_by_name(tmp_path: Path, names: list[str]) -> None:
    write(table(names=NAMES), tmp_path / names[0])
    write(table(names=NAMES).slice(3, 6), tmp_path / names[1])
    source = open_images(tmp_path)
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 12, "test": 6}
    check_images(source, source.splits["test"].tolist(), list(range(3, 9)))
    check_images(source, source.splits["train"].tolist(), list(range(12)))


def test_shards_are_joined_and_classes_shared(tmp_path: Path) -> None:
    write(table(["a"] * 12), tmp_path / "train-0.parquet")
    write(table(["b"] * 12), tmp_path / "train-1.parquet")
    source = open_images(tmp_path)
    assert source.classes == ("a", "b")
    assert source.labels.tolist() == [0] * 12 + [1] * 12
    check_images(source, [11, 12, 23], [11, 0, 11])
    assert source.reader.where(12) == "train-1.parquet row 0"


def test_split_and_group_columns(tmp_path: Path) -> None:
    made = table(split=["train", "val", "test"] * 4, group=["p1", "p1", None] * 4)
    source = open_images(write(made, tmp_path / "a.parquet"))
    assert source.splits["valid"].tolist() == [1, 4, 7, 10]
    assert source.groups is not None
    assert len(set(source.groups.tolist())) == 5  # one patient and four rows of their own
    with pytest.raises(DataError, match="unknown split 'tset'"):
        open_images(write(table(split=["tset"] * 12), tmp_path / "b.parquet"))


def test_rows_without_bytes_give_their_file_or_are_bad(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(CONTENTS[0])
    images = [
        {"bytes": None, "path": "x.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": CONTENTS[1], "path": "y"},
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    source = open_images(
        write(pa.table({"image": pa.array(images, kind), "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    )
    raw = list(source.reader.read(range(4)))
    assert raw[0] == tmp_path / "x.png"
    assert isinstance(raw[1], BadImage)
    assert isinstance(raw[2], BadImage)
    assert raw[3] == CONTENTS[1]


def test_a_column_that_only_some_files_have_is_named(tmp_path: Path) -> None:
    write(table(), tmp_path / "train-0.parquet")
    write(table().rename_columns(["image", "tag"]), tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet: lacks the column 'label'"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a_stream.arrow"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = write(table(), tmp_path / name)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"cannot be read|damaged") as caught:
        open_images(path)
    assert "\n" not in str(caught.value)


def test_reading_begins_inside_blocks_too(tmp_path: Path) -> None:
    reader = open_images(write(table(), tmp_path / "a.parquet")).reader
    assert reader.starts().tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]


def test_one_block_is_never_held_whole(tmp_path: Path) -> None:
    """A row group of 80 MB is read through about 25 MB of Arrow's memory."""
    content = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    contents = [i.to_bytes(4, "little") + content for i in range(4000)]
    made = pa.table({"image": contents, "label": [0, 1] * 2000})
    pq.write_table(made, tmp_path / "a.parquet", use_dictionary=False)
    del made, contents
    reader = open_images(tmp_path / "a.parquet").reader
    before, most = pa.total_allocated_bytes(), 0
    for rows in (range(4000), [5, 255, 256, 1000, 3999]):
        for row, raw in zip(rows, reader.read(rows), strict=True):
            assert raw[:4] == row.to_bytes(4, "little")  # type: ignore[index]
            most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 40_000_000
