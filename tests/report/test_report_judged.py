from __future__ import annotations

import base64
import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sartor.report.judged import (
    Confusion,
    calibration_error,
    draw_calibration,
    draw_classes,
    draw_confusion,
    worst_examples,
)  # fmt: skip

SVG = "{http://www.w3.org/2000/svg}"
counts = st.integers(1, 8).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 50), min_size=k, max_size=k), min_size=k, max_size=k)
)


def confusion_of(rows: list[list[int]]) -> Confusion:
    found = Confusion.of({"confusion": rows, "classes": [f"c{i}" for i in range(len(rows))]})
    assert found is not None
    return found


@given(counts)
def test_every_count_of_the_matrix_is_drawn_once(rows: list[list[int]]) -> None:
    root = ElementTree.fromstring(draw_confusion(confusion_of(rows)))
    written = [int(text.text or "") for text in root.iter(f"{SVG}text") if "count" in text.get("class", "")]
    assert written == [n for row in rows for n in row if n]
    inner = root.find(f"{SVG}svg/{SVG}svg")
    assert inner is not None
    assert sum(path.attrib["d"].count("M") for path in inner) == np.count_nonzero(rows)


@given(counts)
def test_pairs_and_accuracies_agree_with_the_matrix(rows: list[list[int]]) -> None:
    confusion, table = confusion_of(rows), np.array(rows)
    off = table - np.diag(table.diagonal())
    times = [count for _, _, count, _ in confusion.pairs()]
    assert times == sorted(off[off > 0].tolist(), reverse=True)[:12]
    accuracies = confusion.accuracies()
    assert sum(n for *_, n in accuracies) == table.sum()
    assert round(sum(share * n for _, share, n in accuracies)) == table.trace()
    assert [share for _, share, _ in accuracies] == sorted(share for _, share, _ in accuracies)
    if accuracies:
        ElementTree.fromstring(draw_classes(confusion))


@pytest.mark.parametrize(
    "judged",
    [
        {},
        {"confusion": [[1]], "classes": []},
        {"confusion": [[1, 2]], "classes": ["a"]},
        {"confusion": [3], "classes": [1]},
    ],
)
def test_what_is_no_matrix_is_none(judged: dict[str, object]) -> None:
    assert Confusion.of(judged) is None


def test_calibration_by_hand() -> None:
    bins = [{"n": 3, "confidence": 0.9, "accuracy": 0.6}, {"n": 1, "confidence": 0.5, "accuracy": 1.0}]
    assert calibration_error(bins) == pytest.approx((3 * 0.3 + 0.5) / 4)
    assert calibration_error({"bins": bins}) == calibration_error(bins)
    dots = list(ElementTree.fromstring(draw_calibration(bins)).iter(f"{SVG}circle"))
    assert len(dots) == 2
    assert float(dots[0].attrib["r"]) > float(dots[1].attrib["r"])
    assert calibration_error([]) is None
    assert draw_calibration(None) == ""


def embedded(folder: Path, name: str) -> bytes | None:
    judged = {"classes": ["a", "b"], "worst": [{"where": "x", "label": 0, "predicted": 1, "image": name}]}
    (example,) = worst_examples(judged, folder)
    if not example["picture"]:
        return None
    return base64.b64decode(example["picture"].split(",", 1)[1])


def test_a_tiny_picture_is_kept_exactly(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = embedded(tmp_path, "a.png")
    assert content is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_a_large_picture_is_made_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = embedded(tmp_path, "a.png")
    assert content is not None
    assert len(content) < 20_000
    assert Image.open(io.BytesIO(content)).size == (85, 128)


def test_pictures_outside_the_run_or_broken_or_huge_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "broken.png").write_bytes(b"\x89PNG no")
    (run / "text.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Image.new("1", (9000, 9000)).save(run / "huge.png")
    for name in (
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "broken.png",
        "text.svg",
        "huge.png",
        "no",
        "",
    ):
        assert embedded(run, name) is None, name


def test_labels_without_a_name_are_numbered(tmp_path: Path) -> None:
    (example,) = worst_examples({"worst": [{"label": 7, "predicted": None}]}, tmp_path)
    assert example["true"] == "class 7"
    assert example["predicted"] == "class None"
