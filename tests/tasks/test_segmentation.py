"""Segmentation as a task: the laws, and its measures against sets of pixels."""

import numpy as np
import pytest
import torch

from sartor.core.errors import DataError, SartorError
from sartor.tasks import mask_metrics
from sartor.tasks.segmentation import Segmentation
from sartor.testing.tasks import TaskConformance
from tests.masks import COUNTS, write_scenes


class Brightest:
    """Answers class 1 where the picture is red, 2 where it is green."""

    def predict(self, raw):
        answers = []
        for picture in raw:
            mask = np.zeros(picture.shape[:2], np.uint8)
            for label in (1, 2):
                mask[picture[..., label - 1] > 120] = label
            answers.append({"mask": mask})
        return answers

    def save(self, folder):
        raise NotImplementedError


@pytest.fixture(autouse=True, scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    patch = pytest.MonkeyPatch()
    patch.setenv("SARTOR_CACHE", str(root / "cache"))
    TestSegmentation.root = write_scenes(root / "data", COUNTS, void=2)
    yield TestSegmentation.root
    patch.undo()


class TestSegmentation(TaskConformance):
    def task(self):
        return Segmentation.open(self.root, ignore=(11,))

    def servable(self):
        return Brightest()


def test_measures_of_a_good_answer(data):
    task = Segmentation.open(data, ignore=(11,))
    quality = task.evaluate(Brightest(), "test")
    assert quality.values["miou"] > 0.95
    assert set(quality.values) >= {"micro_iou", "dice", "micro_dice", "pixel_accuracy", "iou:0", "iou:2"}
    some = Segmentation.open(data, ignore=(11,), ignored=("0",)).evaluate(Brightest(), "test")
    assert some.values["miou"] == pytest.approx((quality.values["iou:1"] + quality.values["iou:2"]) / 2)


def test_answers_of_another_size_are_refused(data):
    class Small:
        def predict(self, raw):
            return [{"mask": np.zeros((4, 4), np.uint8)} for _ in raw]

    with pytest.raises(SartorError, match="has no mask of"):
        Segmentation.open(data, ignore=(11,)).evaluate(Small(), "test")


def test_unknown_ignored_class(data):
    with pytest.raises(DataError, match="class"):
        Segmentation.open(data, ignored=("tree",))


def test_the_loss_leaves_out_pixels_of_no_class(data):
    task = Segmentation.open(data, ignore=(11,))
    batch = task.split("train").batch(np.arange(3))
    logits = torch.randn(3, 3, 24, 32, requires_grad=True)
    task.loss(logits, batch).backward()
    assert (logits.grad[:, :, :, :2] == 0).all()
    assert (logits.grad[:, :, :, 2:] != 0).any()
    assert task.loss(logits, {"mask": torch.full((3, 24, 32), 255, dtype=torch.uint8)}) == 0


def test_measures_against_sets():
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 4, 500).astype(np.uint8), rng.integers(0, 4, 500)
    true[:50] = 255
    confusion = mask_metrics.pixel_confusion(true, found, 5)
    assert confusion.sum() == 450
    sets = [(set(np.flatnonzero(true == c)), set(np.flatnonzero((found == c) & (true != 255)))) for c in range(4)]
    ious = [len(a & b) / len(a | b) for a, b in sets]
    assert mask_metrics.class_iou(confusion)[:4] == pytest.approx(ious)
    assert np.isnan(mask_metrics.class_iou(confusion)[4])
    assert mask_metrics.macro_iou(confusion) == pytest.approx(np.mean(ious))
    assert mask_metrics.macro_iou(confusion, (1,)) == pytest.approx(np.mean([ious[0], *ious[2:]]))
    inside, whole = sum(len(a & b) for a, b in sets), sum(len(a | b) for a, b in sets)
    assert mask_metrics.micro_iou(confusion) == pytest.approx(inside / whole)
    dice = [2 * len(a & b) / (len(a) + len(b)) for a, b in sets]
    assert mask_metrics.macro_dice(confusion) == pytest.approx(np.mean(dice))
    assert mask_metrics.micro_dice(confusion) == pytest.approx(2 * inside / sum(len(a) + len(b) for a, b in sets))
    assert mask_metrics.pixel_accuracy(confusion) == pytest.approx((true == found).sum() / 450)
    assert mask_metrics.mean_class_accuracy(confusion) == pytest.approx(np.mean([len(a & b) / len(a) for a, b in sets]))
