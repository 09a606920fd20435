from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from image_files import write_idx

from sartor.core.errors import DataError
from sartor.data.recognise import open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 7, 7), dtype=np.uint8)
LABELS = (np.arange(10) % 3 + 1).astype(np.uint8)


def pair(folder: Path, name: str, start: int = 0, end: str = "") -> None:
    write_idx(folder / f"{name}-images-idx3-ubyte{end}", IMAGES[start:])
    write_idx(folder / f"{name}-labels-idx1-ubyte{end}", LABELS[start:])


@pytest.mark.parametrize("end", ["", ".gz"])
def test_pairs_and_splits(tmp_path: Path, end: str) -> None:
    pair(tmp_path, "train", 0, end)
    pair(tmp_path, "t10k", 6, end)
    source = open_images(tmp_path)
    assert source.classes == ("1", "2", "3")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"test": 4, "train": 10}
    for name, start in (("train", 0), ("test", 6)):
        rows = source.splits[name]
        assert (source.labels[rows] == LABELS[start:] - 1).all()
        assert (np.stack(list(source.reader.read(rows.tolist()))) == IMAGES[start:]).all()
    assert source.reader.where(int(source.splits["test"][2])) == f"t10k-images-idx3-ubyte{end} #2"
    copy = pickle.loads(pickle.dumps(source.reader))
    assert (next(copy.read([0])) == next(source.reader.read([0]))).all()


def test_an_images_file_alone_takes_the_labels_beside_it(tmp_path: Path) -> None:
    pair(tmp_path, "train")
    pair(tmp_path, "t10k", 6)
    assert len(open_images(tmp_path / "train-images-idx3-ubyte").labels) == 10


def test_colour_images(tmp_path: Path) -> None:
    write_idx(tmp_path / "images", np.stack([IMAGES] * 3, axis=-1))
    write_idx(tmp_path / "labels", LABELS)
    assert next(open_images(tmp_path).reader.read([3])).shape == (7, 7, 3)  # type: ignore[union-attr]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    images, labels = tmp_path / "train-images.gz", tmp_path / "train-labels.gz"
    write_idx(images, IMAGES)
    with pytest.raises(DataError, match="no labels file"):
        open_images(tmp_path)
    write_idx(labels, LABELS[:4])
    with pytest.raises(DataError, match="4 labels for 10 images"):
        open_images(tmp_path)
    write_idx(labels, LABELS)
    with pytest.raises(DataError, match="none with images"):
        open_images(labels)
    pair(tmp_path, "emnist-train")
    with pytest.raises(DataError, match="several train sets"):
        open_images(tmp_path)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("rows", [11, 2**31])
def test_a_header_that_promises_more_than_there_is(tmp_path: Path, end: str, rows: int) -> None:
    write_idx(tmp_path / f"images{end}", IMAGES, shape=(rows, 7, 7))
    write_idx(tmp_path / f"labels{end}", LABELS, shape=(rows,))
    with pytest.raises(DataError, match="shorter than its header says"):
        list(open_images(tmp_path).reader.read([0]))


def test_damaged_gzip(tmp_path: Path) -> None:
    pair(tmp_path, "train", 0, ".gz")
    file = tmp_path / "train-labels-idx1-ubyte.gz"
    content = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + LABELS.tobytes())
    file.write_bytes(content[:20] + bytes(8) + content[28:-8])
    with pytest.raises(DataError):
        open_images(tmp_path)
