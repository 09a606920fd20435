"""The data sets that the project is tried on, as their users have them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sartor.core.errors import DataError
from sartor.data.dataset import open_dataset
from sartor.data.recognise import open_images


def test_cifar10_parquet(shared_images: Path) -> None:
    source = open_images(shared_images / "cifar10")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 50_000, "test": 10_000}
    assert source.classes[0] == "airplane"
    assert np.bincount(source.labels[source.splits["test"]]).tolist() == [1000] * 10
    table = pq.read_table(shared_images / "cifar10" / "train.parquet")
    rows = [0, 2499, 2500, 49_999]
    for row, raw in zip(rows, source.reader.read(source.splits["train"][rows].tolist()), strict=True):
        assert raw == table["image"][row]["bytes"].as_py()
        assert source.labels[source.splits["train"][row]] == table["label"][row].as_py()


def test_one_cifar10_file_gives_the_pixels_that_pillow_gives(shared_images: Path) -> None:
    file = shared_images / "cifar10" / "test.parquet"
    data = open_dataset(file)
    assert (data.preprocess.channels, data.preprocess.size, data.preprocess.side) == (3, 32, 32)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 7200, "valid": 800, "test": 2000}
    assert data.skipped == ()
    rows = np.arange(0, 10_000, 997)
    contents = pq.read_table(file)["image"].combine_chunks().field("bytes").take(rows).to_pylist()
    expected = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]
    assert (data.pixels.gather(rows).transpose(0, 2, 3, 1) == np.stack(expected)).all()
    assert data.preprocess.mean == pytest.approx((0.49, 0.48, 0.45), abs=0.01)


def test_mnist_idx(shared_images: Path) -> None:
    data = open_dataset(shared_images / "mnist-t10k")
    assert (data.preprocess.channels, data.preprocess.size) == (1, 28)
    assert data.classes == tuple("0123456789")
    assert sum(map(len, data.splits.values())) == 10_000
    assert data.preprocess.mean == pytest.approx((0.1325,), abs=0.002)
    assert data.source.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_imagenet_samples(shared_images: Path) -> None:
    with pytest.raises(DataError, match="too few images"):
        open_dataset(shared_images / "imagenet-samples")
    source = open_images(shared_images / "imagenet-samples")
    assert len(source.classes) == len(source.labels) == 55
    assert source.classes[0] == "n01440764"


def test_histology_tiles_through_a_table(shared_images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of a known layout"):
        open_images(shared_images / "histology-tiles")
    files = sorted((shared_images / "histology-tiles").iterdir())
    with (tmp_path / "tiles.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([[path, "far" if path.name.startswith("Tile") else "near"] for path in files])
    data = open_dataset(tmp_path / "tiles.csv")
    assert {Path(entry["where"]).name for entry in data.skipped} == {"README.md", "features.h5"}
    assert sum(map(len, data.splits.values())) == 10
    assert (data.preprocess.channels, data.preprocess.size, data.preprocess.side) == (3, 224, 256)
    for row in (0, len(files) - 3):
        square = data.pixels.gather(np.array([row]))
        assert (data.preprocess.crop(square)[0] == data.preprocess.array(files[row])).all()
