from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import class_folders, colours, encoded, png_claiming, write_idx
from PIL import Image

from sartor.core.errors import DataError
from sartor.data.dataset import ImageDataset, open_dataset


def listed(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A table of images that are all there."""
    for i, row in enumerate(rows):
        row["path"] = f"{i}.png"
        (folder / row["path"]).write_bytes(encoded(colours(1, seed=i)[0]))
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / "list.csv"


def check_whole(data: ImageDataset, rows: int) -> None:
    joined = np.concatenate(list(data.splits.values()))
    assert len(joined) == len(set(joined.tolist())) == rows
    for name in ("train", "valid", "test"):
        assert len(data.splits[name])
        assert data.labels[data.splits[name]].min() >= 0
        assert data.labels[data.splits[name]].max() < len(data.classes)


def test_splits_are_cut_and_depend_on_the_seed(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 30, "b": 20})
    data = open_dataset(root)
    check_whole(data, 50)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 36, "valid": 4, "test": 10}
    assert data.skipped == data.notices == ()
    again, other = open_dataset(root), open_dataset(root, seed=1)
    assert again.fingerprint == data.fingerprint != other.fingerprint
    assert all((again.splits[name] == data.splits[name]).all() for name in data.splits)
    assert not np.array_equal(other.splits["test"], data.splits["test"])


def test_mean_and_deviation_are_of_the_training_split(tmp_path: Path) -> None:
    data = open_dataset(class_folders(tmp_path / "set", {"a": 30, "b": 20}))
    values = data.pixels.gather(data.splits["train"]) / 255
    assert data.preprocess.mean == pytest.approx(values.mean((0, 2, 3)), abs=1e-12)
    assert data.preprocess.std == pytest.approx(values.std((0, 2, 3)), abs=1e-12)


def hard_folder(root: Path) -> Path:
    """Two classes of good pictures with every kind of bad or odd one among them."""
    good = class_folders(root, {"<script>": 12, "naïve 雪\n": 12, "empty": 0}) / "<script>"
    whole = encoded(colours(1, 64)[0], "JPEG")
    (good / "truncated.jpg").write_bytes(whole[:2000])
    (good / "text.png").write_text("text")
    (good / "zero.png").write_bytes(b"")
    (good / "bomb.png").write_bytes(png_claiming(50_000, 50_000))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 16), "red").save(good / "turned.jpg", exif=exif)
    Image.new("CMYK", (8, 8)).save(good / "cmyk.jpg")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(good / "sixteen.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(good / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(colours(1)[0]).save(good / "a jpeg called.png", "JPEG")
    return root


def test_bad_images_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    data = open_dataset(hard_folder(tmp_path / "set"))
    check_whole(data, 29)
    why = {entry["where"].split("/")[-1]: entry["why"] for entry in data.skipped}
    assert why.pop("truncated.jpg").startswith("image file is truncated")
    assert why.pop("bomb.png").startswith("more than")
    assert why == {"text.png": "not an image of a known format", "zero.png": "empty file"}
    assert data.classes == ("<script>", "naïve 雪\n")
    assert any("empty is empty" in notice for notice in data.notices)


def test_strict_stops_at_the_first(tmp_path: Path) -> None:
    root = hard_folder(tmp_path / "set")
    for _ in range(2):  # decoded now, then found in the cache
        with pytest.raises(DataError, match=r"bomb\.png' \(more than") as caught:
            open_dataset(root, strict=True)
        assert "\n" not in str(caught.value)


def test_a_class_that_loses_all_its_images_is_left_out(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 10, "b": 10, "c": 2})
    for file in (root / "c").iterdir():
        file.write_text("text")
    data = open_dataset(root)
    assert data.classes == ("a", "b")
    assert len(data.skipped) == 2
    assert data.notices == ("classes without usable training images are left out: 'c'",)


def test_more_than_half_bad_is_an_error(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 10, "b": 10})
    for i in range(20):
        (root / "a" / f"x{i}.png").write_text("text")
    assert len(open_dataset(root).skipped) == 20
    (root / "b" / "x.png").write_text("text")
    with pytest.raises(DataError, match=r"21 of 41 images of the train split cannot be used; the first is 'a/x0\.png'"):
        open_dataset(root)


def two_splits(root: Path, train: dict[str, int], test: dict[str, int]) -> Path:
    class_folders(root / "train", train)
    class_folders(root / "test", test, seed=50)
    return root


def test_classes_that_cannot_be_learnt_leave_the_other_splits(tmp_path: Path) -> None:
    data = open_dataset(two_splits(tmp_path / "set", {"b": 10, "c": 10}, {"a": 2, "b": 2, "c": 2}))
    assert data.classes == ("b", "c")
    assert data.labels[data.splits["test"]].tolist() == [0, 0, 1, 1]
    assert data.notices == ("classes without usable training images are left out: 'a'",)


def test_given_splits_are_kept_and_valid_is_cut(tmp_path: Path) -> None:
    data = open_dataset(two_splits(tmp_path / "set", {"a": 20, "b": 20}, {"a": 3, "b": 3}))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 36, "valid": 4, "test": 6}


def test_a_test_split_alone_is_cut_in_three_and_noted(tmp_path: Path) -> None:
    write_idx(tmp_path / "t10k-images-idx3-ubyte", colours(40)[..., 0])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.tile(np.arange(2, dtype=np.uint8), 20))
    data = open_dataset(tmp_path)
    check_whole(data, 40)
    assert data.notices == ("there is only a test split: train, valid and test are all cut from it",)


def test_groups_are_kept_together(tmp_path: Path) -> None:
    rows = [{"path": "", "label": "ab"[i % 2], "group": f"patient {i // 4}"} for i in range(80)]
    data = open_dataset(listed(tmp_path, rows))
    check_whole(data, 80)
    assert data.source.groups is not None
    members = [set(data.source.groups[rows].tolist()) for rows in data.splits.values()]
    assert sum(map(len, members)) == len(set.union(*members)) == 20


def test_groups_that_straddle_given_splits_are_noted(tmp_path: Path) -> None:
    rows = [
        {"path": "", "label": "ab"[i % 2], "split": "train" if i < 30 else "test", "group": i // 4} for i in range(40)
    ]
    assert open_dataset(listed(tmp_path, rows)).notices == (
        "groups with images in more than one of the given splits: 1",
    )


def test_images_without_a_label_are_skipped(tmp_path: Path) -> None:
    rows = [{"path": "", "label": "ab"[i % 2] if i else ""} for i in range(21)]
    data = open_dataset(listed(tmp_path, rows))
    check_whole(data, 20)
    assert data.skipped == ({"where": "0.png", "why": "no label"},)


def test_a_test_split_without_labels_is_not_used(tmp_path: Path) -> None:
    rows = [
        {"path": "", "label": "ab"[i % 2] if i < 40 else "", "split": "train" if i < 40 else "test"} for i in range(50)
    ]
    data = open_dataset(listed(tmp_path, rows))
    check_whole(data, 40)
    assert data.skipped == ()
    assert data.notices == ("the test split has no labels and is not used",)


def test_small_classes_stay_in_train_and_are_counted(tmp_path: Path) -> None:
    data = open_dataset(class_folders(tmp_path / "set", {"a": 10, "b": 10, "c": 1}))
    assert data.classes == ("a", "b", "c")
    assert set(data.labels[data.splits["valid"]].tolist()) == {0, 1}
    assert data.notices == tuple(
        f"classes with too few images to give one to the {name} split: 1" for name in ("test", "valid")
    )


def one_image(root: Path) -> Path:
    return class_folders(root, {"a": 1})


def one_class(root: Path) -> Path:
    return class_folders(root, {"a": 9})


def one_per_class(root: Path) -> Path:
    return class_folders(root, dict.fromkeys("abcdef", 1))


def empty_split(root: Path) -> Path:
    (root / "valid").mkdir(parents=True)
    return class_folders(root / "train", {"a": 9, "b": 9}).parent


def strange_test(root: Path) -> Path:
    return two_splits(root, {"a": 5, "b": 5}, {"c": 5})


def no_train(root: Path) -> Path:
    class_folders(root / "valid", {"a": 5, "b": 5})
    return class_folders(root / "test", {"a": 5, "b": 5}).parent


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (one_image, "one usable training image; a classifier needs several"),
        (one_class, "all images are of the class 'a'; add images of another class"),
        (one_per_class, "too few images to cut off a test split .* add images or give"),
        (empty_split, "the valid split has no images; put some there or remove it"),
        (strange_test, "the test split has no image of a class that is trained on"),
        (no_train, "none to train on; add a train split"),
    ],
)
def test_hopeless_data_are_refused_in_one_line(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(make(tmp_path / "set"))
    assert str(caught.value).startswith("set: ")
    assert "\n" not in str(caught.value)
