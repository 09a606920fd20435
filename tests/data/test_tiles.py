"""Tiles of a physical size, folds by slide, and images for pretraining."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from sartor.core.errors import DataError
from sartor.data.dataset import open_dataset
from sartor.data.recognise import open_images
from sartor.data.tiles import (
    TABLE,
    Tiling,
    background_share,
    fold_slices,
    fold_splits,
    open_level,
    resolution,
    tile_images,
)
from sartor.data.unlabelled import open_pool


def picture(width, height, seed=0, low=0, high=200):
    return Image.fromarray(np.random.default_rng(seed).integers(low, high, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def slides(tmp_path):
    """Two organs with three images each, of 96 x 64 pixels."""
    for organ in ("lung", "skin"):
        (tmp_path / "slides" / organ).mkdir(parents=True)
        for n in range(3):
            picture(96, 64, n).save(tmp_path / "slides" / organ / f"TCGA-0{n // 2}-{n}.png")
    return tmp_path / "slides"


class TestGeometry:
    def test_the_paper_says_200_micrometres_of_512_pixels(self):
        tiling = Tiling(200.0, 512, 0.39)
        assert tiling.boxes((512, 512), 0.39) == [(0, 0, 512, 512)]  # 199.7 µm: within a hundredth
        assert tiling.boxes((500, 512), 0.39) == []
        assert pytest.approx(0.4997, abs=5e-5) == 287 * 0.39 / 224

    def test_boxes_at_another_resolution_and_stride(self):
        boxes = Tiling(32.0, 32, stride=0.5).boxes((100, 64), 0.5)  # 64 pixels, 32 apart
        assert boxes == [(0, 0, 64, 64), (32, 0, 96, 64)]
        assert len(Tiling(32.0, 32).boxes((192, 128), 0.5)) == 6

    def test_a_tile_is_the_square_resampled(self, tmp_path):
        ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
        Image.fromarray(ramp).save(tmp_path / "ramp.png")
        tile_images(tmp_path / "ramp.png", tmp_path / "out", Tiling(32.0, 16, 1.0))
        tile = np.asarray(Image.open(tmp_path / "out" / "ramp_32_0.png"))
        assert tile.shape == (16, 16, 3)
        assert np.allclose(tile[8, 1:-1, 0], 32.5 + 2 * np.arange(1, 15), atol=1)


class TestResolution:
    @pytest.mark.parametrize(
        ("tags", "expected"),
        [
            ({282: 25641.0, 283: 25641.0, 296: 3}, 0.39),
            ({282: 65128.0, 283: 65128.0, 296: 2}, 0.39),
            ({270: "Aperio |AppMag = 20|MPP = 0.4990|x"}, 0.499),
            ({270: '<Pixels PhysicalSizeX="0.25" PhysicalSizeXUnit="um"/>'}, 0.25),
            ({282: 72.0, 283: 72.0, 296: 2}, None),
            ({}, None),
        ],
    )
    def test_of_tags(self, tmp_path, tags, expected):
        picture(8, 8).save(tmp_path / "a.tif", tiffinfo=tags)
        with Image.open(tmp_path / "a.tif") as file:
            assert resolution(file) == (None if expected is None else pytest.approx(expected, rel=1e-3))

    def test_of_a_pyramid_the_coarsest_level_that_is_fine_enough(self, tmp_path):
        levels = [picture(256 // k, 128 // k) for k in (1, 2, 4, 8)]
        levels[0].save(tmp_path / "p.tif", save_all=True, append_images=levels[1:])
        for target, width, mpp in ((1.0, 256, 1.0), (4.0, 64, 4.0), (5.0, 64, 4.0), (100.0, 32, 8.0)):
            level, read = open_level(tmp_path / "p.tif", Tiling(16 * target, 16, 1.0))
            assert (level.width, read) == (width, mpp)


class TestTiling:
    def test_class_folders_and_groups_are_kept(self, slides, tmp_path):
        (slides / "lung" / "white.png").write_bytes(b"")
        Image.new("RGB", (96, 64), "white").save(slides / "lung" / "white.png")
        done = tile_images(slides, tmp_path / "tiles", Tiling(32.0, 16, 1.0))
        assert (done.images, done.tiles, done.background) == (7, 36, 6)
        source = open_images(tmp_path / "tiles")
        assert source.classes == ("lung", "skin")
        assert len(np.unique(source.groups)) == 6
        assert np.bincount(source.groups).tolist() == [6] * 6
        assert (tmp_path / "tiles" / "skin" / "TCGA-01-2_64_32.png").is_file()

    def test_patients_are_found_in_names(self, slides, tmp_path):
        tile_images(slides, tmp_path / "tiles", Tiling(32.0, 16, 1.0), group="TCGA-..")
        rows = list(csv.DictReader((tmp_path / "tiles" / TABLE).read_text().splitlines()))
        assert {row["group"] for row in rows} == {"TCGA-00", "TCGA-01"}
        with pytest.raises(DataError, match="nothing in the name"):
            tile_images(slides, tmp_path / "other", Tiling(32.0, 16, 1.0), group="GTEX-..")
        assert not (tmp_path / "other").exists()

    def test_no_split_cuts_a_slide(self, slides, tmp_path):
        tile_images(slides, tmp_path / "tiles", Tiling(32.0, 16, 1.0))
        data = open_dataset(tmp_path / "tiles")
        seen = [set(data.source.groups[rows]) for rows in data.splits.values()]
        assert sum(map(len, seen)) == len(set.union(*seen)) == 6

    def test_a_share_of_white(self):
        pixels = np.full((4, 4, 3), 255, np.uint8)
        pixels[0] = (255, 219, 255)
        assert background_share(Image.fromarray(pixels)) == 0.75

    @pytest.mark.parametrize(
        ("tiling", "said"),
        [
            (Tiling(200.0, 64, 0.5), "96 x 64 pixels at 0.5 µm are too small; a tile of 200 µm is 400 pixels there"),
            (Tiling(32.0, 16), "give --mpp"),
        ],
    )
    def test_what_cannot_be_tiled_is_said_in_a_line(self, slides, tmp_path, tiling, said):
        with pytest.raises(DataError, match=said) as error:
            tile_images(slides, tmp_path / "tiles", tiling)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "tiles").exists()

    def test_small_images_among_others_are_left_out(self, slides, tmp_path):
        picture(20, 20).save(slides / "skin" / "small.png")
        done = tile_images(slides, tmp_path / "tiles", Tiling(32.0, 16, 1.0))
        assert done.images == 6
        assert "small.png: 20 x 20" in done.skipped[0]


class TestFolds:
    def test_450_slides_of_an_organ(self):
        slices = [fold_slices(450, fold) for fold in range(3)]
        assert slices[0] == (slice(0, 9), slice(9, 14))
        assert slices[1] == (slice(14, 23), slice(23, 28))
        assert slices[2] == (slice(28, 37), slice(37, 42))
        with pytest.raises(DataError, match="too few"):
            fold_slices(2, 0)

    def test_folds_share_nothing_and_cut_no_slide(self):
        groups = [f"s{n:03}" for n in range(450) for _ in range(3)]
        found = []
        for fold in range(3):
            splits = fold_splits(["liver"] * len(groups), groups, fold)
            by_group = {g: {s for s, h in zip(splits, groups, strict=True) if h == g} for g in sorted(set(groups))[:5]}
            assert all(len(of) == 1 for of in by_group.values())
            found.append({g for g, s in zip(groups, splits, strict=True) if s != "train"})
        assert [len(f) for f in found] == [14] * 3
        assert len(set.union(*found)) == 42

    def test_a_patient_of_two_organs_stays_in_one_split(self):
        labels = ["a"] * 10 + ["b"] * 10
        groups = [f"p{n}" for n in range(10)] * 2
        splits = fold_splits(labels, groups, 0)
        assert splits[:10] == splits[10:]


class TestPool:
    def test_a_plain_folder_of_images(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
        (tmp_path / "flat").mkdir()
        for n in range(4):
            picture(16, 16, n).save(tmp_path / "flat" / f"{n}.png")
        (tmp_path / "flat" / "notes.txt").write_text("not an image")
        pool = open_pool(tmp_path / "flat")
        assert (len(pool.rows), pool.classes, pool.held, pool.skipped) == (4, (), 0, 0)
        assert pool.labels.tolist() == [-1] * 4

    def test_leaves_out_what_fine_tuning_is_judged_on(self, slides, tmp_path, monkeypatch):
        monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
        tile_images(slides, tmp_path / "tiles", Tiling(32.0, 16, 1.0))
        data, pool = open_dataset(tmp_path / "tiles", seed=3), open_pool(tmp_path / "tiles", seed=3)
        assert pool.rows.tolist() == data.splits["train"].tolist()
        assert pool.labels.tolist() == data.labels[data.splits["train"]].tolist()
        assert pool.held == len(data.splits["valid"]) + len(data.splits["test"])

    def test_an_empty_folder_is_no_pool(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="empty"):
            open_pool(tmp_path / "empty")
