"""Pictures with masks: the layouts, the values, and one clear line for what cannot be."""

import numpy as np
import pytest
from PIL import Image

from sartor.core.errors import DataError
from sartor.data.mask_dataset import IGNORED, open_masks
from sartor.data.masks import decode_mask, matches, read_pairs
from tests.masks import COUNTS, write_scenes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))


def names(split, data):
    return [data.where(row) for row in data.splits[split].tolist()]


@pytest.mark.parametrize("layout", ["annot", "two", "inside", "beside"])
def test_layouts(tmp_path, layout):
    root = write_scenes(tmp_path / "data", COUNTS, layout)
    assert matches(root)
    data = open_masks(root)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 12, "valid": 4, "test": 4}
    assert data.classes == ("0", "1", "2")
    assert data.preprocess.size == (24, 32)
    assert data.images.shape == (20, 3, 24, 32)
    row = int(data.splits["test"][0])
    assert np.array_equal(data.mask(row), data.codes[data.values[row]])


def test_pictures_of_another_format_and_no_splits(tmp_path):
    data = open_masks(write_scenes(tmp_path / "data", {"train": 30}, "flat", suffix=".jpg"))
    assert [len(data.splits[split]) for split in ("train", "valid", "test")] == [22, 2, 6]
    assert not set(names("train", data)) & set(names("test", data))


def test_a_folder_of_classes_is_not_meant(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    assert not matches(tmp_path)
    with pytest.raises(DataError, match="2 pictures without a NAME_mask"):
        read_pairs(tmp_path)


def test_void_names_and_copies(tmp_path):
    root = write_scenes(tmp_path / "data", COUNTS, void=4)
    assert open_masks(root).classes == ("0", "1", "2", "11")
    first = open_masks(root, ignore=(11, 255))
    assert first.classes == ("0", "1", "2")
    assert (first.mask(0)[:, :4] == IGNORED).all()
    assert any("pixels of no class" in notice for notice in first.notices)
    (root / "classes.txt").write_text("sky\nroad\ncar\nbike\n")
    named = open_masks(root, ignore=(11,))
    assert named.classes == ("sky", "road", "car", "bike")
    assert any("without a pixel: bike" in notice for notice in named.notices)
    assert named.fingerprint != first.fingerprint
    with pytest.raises(DataError, match="has the value 11, which is neither ignored nor one of the 4 classes"):
        open_masks(root)


def test_size_is_the_shorter_side(tmp_path):
    root = write_scenes(tmp_path / "data", COUNTS)
    data = open_masks(root, size=12)
    assert data.preprocess.size == (12, 16)
    assert data.values.shape == (20, 12, 16)
    assert set(np.unique(data.values)) <= {0, 1, 2}
    assert data.mask(0).shape == (24, 32)


def test_large_pictures_are_made_smaller(tmp_path):
    data = open_masks(write_scenes(tmp_path / "data", {"train": 4, "val": 2, "test": 2}, size=(640, 1280)))
    assert data.preprocess.size == (256, 512)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        ("lonely picture", "1 pictures without a mask"),
        ("lonely mask", "1 masks without a picture"),
        ("other size", "the mask is 8 x 8 pixels and its picture 32 x 24; make them equal"),
        ("one class", "the masks have 1 class; two or more are needed"),
    ],
)
def test_what_cannot_be_used(tmp_path, spoil, line):
    root = write_scenes(tmp_path / "data", COUNTS)
    if spoil == "lonely picture":
        (root / "trainannot" / "train_3.png").unlink()
    elif spoil == "lonely mask":
        (root / "train" / "train_3.png").unlink()
    elif spoil == "other size":
        Image.new("L", (8, 8)).save(root / "valannot" / "val_1.png")
    else:
        for file in root.glob("*annot/*.png"):
            Image.new("L", (32, 24)).save(file)
    with pytest.raises(DataError, match=line) as error:
        open_masks(root)
    assert "\n" not in str(error.value)


def test_bad_files_are_skipped_and_listed(tmp_path):
    root = write_scenes(tmp_path / "data", COUNTS)
    (root / "train" / "train_2.png").write_text("no picture")
    Image.new("RGB", (32, 24), (10, 200, 30)).save(root / "trainannot" / "train_5.png")
    data = open_masks(root)
    assert [entry["where"] for entry in data.skipped] == ["train/train_2.png", "train/train_5.png"]
    assert "colours" in data.skipped[1]["why"]
    assert len(data.splits["train"]) == 10
    with pytest.raises(DataError, match="2 of 20 pictures cannot be used"):
        open_masks(root, strict=True)


def test_values_of_masks(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(values)
    palette.putpalette([255 - i for i in range(48)])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.stack([values, 0 * values, 0 * values], 2)).save(tmp_path / "red.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("palette", "red", "deep"):
        assert np.array_equal(decode_mask(tmp_path / f"{name}.png"), values)
