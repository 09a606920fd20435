import numpy as np
import pytest
import torch
from PIL import Image

from sartor.core import files
from sartor.reproduce.reproduction import Conditions
from tests.masks import write_scenes

TRAIN, TEST = 16, 8  # of each class: what quick runs need


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch):
    """One thread; and no waiting for the disk, which only a power cut would show."""
    monkeypatch.setattr(files, "_sync", lambda path: None)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory):
    """CIFAR-10's binary layout with noise around a colour for each class."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "images" / "cifar10"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (10, 3, 1))
    for name, count in (("data_batch_1.bin", TRAIN), ("test_batch.bin", TEST)):
        labels = np.repeat(np.arange(10), count)
        rng.shuffle(labels)
        pixels = np.clip(colours[labels] + rng.normal(0, 30, (len(labels), 3, 1024)), 0, 255).astype(np.uint8)
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(len(labels), -1)], axis=1)
        (folder / name).write_bytes(records.tobytes())
    write_scenes(root / "images" / "camvid", {"train": 6, "val": 4, "test": 4}, void=2)
    _make_up_tissue(root / "images" / "histology-tiles", rng)
    return root


def _make_up_tissue(folder, rng):
    """Noise under the names of the tiles of tissue."""
    folder.mkdir()
    names = [f"0_0_{n}_506.jpg" for n in range(6)] + [f"Tile_({n},0).jpg" for n in range(3)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 255, (64, 224, 3), dtype=np.uint8)).save(folder / "CRC-VAL.tif")


@pytest.fixture(autouse=True)
def made_up_cifar(cifar_root, monkeypatch):
    """``SARTOR_DATA`` names it."""
    monkeypatch.setenv("SARTOR_DATA", str(cifar_root))
    return cifar_root


@pytest.fixture
def conditions(tmp_path):
    return Conditions(tmp_path, quick=True)
