"""Folders made ready for pretraining: which classes, which images to validate on, and how they are resized."""

import numpy as np
import pytest
from PIL import Image

from sartor.cli.app import main
from sartor.core.errors import DataError
from sartor.data.hierarchy import read_hierarchy
from sartor.data.label_tree import label_tree
from sartor.data.process import process_folder


@pytest.fixture
def raw(tmp_path):
    """Classes of 4, 3 and 2 pictures, large, oblong and small."""
    sizes = {"n1": [(40, 20), (20, 40), (9, 7), (16, 16)], "n2": [(30, 30), (8, 8), (15, 15)], "n3": [(20, 20)] * 2}
    for name, pictures in sizes.items():
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number, (width, height) in enumerate(pictures):
            pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / name / f"{number}.png")
    return tmp_path / "raw"


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_more_than_the_bound_first_by_name_and_squashed(raw, tmp_path):
    target = tmp_path / "done"
    done = process_folder(raw, target, more_than=2, valid=1, side=16)
    assert (done.classes, done.train, done.valid, done.dropped, done.unreadable) == (2, 5, 2, ("n3",), ())
    assert sorted(p.name for p in (target / "valid").rglob("*.*")) == ["0.JPEG", "0.JPEG"]
    assert {p.name: size(p) for p in (target / "train/n1").iterdir()} == {
        "1.JPEG": (16, 16), "2.png": (9, 7), "3.JPEG": (16, 16),
    }  # fmt: skip
    assert (target / "train/n1/2.png").read_bytes() == (raw / "n1/2.png").read_bytes()


def test_short_edges(raw, tmp_path):
    process_folder(raw, tmp_path / "done", more_than=2, valid=1, side=10, keep_aspect=True)
    assert size(tmp_path / "done/valid/n1/0.JPEG") == (20, 10)
    assert size(tmp_path / "done/train/n1/1.JPEG") == (10, 20)


def test_what_cannot_be_read_is_named_and_left_out(raw, tmp_path):
    (raw / "n1" / "9.png").write_bytes(b"no picture")
    done = process_folder(raw, tmp_path / "done", more_than=2, valid=1, side=16)
    assert len(done.unreadable) == 1
    assert "9.png" in done.unreadable[0]
    assert done.train == 5


def test_errors_are_one_line(raw, tmp_path):
    with pytest.raises(DataError, match="1 of 3 class folders have over 3 files; lower the bound"):
        process_folder(raw, tmp_path / "done", more_than=3, valid=1)
    with pytest.raises(DataError, match="is there already"):
        process_folder(raw, raw, more_than=2, valid=1)
    with pytest.raises(DataError, match="cannot be read"):
        process_folder(tmp_path / "nowhere", tmp_path / "done")
    with pytest.raises(DataError, match="at least valid"):
        process_folder(raw, tmp_path / "done", more_than=1, valid=2)


def test_the_command_writes_a_tree_too(raw, tmp_path, capsys):
    pairs = tmp_path / "kinds.tsv"
    pairs.write_text("n1\tn2\nn3\tn2\n")
    options = ["--more-than", "2", "--valid", "1", "--side", "16", "--hierarchy", str(pairs)]
    main(["prepare", str(raw), str(tmp_path / "done"), *options])
    assert "2 classes with 5 training and 2 validation images" in capsys.readouterr().out
    tree = label_tree(read_hierarchy(tmp_path / "done" / "tree.json"), ["n1", "n2"])
    assert tree.parents == (1, -1)


@pytest.mark.parametrize(
    ("lines", "says"),
    [("n1\tn2\nn2\tn1\n", "runs in a circle"), ("n1\tn9\n", "unknown class 'n2'"), ("n1\n", "line 1 is no pair")],
)
def test_wrong_hierarchies_end_in_one_line(raw, tmp_path, capsys, lines, says):
    pairs = tmp_path / "kinds.tsv"
    pairs.write_text(lines)
    with pytest.raises(SystemExit) as ended:
        main(
            ["prepare", str(raw), str(tmp_path / "done"), "--more-than", "2", "--valid", "1", "--hierarchy", str(pairs)]
        )
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
