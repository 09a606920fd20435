import numpy as np
import pytest

from sartor.core.errors import DataError
from sartor.reproduce.cifar import CifarSubset, cifar_folder


def records(name, root):
    table = np.frombuffer((root / "images" / "cifar10" / name).read_bytes(), np.uint8).reshape(-1, 3073)
    return table[:, 0], table[:, 1:].reshape(-1, 3, 32, 32)


def test_first_images_of_every_class_in_file_order_pooled(made_up_cifar):
    task = CifarSubset(3, 2)()
    labels, images = records("data_batch_1.bin", made_up_cifar)
    kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:3] for c in range(10)]))
    train = task.split("train")
    assert np.array_equal(train.labels, labels[kept])
    pooled = images[kept].astype(float).reshape(-1, 3, 16, 2, 16, 2).mean(axis=(3, 5))
    assert np.abs(train.images - pooled).max() <= 0.5
    assert [len(task.split(name)) for name in ("train", "test")] == [30, 20]
    batch = train.batch(np.array([4, 0]))
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["label"].tolist() == train.labels[[4, 0]].tolist()


def test_fingerprint_tells_the_contents():
    assert CifarSubset(3, 2)().fingerprint == CifarSubset(3, 2)().fingerprint != CifarSubset(3, 3)().fingerprint


@pytest.mark.parametrize(
    ("subset", "words"), [(CifarSubset(17, 2), "16 train images of"), (CifarSubset(2, 9), "8 test images of")]
)
def test_too_few_images_are_said(subset, words):
    with pytest.raises(DataError, match=words):
        subset()


def test_missing_data_are_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("SARTOR_DATA", str(tmp_path))
    with pytest.raises(DataError, match="put CIFAR-10 there or set SARTOR_DATA"):
        cifar_folder()
    monkeypatch.delenv("SARTOR_DATA")
    with pytest.raises(DataError, match="set SARTOR_DATA to the folder that holds images/cifar10"):
        CifarSubset()()
