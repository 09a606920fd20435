from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import class_folders, colours, encoded
from PIL import Image

from sartor.core.errors import DataError
from sartor.data import decoding, store, survey
from sartor.data.decoding import Pass, decode_all
from sartor.data.preprocess import Preprocess
from sartor.data.recognise import open_images
from sartor.data.store import PixelStore, PixelStream
from sartor.data.survey import open_pixels


def cached(tmp_path: Path, name: str) -> list[Path]:
    return sorted((tmp_path / "cache" / "pixels").glob(f"*/{name}"))


def grey_folders(root: Path, counts: dict[str, int]) -> Path:
    """Grey pictures, half of them saved with three channels."""
    class_folders(root, counts)
    for i, file in enumerate(sorted(root.rglob("*.png"))):
        Image.open(file).convert("L").convert("L" if i % 2 else "RGB").save(file)
    return root


def photographs(root: Path, sizes: list[tuple[int, int]]) -> Path:
    for i, (width, height) in enumerate(sizes):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (root / "ab"[i % 2] / f"{i}.png").write_bytes(encoded(image))
    return root


def test_one_small_square_size_is_kept(tmp_path: Path) -> None:
    source = open_images(class_folders(tmp_path / "set", {"a": 3, "b": 2}, side=12))
    found, pixels = open_pixels(source)
    assert (found.geometry.channels, found.geometry.size, found.geometry.side) == (3, 12, 12)
    for row, file in enumerate(source.files):
        assert (pixels.gather(np.array([row]))[0].transpose(1, 2, 0) == np.asarray(Image.open(file))).all()


def test_an_odd_one_does_not_change_the_size_of_all(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 10, "b": 10}, side=12)
    (root / "a" / "odd.png").write_bytes(encoded(colours(1, 30)[0]))
    assert open_pixels(open_images(root))[0].geometry.side == 12


@pytest.mark.parametrize(
    ("sizes", "size", "side"),
    [
        ([(300, 400), (500, 300), (280, 290)], 224, 256),
        ([(100, 130), (100, 100), (120, 140)], 80, 91),
        ([(20, 30), (22, 20), (40, 50)], 16, 18),
        ([(4, 9), (5, 7), (6, 4)], 8, 9),
    ],
)
def test_sizes_follow_the_median_short_side(tmp_path: Path, sizes: list[tuple[int, int]], size: int, side: int) -> None:
    geometry = open_pixels(open_images(photographs(tmp_path / "set", sizes)))[0].geometry
    assert (geometry.size, geometry.side) == (size, side)


def test_a_size_may_be_given(tmp_path: Path) -> None:
    source = open_images(class_folders(tmp_path / "set", {"a": 3, "b": 2}, side=12))
    assert open_pixels(source, size=6)[0].geometry.side == 6
    assert open_pixels(source)[0].geometry.side == 12


def test_oblong_sets_are_noted(tmp_path: Path) -> None:
    found = open_pixels(open_images(photographs(tmp_path / "set", [(64, 32)] * 4)))[0]
    assert found.notices == ("images are 64 x 32: their centre square is used",)


def test_pictures_may_be_squashed(tmp_path: Path) -> None:
    source = open_images(photographs(tmp_path / "set", [(64, 32)] * 4))
    cropped, squashed = (open_pixels(source, squash=squash) for squash in (False, True))
    assert (squashed[0].geometry.resize, squashed[0].geometry.crop_ratio, squashed[0].notices) == ("squash", 1.0, ())
    assert squashed[0].normalised(np.arange(4)).resize == "squash"
    expected = Image.open(source.files[0]).resize((squashed[0].geometry.side,) * 2, Image.Resampling.BICUBIC)
    assert (squashed[1].gather(np.array([0]))[0].transpose(1, 2, 0) == np.asarray(expected)).all()
    assert cropped[0].geometry.resize == "crop"


def test_grey_sets_have_one_channel(tmp_path: Path) -> None:
    found, pixels = open_pixels(open_images(grey_folders(tmp_path / "set", {"a": 3, "b": 3})))
    assert found.geometry.channels == 1
    assert pixels.gather(np.arange(6)).shape == (6, 1, 8, 8)


def test_one_coloured_picture_outside_the_sample_gives_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = grey_folders(tmp_path / "set", {"a": 10, "b": 10})
    (root / "a" / "3.png").write_bytes(encoded(colours(1)[0]))
    monkeypatch.setattr(survey, "_SAMPLE", 3)
    found, pixels = open_pixels(open_images(root))
    assert found.geometry.channels == 3
    assert (pixels.gather(np.array([3]))[0].transpose(1, 2, 0) == colours(1)[0]).all()


def test_the_cache_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "set", {"a": 3, "b": 2})
    (root / "a" / "bad.png").write_text("bad")
    first, pixels = open_pixels(open_images(root))
    expected = pixels.gather(np.arange(3))
    monkeypatch.setattr(survey, "decode_all", None)  # would fail if called
    again, pixels = open_pixels(open_images(root))
    assert (again.geometry, again.bad, again.notices) == (first.geometry, first.bad, first.notices)
    assert (again.moments == first.moments).all()
    assert (pixels.gather(np.arange(3)) == expected).all()
    moved = Path(shutil.move(root, tmp_path / "moved"))
    assert isinstance(open_pixels(open_images(moved))[1], PixelStore), "a copy elsewhere finds it too"


@pytest.mark.parametrize("harm", ["no survey", "half a survey", "no pixels", "short pixels", "other shape"])
def test_a_cache_that_is_not_whole_is_made_again(tmp_path: Path, harm: str) -> None:
    root = class_folders(tmp_path / "set", {"a": 3, "b": 2})
    expected = open_pixels(open_images(root))[1].gather(np.arange(5))
    (found,), (pixels,) = cached(tmp_path, "survey.json"), cached(tmp_path, "pixels.npy")
    if harm == "no survey":
        found.unlink()
        pixels.write_bytes(b"part of a file")
    elif harm == "half a survey":
        found.write_text(found.read_text()[:40])
    elif harm == "no pixels":
        pixels.unlink()
    elif harm == "short pixels":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    else:
        np.save(pixels, np.zeros((5, 3, 9, 9), np.uint8))
    assert (open_pixels(open_images(root))[1].gather(np.arange(5)) == expected).all()


def test_leftovers_of_killed_processes_are_swept_up(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 3, "b": 2})
    open_pixels(open_images(root))
    folder = cached(tmp_path, "survey.json")[0].parent
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, fresh, ours = (
        folder / f".{name}.{pid}.tmp" for name, pid in (("a", dead.pid), ("b", dead.pid), ("a", os.getpid()))
    )
    for file in (left, fresh, ours):
        file.write_text("x")
    for file in (left, ours):
        os.utime(file, (time.time() - 100,) * 2)
    open_pixels(open_images(root))
    assert not left.exists()
    assert fresh.exists(), "on another machine somebody may be writing it"
    assert ours.exists()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "set", {"a": 3, "b": 2})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set SARTOR_CACHE"):
        open_pixels(open_images(root))


def test_bad_images_are_listed_with_reasons(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 3, "b": 2})
    (root / "a" / "3.png").write_text("text")
    (root / "b" / "2.png").write_bytes(b"")
    source = open_images(root)
    found = open_pixels(source)[0]
    assert {source.reader.where(row): why for row, why in found.bad.items()} == {
        "a/3.png": "not an image of a known format",
        "b/2.png": "empty file",
    }
    assert (found.moments[list(found.bad)] == 0).all()


def test_nothing_readable_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.png").write_text("text")
    with pytest.raises(DataError, match=r"none of 2 images .* a/x\.png: not an image"):
        open_pixels(open_images(tmp_path / "set"))


def test_moments_give_mean_and_deviation(tmp_path: Path) -> None:
    source = open_images(class_folders(tmp_path / "set", {"a": 7, "b": 5}))
    found, pixels = open_pixels(source)
    rows = np.array([0, 3, 4, 9])
    made, values = found.normalised(rows), pixels.gather(rows) / 255
    assert made.mean == pytest.approx(values.mean((0, 2, 3)), abs=1e-12)
    assert made.std == pytest.approx(values.std((0, 2, 3)), abs=1e-12)


def test_a_set_without_contrast_has_a_deviation(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"a": 2, "b": 2})
    for file in root.rglob("*.png"):
        file.write_bytes(encoded(np.full((8, 8, 3), 7, np.uint8)))
    assert open_pixels(open_images(root))[0].normalised(np.arange(4)).std == pytest.approx((1 / 255,))


def folder_of(count: int, root: Path) -> Any:
    class_folders(root, {"a": count - count // 2, "b": count // 2})
    (root / "b" / "bad.png").write_text("bad")
    return open_images(root)


def run_pass(source: Any, folder: Path, geometry: Preprocess, seconds: float) -> tuple[Any, Any, Any, list[Any]]:
    folder.mkdir()
    count, told = len(source.labels), []
    work = Pass(geometry, folder / "pixels.npy", folder / "moments.npy")
    shape = (count, geometry.channels, geometry.side, geometry.side)
    np.lib.format.open_memmap(work.pixels, "w+", np.uint8, shape)
    np.lib.format.open_memmap(work.moments, "w+", np.int64, (count, 2, geometry.channels))
    bad = decode_all(source.reader, work, seconds, lambda done, total: told.append((done, total)))
    return bad, np.load(work.pixels), np.load(work.moments), told


def test_workers_do_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "cores", lambda: 2)
    source = folder_of(60, tmp_path / "set")
    alone = run_pass(source, tmp_path / "alone", Preprocess(3, 8), 0.0)
    shared = run_pass(source, tmp_path / "shared", Preprocess(3, 8), 1e3)
    assert alone[0] == shared[0]
    assert len(shared[0]) == 1
    for a, b in zip(alone[1:3], shared[1:3], strict=True):
        assert (a == b).all()
    assert len(shared[3]) == 4, "spans of 16 images or more"
    assert alone[3][-1] == shared[3][-1] == (61, 61)
    with pytest.raises(decoding.Coloured):
        run_pass(source, tmp_path / "grey", Preprocess(1, 8), 1e3)


def test_a_worker_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", shutil.which("false") or "")
    with pytest.raises(DataError, match=r"a decoding process died between [ab]/\d+\.png and [ab]/"):
        run_pass(folder_of(60, tmp_path / "set"), tmp_path / "out", Preprocess(3, 8), 1e3)


def test_spans_begin_where_reading_can() -> None:
    starts = np.array([0, 10, 20, 21, 50])
    assert decoding._spans(starts, 60, 8) == [range(10), range(10, 20), range(20, 50), range(50, 60)]
    assert decoding._spans(np.array([0]), 60, 8) == [range(60)]
    assert decoding._spans(np.arange(60), 60, 25) == [range(25), range(25, 50), range(50, 60)]


def test_a_script_without_a_main_guard_may_open_data(tmp_path: Path) -> None:
    """Workers must not run the user's script again."""
    class_folders(tmp_path / "set", {"a": 30, "b": 30})
    script = tmp_path / "script.py"
    script.write_text(
        "from sartor.data import decoding, recognise, survey\n"
        "decoding._WORTH, decoding.cores = 0.0, lambda: 2\n"
        f"found, pixels = survey.open_pixels(recognise.open_images({str(tmp_path / 'set')!r}))\n"
        "print('opened', len(found.moments))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("opened 60\n", "")


def test_two_builders_at_once_do_no_harm(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", {"a": 30, "b": 30})
    program = (
        "import numpy as np; from sartor.data import recognise, survey; "
        f"print(survey.open_pixels(recognise.open_images({str(tmp_path / 'set')!r}))[1].gather(np.arange(60)).sum())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) for _ in range(3)
    ]
    sums = {process.communicate()[0] for process in running}
    assert len(sums) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert not cached(tmp_path, ".*")


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    root = photographs(tmp_path / "set", [(40, 50)] * 20)
    (root / "a" / "bad.png").write_text("bad")
    expected = open_pixels(open_images(root))
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(survey, "_DISK_SHARE", 0.0)
    return root, expected, open_pixels(open_images(root))


def test_without_room_images_are_decoded_on_demand(stream: Any, tmp_path: Path) -> None:
    root, (expected, stored), (found, pixels) = stream
    assert isinstance(pixels, PixelStream)
    assert (found.geometry, found.bad) == (expected.geometry, expected.bad)
    assert (found.moments == expected.moments).all()
    rows = np.array([7, 3, 3, 19, 0])
    for pixels_ in (pixels, pickle.loads(pickle.dumps(pixels)), open_pixels(open_images(root))[1]):
        assert (pixels_.gather(rows) == stored.gather(rows)).all()
    assert not cached(tmp_path, "pixels.npy")
    assert not json.loads(cached(tmp_path, "survey.json")[0].read_text())["stored"]


def test_prefetching_is_bounded_and_changes_nothing(stream: Any) -> None:
    _, (_, stored), (_, pixels) = stream
    batches = [np.random.default_rng(i).integers(0, 20, 5) for i in range(8)]
    batches = [np.where(rows == 10, 0, rows) for rows in batches]  # 10 is the bad one
    for rows in batches:
        pixels.prefetch(rows)
    assert len(pixels._ahead) == store._AHEAD
    for rows in batches:
        assert (pixels.gather(rows) == stored.gather(rows)).all()
    assert not pixels._ahead


def test_an_image_that_goes_away_is_named(stream: Any) -> None:
    root, _, (_, pixels) = stream
    (root / "a" / "0.png").unlink()
    with pytest.raises(DataError, match=r"a/0\.png: could be read before, now: no such file"):
        pixels.gather(np.array([0]))


def test_a_stream_becomes_a_store_when_there_is_room(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_DISK_SHARE", 0.5)
    assert isinstance(open_pixels(open_images(stream[0]))[1], PixelStore)


def test_a_disk_that_fills_up_is_an_error_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match="No space left"):
        open_pixels(open_images(class_folders(tmp_path / "set", {"a": 3, "b": 2})))
    assert not cached(tmp_path, ".*"), "nothing half-written stays"


def test_a_store_goes_to_other_processes_by_its_path(tmp_path: Path) -> None:
    pixels = open_pixels(open_images(class_folders(tmp_path / "set", {"a": 30, "b": 20})))[1]
    content = pickle.dumps(pixels)
    assert len(content) < 1000
    assert (pickle.loads(content).gather(np.arange(5)) == pixels.gather(np.arange(5))).all()
