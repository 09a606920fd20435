from __future__ import annotations

import csv
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sartor.core.errors import DataError, SartorError
from sartor.core.protocols import Answer, Servable
from sartor.data.preprocess import Preprocess
from sartor.tasks.image_classification import ImageClassification
from sartor.tasks.predictions import Predictions
from sartor.testing.tasks import TaskConformance


class NearestMean:
    """Answers by the nearest of some mean images: weak, quick and honest about it."""

    def __init__(self, preprocess: Preprocess, means: Any, full: bool = True) -> None:
        self.preprocess, self.means, self.full = preprocess, means, full

    @classmethod
    def of(cls, task: ImageClassification, full: bool = True) -> NearestMean:
        train = task.split("train")
        batch = train.batch(np.arange(len(train)))
        images = task.preprocess.crop(batch["image"]).flatten(1).double()
        means = torch.stack([images[batch["label"] == k].mean(0) for k in range(len(task.classes))])
        return cls(task.preprocess, means, full)

    def predict(self, raw: Sequence[Any]) -> Sequence[Answer]:
        images = torch.from_numpy(np.stack([self.preprocess.array(r) for r in raw])).flatten(1).double()
        shares = (-torch.cdist(images, self.means) / 100).softmax(1).numpy()
        indices = shares.argmax(1).tolist()
        if self.full:
            return [{"index": i, "probabilities": p} for i, p in zip(indices, shares, strict=True)]
        return [{"index": i, "probability": float(p.max())} for i, p in zip(indices, shares, strict=True)]

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def photographs(root: Path) -> Path:
    """Oblong pictures of two classes in a table, four to a patient."""
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "group"])
        for i in range(96):
            image = rng.integers(0, 100, (30, 44, 3), dtype=np.uint8)
            image[..., i % 2] += 100
            Image.fromarray(image).save(root / f"{i}.png")
            writer.writerow([f"{i}.png", ["red", "green"][i % 2], i // 4])
        (root / "bad.png").write_text("text")
        writer.writerow(["bad.png", "red", 99])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photographs"))


class TestDigits(TaskConformance):
    def task(self) -> ImageClassification:
        return ImageClassification.open("digits")

    def servable(self) -> Servable:
        return NearestMean.of(self.task())


class TestPhotographs(TaskConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        self.folder = folder

    def task(self) -> ImageClassification:
        return ImageClassification.open(self.folder)

    def servable(self) -> Servable:
        return NearestMean.of(self.task(), full=False)


class TestPhotographsOnDemand(TestPhotographs):
    """Without room for stored pixels."""

    @pytest.fixture(autouse=True)
    def _no_room(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("sartor.data.survey._DISK_SHARE", 0.0)
        monkeypatch.setenv("SARTOR_CACHE", str(tmp_path))


def test_digits_describe_themselves() -> None:
    task = ImageClassification.open("digits")
    assert (task.name, task.kind, task.per, task.metric.name) == ("digits", "image-classification", "image", "accuracy")
    assert task.inputs.fields["image"].shape == (1, 8, 8)
    assert task.outputs.fields["logits"].shape == (10,)
    assert task.given() == {"classes": tuple("0123456789")}
    assert {name: len(task.split(name)) for name in ("train", "valid", "test")} == {
        "train": 1294,
        "valid": 144,
        "test": 359,
    }
    with pytest.raises(DataError, match="did you mean valid"):
        task.split("valdi")


def test_the_test_split_of_digits_is_the_same_for_every_seed() -> None:
    a, b = (ImageClassification.open("digits", seed=seed).split("test") for seed in (0, 1))
    assert (a.rows == b.rows).all()


def test_batches_are_tensors() -> None:
    train = ImageClassification.open("digits").split("train")
    batch = train.batch(np.array([5, 2, 5]))
    assert (batch["image"].shape, batch["image"].dtype) == ((3, 1, 8, 8), torch.uint8)
    assert batch["label"].dtype == torch.int64
    assert batch["image"][0].equal(batch["image"][2])
    assert (batch["image"][1, 0].numpy() == train.item(2)[:, :, 0]).all()


def test_evaluation_on_stored_pixels_equals_evaluation_on_files(folder: Path) -> None:
    task = ImageClassification.open(folder)
    servable, test = NearestMean.of(task), task.split("test")
    stored = task.predictions(servable, "test").probabilities
    assert stored is not None
    raw = servable.predict([test.item(i) for i in range(len(test))])
    files = servable.predict([folder / test.where(i) for i in range(len(test))])
    assert (np.stack([answer["probabilities"] for answer in raw]) == stored).all()
    assert (np.stack([answer["probabilities"] for answer in files]) == stored).all()
    assert task.evaluate(servable, "test").values["accuracy"] == 1.0


def test_values_with_and_without_all_probabilities() -> None:
    task = ImageClassification.open("digits")
    full = task.evaluate(NearestMean.of(task), "valid").values
    part = task.evaluate(NearestMean.of(task, full=False), "valid").values
    assert set(full) == {"accuracy", "balanced_accuracy", "calibration_error", "log_loss", "top5_accuracy"}
    assert set(part) == {"accuracy", "balanced_accuracy", "calibration_error"}
    assert full["accuracy"] == part["accuracy"]
    assert 0.8 < full["accuracy"] < full["top5_accuracy"] <= 1.0


def test_predictions_for_a_report() -> None:
    task = ImageClassification.open("digits")
    found, test = task.predictions(NearestMean.of(task), "test"), task.split("test")
    assert found.confusion.sum() == len(test) == 359
    assert (found.confusion.sum(1) == np.bincount(test.labels)).all()
    assert found.confusion.trace() == found.right.sum()
    worst = found.worst(5)
    assert len(worst) == 5
    assert not found.right[worst].any()
    assert (np.diff(found.confidence[worst]) <= 0).all()
    assert found.confidence[worst[0]] == found.confidence[~found.right].max()
    assert test.where(int(worst[0])).startswith("test-images-idx3-ubyte.gz #")
    assert sum(b["n"] for b in found.reliability()) == 359


@pytest.mark.parametrize(
    "answers",
    [
        [{"index": 0}, {"index": 1}],
        [{"index": 0, "probability": 0.5}],
        [{"index": 0, "probability": 0.5}, {"index": 7, "probability": 0.5}],
        [{"index": -1, "probability": 0.5}, {"index": 0, "probability": 0.5}],
        [{"index": 0, "probabilities": [1.0]}, {"index": 0, "probabilities": [0.5]}],
        [{"index": 0, "probabilities": [1.0, 0.0]}, {"index": 0, "probabilities": [0.5]}],
    ],
)
def test_answers_that_do_not_fit_are_refused(answers: list[Answer]) -> None:
    with pytest.raises(SartorError):
        Predictions.of(answers, np.array([0, 1]), 2)


def test_loss_is_cross_entropy() -> None:
    task = ImageClassification.open("digits")
    labels = torch.tensor([3, 1])
    output = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = -output.log_softmax(1)[[0, 1], labels].mean()
    assert task.loss(output, {"label": labels}).item() == pytest.approx(expected.item())


def test_serving_gives_files_in_their_own_size(folder: Path) -> None:
    task = ImageClassification.open(folder)
    raw = task.serving(200, 1)
    assert len(raw) == 200
    assert {image.shape for image in raw} == {(30, 44, 3)}
    assert {bytes(image) for image in raw} == {
        bytes(task.split("valid").item(i)) for i in range(len(task.split("valid")))
    }
    assert not all((a == b).all() for a, b in zip(raw[:5], task.serving(5, 2), strict=True))


def test_bad_images_are_known(folder: Path) -> None:
    task = ImageClassification.open(folder)
    assert task.skipped == ({"where": "bad.png", "why": "not an image of a known format"},)
    with pytest.raises(DataError, match=r"bad\.png"):
        ImageClassification.open(folder, strict=True)


def test_a_size_may_be_chosen(folder: Path) -> None:
    task = ImageClassification.open(folder, size=16)
    assert task.inputs.fields["image"].shape == (3, 16, 16)
    assert task.fingerprint != ImageClassification.open(folder).fingerprint


def test_carving_more_than_there_is() -> None:
    task = ImageClassification.open("digits")
    with pytest.raises(DataError, match="between 0 and 1"):
        task.carve(1.0, 0)
    rest, part = task.carve(0.25, 3)
    assert abs(len(part) / (len(rest) + len(part)) - 0.25) < 0.005
    assert not np.array_equal(part.rows, task.carve(0.25, 4)[1].rows)


def test_a_task_goes_to_another_process(folder: Path) -> None:
    task = ImageClassification.open(folder)
    copy = pickle.loads(pickle.dumps(task))
    assert copy.split("test").batch(np.arange(4))["image"].equal(task.split("test").batch(np.arange(4))["image"])


class TestWithLabels:
    def test_a_share_of_every_class_and_other_splits_as_they_are(self):
        whole = ImageClassification.open("digits")
        fewer = whole.with_labels(0.01, 0)
        assert np.bincount(fewer.split("train").labels).min() >= 1
        assert len(fewer.split("train")) == pytest.approx(0.01 * len(whole.split("train")), abs=3)
        assert fewer.split("test").rows.tolist() == whole.split("test").rows.tolist()
        assert fewer.preprocess == whole.preprocess
        assert fewer.fingerprint != whole.fingerprint
        assert set(fewer.split("train").rows) <= set(whole.split("train").rows)
        assert whole.with_labels(1.0, 0) is whole
        assert whole.with_labels(0.01, 1).split("train").rows.tolist() != fewer.split("train").rows.tolist()

    def test_no_share(self):
        with pytest.raises(DataError, match="above 0 and at most 1"):
            ImageClassification.open("digits").with_labels(0.0, 0)
