"""Augmentation: each operation is what it says, and an image's draws depend on nothing but seed, epoch and key."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_training import PREPROCESS, Images

from sartor.core.errors import SpecError, TrainingError
from sartor.core.rng import generator
from sartor.data.preprocess import Preprocess
from sartor.training.augment import colour, geometry
from sartor.training.augment.draws import Draws, normals
from sartor.training.augment.erase import cut_out, erase_boxes, erased
from sartor.training.augment.mix import Mix
from sartor.training.augment.pipeline import Augment, Augmenter
from sartor.training.augment.rand import RandAugment


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def smooth(n, height, width):
    """Images without the highest frequencies, as photographs are."""
    small = np.random.default_rng(n).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    resized = [np.asarray(Image.fromarray(s).resize((width, height), Image.Resampling.BICUBIC)) for s in small]
    return np.stack(resized).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@given(pad=st.integers(0, 9), side=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_shifted_cuts_out_of_the_padded_image(mode, pad, side):
    rng = np.random.default_rng(pad)
    images = rng.integers(0, 256, (5, 3, side, side + 1), dtype=np.uint8)
    u, v = rng.random((2, 5))
    got = geometry.shifted(images, u, v, pad, mode)
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), "constant" if mode == "zero" else "reflect")
    for i in range(5):
        y, x = int(u[i] * (2 * pad + 1)), int(v[i] * (2 * pad + 1))
        assert (got[i] == padded[i, :, y : y + side, x : x + side + 1]).all()


def test_every_shift_is_equally_likely(rng):
    images = np.zeros((9000, 1, 3, 3), np.uint8)
    images[:, :, 1, 1] = 1
    moved = geometry.shifted(images, *rng.random((2, 9000)), 1, "zero")
    assert abs(moved.mean(0)[0] - 1 / 9).max() < 0.015


def test_flipped_leaves_its_input_alone(rng):
    images = rng.integers(0, 256, (4, 1, 2, 3), dtype=np.uint8)
    before, which = images.copy(), np.array([True, False, True, False])
    got = geometry.flipped(images, which)
    assert (got[which] == before[which, :, :, ::-1]).all()
    assert (got[~which] == before[~which]).all()
    assert (images == before).all()


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 24), (17, 40), (60, 50)])
def test_resampled_crops_are_pillows(method, size, rng):
    images = smooth(12, 40, 36)
    u = rng.random((12, geometry.TRIES, 4))
    boxes = geometry.crop_boxes(u, (40, 36), (0.08, 1.0), (3 / 4, 4 / 3))
    got = geometry.resampled(images, boxes, size, method)
    for image, (top, left, height, width), ours in zip(images, boxes, got, strict=True):
        crop = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).crop(
            (left, top, left + width, top + height)
        )
        theirs = np.asarray(crop.resize(size[::-1], getattr(Image.Resampling, method.upper()))).transpose(2, 0, 1)
        assert (ours == theirs).all()


def test_resizing_to_the_same_size_changes_nothing():
    images = smooth(2, 9, 9)
    assert geometry.resized(images, (9, 9)) is images
    whole = np.array([[0, 0, 9, 9]] * 2)
    assert (geometry.resampled(images, whole, (9, 9), "bicubic") == images).all()
    assert geometry.resized(images, (5, 7)).shape == (2, 3, 5, 7)


@given(height=st.integers(4, 60), width=st.integers(4, 60), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_crop_boxes_lie_inside(height, width, seed):
    u = np.random.default_rng(seed).random((64, geometry.TRIES, 4))
    top, left, h, w = geometry.crop_boxes(u, (height, width), (0.08, 1.0), (3 / 4, 4 / 3)).T
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_affine_moves_as_it_says():
    images = smooth(1, 12, 8)
    still = np.zeros(1), np.ones(1), np.zeros((1, 2))
    assert (geometry.affine(images, *still) == images).all()
    right = geometry.affine(images, still[0], still[1], np.array([[1 / 8, 0.0]]))
    assert (right[..., 1:] == images[..., :-1]).all()
    down = geometry.affine(images, still[0], still[1], np.array([[0.0, 2 / 12]]))
    assert (down[..., 2:, :] == images[..., :-2, :]).all()
    square = smooth(1, 9, 9)
    turned = geometry.affine(square, np.array([math.pi / 2]), np.ones(1), np.zeros((1, 2)))
    assert abs(turned.astype(int) - np.rot90(square, -1, (2, 3))).max() <= 1
    double = geometry.affine(square, np.zeros(1), np.full(1, 2.0), np.zeros((1, 2)))
    assert (double[..., 4, 4] == square[..., 4, 4]).all()
    assert (double[..., 4, 6] == square[..., 4, 5]).all()


def test_colours_change_as_they_say(rng):
    images = torch.from_numpy(smooth(64, 5, 5)).float()
    u = rng.random((64, 4))
    torch.testing.assert_close(colour.jittered(images.clone(), u, 0.0), images)
    brighter = np.tile([1.0, 0.5, 0.5, 0.0], (64, 1))
    torch.testing.assert_close(colour.jittered(images.clone(), brighter, 0.4), images * 1.4)
    contrast = np.tile([0.5, 0.0, 0.5, 0.9], (64, 1))
    luma = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    expected = 0.6 * images + 0.4 * luma.mean((2, 3), keepdim=True)
    torch.testing.assert_close(colour.jittered(images.clone(), contrast, 0.4), expected)
    grey = np.tile([0.5, 0.5, 0.0, 0.9], (64, 1))
    torch.testing.assert_close(colour.jittered(images.clone(), grey, 1.0), luma.expand_as(images))

    normal = rng.standard_normal((64, 3))
    shift = (colour.lit(images.clone(), normal, 0.1) - images)[:, :, 0, 0] / 255
    assert shift.std().item() == pytest.approx(0.1 * math.sqrt((0.2175**2 + 0.0188**2 + 0.0045**2) / 3), rel=0.2)


def test_erasing():
    images = torch.ones(200, 2, 10, 12)
    draws = Draws(0, 0, np.arange(200))
    boxes = erase_boxes(draws("erase", 41), (10, 12), 0.5)
    got = erased(images.clone(), boxes, None)
    assert ((got == 0).sum((1, 2, 3)) == torch.from_numpy(2 * boxes[:, 2] * boxes[:, 3])).all()
    noisy = erased(images.clone(), boxes, draws)
    inside = noisy[noisy != 1.0]
    assert inside.mean().abs() < 0.1
    assert inside.std() == pytest.approx(1.0, abs=0.1)
    assert erase_boxes(draws("erase", 41), (10, 12), 0.0).any() == np.False_


def test_normals_are_normal(rng):
    values = normals(*rng.random((2, 50_000)))
    quantiles = np.quantile(values, [0.1586553, 0.5, 0.8413447])
    assert quantiles == pytest.approx([-1.0, 0.0, 1.0], abs=0.03)


@dataclass(frozen=True)
class Step:
    """What a transform reads of a context."""

    seed: int = 0
    epoch: int = 0
    step: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def rng(self):
        return generator(self.seed, "step", self.step)


ALL = Augment(
    crop="resized", scale=(0.3, 1.0), flip=0.5, rotate=10, zoom=0.1, shift=0.1, rand="rand-m7-n3-p0.9-mstd0.5-inc1",
    jitter=0.4, lighting=0.1, erase=0.5,
)  # fmt: skip
KINDS = {
    "all": ALL,
    "pad": Augment(crop="pad", pad=2, border="reflect", flip=0.5),
    "none": Augment(),
    "affine": Augment(rotate=10, zoom=0.2, shift=0.1, interpolation="bilinear"),
}


def transformed(augmenter, keys, step=Step()):
    images = Images(30)
    batch = {**images.batch(keys % 30), "key": torch.from_numpy(keys)}
    return augmenter(batch, step)["image"]


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(0, 89), min_size=1, max_size=8, unique=True))
@settings(max_examples=15, deadline=None)
def test_an_image_is_the_same_in_any_batch(kind, keys):
    augmenter = Augmenter(KINDS[kind], PREPROCESS, 8)
    together = transformed(augmenter, np.array(keys))
    for key, image in zip(keys, together, strict=True):
        torch.testing.assert_close(transformed(augmenter, np.array([key]))[0], image, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["all", "pad", "affine"])
def test_copies_epochs_and_seeds_differ(kind):
    augmenter = Augmenter(KINDS[kind], PREPROCESS, 8)
    keys = np.arange(20)
    first = transformed(augmenter, keys)
    for other in (
        transformed(augmenter, keys + 30),
        transformed(augmenter, keys, Step(epoch=1)),
        transformed(augmenter, keys, Step(seed=1)),
    ):
        assert not torch.equal(first, other)


def test_without_augmentation_images_are_only_normalised():
    keys = np.arange(6)
    images = Images(30).batch(keys)["image"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (PREPROCESS.mean, PREPROCESS.std))
    expected = (images.float() / 255 - mean) / std
    for last in (False, True):
        got = transformed(Augmenter(Augment(), PREPROCESS, 8, last), keys)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [6, 8, 12])
def test_training_at_another_size_and_from_a_larger_square(kind, size):
    larger = Preprocess(3, 7, crop_ratio=7 / 8, mean=PREPROCESS.mean, std=PREPROCESS.std)
    got = transformed(Augmenter(KINDS[kind], larger, size), np.arange(4))
    assert got.shape == (4, 3, size, size)
    assert got.isfinite().all()


def test_grey_images():
    grey = Preprocess(1, 8, mean=(0.5,), std=(0.25,))
    images = Images(6, channels=1)
    batch = {**images.batch(np.arange(6)), "key": torch.arange(6)}
    got = Augmenter(ALL, grey, 8)(batch, Step())["image"]
    assert got.shape == (6, 1, 8, 8)


def test_randaugment_applies_what_is_drawn():
    images = smooth(40, 9, 9)
    ours = RandAugment.parse("rand-m9-mstd0.5-inc1")
    u = Draws(0, 0, np.arange(40))("rand", ours.draws)
    got = ours(images, u, (128, 128, 128))
    steps = u.reshape(40, 2, 6)
    untouched = (steps[..., 1] > 0.5).all(1)
    assert 0 < untouched.sum() < 30
    assert (got[untouched] == images[untouched]).all()
    assert (got[~untouched] != images[~untouched]).any((1, 2, 3)).mean() > 0.7
    once = RandAugment(10, 1, prob=1.0)
    invert = np.array([[2.5 / 15, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert (once(images[:1], invert, (0, 0, 0)) == 255 - images[:1]).all()


@pytest.mark.parametrize("text", ["m9", "rand-x3", "rand-m", "rand-m9-tweights", ""])
def test_randaugment_notation_is_checked(text):
    with pytest.raises(SpecError, match="randaugment") as error:
        RandAugment.parse(text)
    assert "\n" not in str(error.value)


class TestMix:
    def batch(self, n=6):
        return {"image": torch.arange(n * 16.0).reshape(n, 1, 4, 4), "label": torch.arange(n)}

    @pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
    @pytest.mark.parametrize(("mixup", "cutmix"), [(0.3, 0.0), (0.0, 1.0), (0.3, 1.0)])
    def test_pixels_and_shares_agree(self, mode, mixup, cutmix):
        """Every pixel comes from the image or its partner, and the share is the mean weight of the own pixels."""
        for seed in range(8):
            batch = self.batch()
            original = batch["image"].clone()
            mixed = Mix(mixup, cutmix, mode=mode)(batch, np.random.default_rng(seed))
            own = (mixed["image"] - original.flip(0)) / (original - original.flip(0))
            torch.testing.assert_close(own.mean((1, 2, 3)), mixed["share"], rtol=1e-4, atol=1e-4)
            assert torch.equal(mixed["other"], batch["label"].flip(0))
            if mode == "pair":
                torch.testing.assert_close(mixed["share"], mixed["share"].flip(0))
            if mode == "batch":
                assert len(mixed["share"].unique()) == 1

    def test_nothing_is_mixed_with_probability_zero(self):
        for mode in ("batch", "elem", "pair"):
            batch = self.batch()
            mixed = Mix(0.5, 1.0, prob=0.0, mode=mode)(batch, np.random.default_rng(0))
            assert torch.equal(mixed["image"], self.batch()["image"])
            assert (mixed["share"] == 1).all()

    def test_an_odd_batch_is_refused(self):
        with pytest.raises(TrainingError, match="even batch"):
            Mix(0.5)(self.batch(5), np.random.default_rng(0))


@pytest.mark.parametrize(
    "values", [{"scale": (0.5, 0.1)}, {"ratio": (0.0, 1.0)}, {"flip": 1.5}, {"rand": "rand-q1"}, {"erase": -0.1}]
)
def test_tables_are_checked(values):
    with pytest.raises(SpecError):
        replace(Augment(), **values)


def test_cutout_covers_a_square_with_one_colour():
    images = np.full((200, 3, 12, 12), 7, np.uint8)
    u = Draws(0, 0, np.arange(200))("cutout", 5)
    out = cut_out(images, u, 0.5)
    assert (images == 7).all()
    covered = (out != 7).any(1)
    assert covered.any((1, 2)).all()
    for image, where in zip(out, covered, strict=True):
        rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
        assert len(rows) in (3, 4, 5, 6)
        assert len(columns) in (3, 4, 5, 6)
        assert len(np.unique(image[:, where], axis=1).T) == 1
    assert (covered.sum((1, 2)) == 36).any()
    assert (covered.sum((1, 2)) < 36).any()


def test_pixels_may_be_left_as_they_are():
    """Without normalisation and with Cutout alone, networks see pixels / 255 of every image that is not covered."""
    augmenter = Augmenter(Augment(cutout=0.5), Preprocess(3, 8), 8)
    keys = np.arange(8)
    batch = {**Images().batch(keys), "key": torch.from_numpy(keys)}
    context = type("Step", (), {"seed": 0, "epoch": 0, "device": torch.device("cpu")})
    out = augmenter(batch, context)["image"]
    same = (out - batch["image"].float() / 255.0).abs().amax(1) < 1e-6
    assert 0.0 <= out.min() <= out.max() <= 1.0
    assert ((~same).sum((1, 2)) <= 16).all()
    assert (~same).any()
