from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sartor.core.errors import DataError
from sartor.data.cifar import unpickle
from sartor.data.decode import decode
from sartor.data.recognise import open_images

PLANES = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
NAMES = ["airplane", "automobile", "bird"]


def old_pickle(value: Any) -> bytes:
    """What Python 2 wrote with protocol 2: byte strings as strings, arrays by their old names."""
    return b"\x80\x02" + _old(value) + b"."


def _old(value: Any) -> bytes:
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")
    if isinstance(value, bool | int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_old, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_old(k) + _old(v) for k, v in value.items()) + b"u"
    shape = b"(" + b"".join(map(_old, value.shape)) + b"t"
    dtype = (
        b"cnumpy\ndtype\n("
        + _old("u1")
        + _old(0)
        + _old(1)
        + b"tR("
        + _old(3)
        + _old("|")
        + b"NNN"
        + _old(-1) * 2
        + _old(0)
        + b"tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + _old(0) + b"t" + _old("b") + b"tR"
    return made + b"(" + _old(1) + shape + dtype + b"\x89" + _old(value.tobytes().decode("latin1")) + b"tb"


def batch(labels: list[int], key: str = "labels") -> dict[str, Any]:
    return {"batch_label": "a batch", key: labels, "data": PLANES[: len(labels)], "filenames": ["x.png"] * len(labels)}


def python_batches(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_batch_1").write_bytes(old_pickle(batch([0, 1, 2])))
    (folder / "data_batch_2").write_bytes(old_pickle(batch([2, 1, 0])))
    (folder / "test_batch").write_bytes(old_pickle(batch([1, 1])))
    (folder / "batches.meta").write_bytes(old_pickle({"label_names": NAMES, "num_vis": 3072}))
    return folder


def binary_batches(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in {"data_batch_1": [0, 1, 2], "data_batch_2": [2, 1, 0], "test_batch": [1, 1]}.items():
        records = np.concatenate([np.array(labels, np.uint8)[:, None], PLANES[: len(labels)]], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def archived(folder: Path) -> Path:
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


MAKERS = {
    "python": python_batches,
    "binary": binary_batches,
    "python archive": lambda folder: archived(python_batches(folder)),
    "binary archive": lambda folder: archived(binary_batches(folder)),
    "folder within": lambda folder: python_batches(folder / "cifar-10-batches-py").parent,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_cifar10(tmp_path: Path, kind: str) -> None:
    source = open_images(MAKERS[kind](tmp_path / "cifar"))
    assert source.classes == tuple(NAMES)
    assert source.labels[source.splits["train"]].tolist() == [0, 1, 2, 2, 1, 0]
    assert source.labels[source.splits["test"]].tolist() == [1, 1]
    for row, raw in zip([1, 4], source.reader.read([1, 4]), strict=True):
        expected = PLANES[row % 3].reshape(3, 32, 32).transpose(1, 2, 0)  # planes of red, green and blue
        assert (np.asarray(decode(raw)) == expected).all()
    assert source.reader.where(4).removesuffix(" #1").startswith("data_batch_2")
    assert pickle.loads(pickle.dumps(source.reader)).where(0) == source.reader.where(0)
    assert source.fingerprint() == open_images(MAKERS[kind](tmp_path / "copy")).fingerprint()


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(old_pickle(batch([70, 4], "fine_labels") | {"coarse_labels": [1, 2]}))
    (tmp_path / "test").write_bytes(old_pickle(batch([3], "fine_labels")))
    (tmp_path / "meta").write_bytes(old_pickle({"fine_label_names": [f"class {i}" for i in range(100)]}))
    source = open_images(tmp_path)
    assert source.classes[70] == "class 70"
    assert source.labels[source.splits["train"]].tolist() == [70, 4]


def test_cifar100_binary(tmp_path: Path) -> None:
    for name, fine in {"train.bin": [70, 4], "test.bin": [3]}.items():
        labels = np.stack([np.zeros(len(fine)), fine], axis=1).astype(np.uint8)
        (tmp_path / name).write_bytes(np.concatenate([labels, PLANES[: len(fine)]], axis=1).tobytes())
    source = open_images(tmp_path)
    assert source.labels.tolist() == [3, 70, 4]
    assert (np.asarray(next(iter(source.reader.read([1])))).transpose(2, 0, 1).ravel() == PLANES[0]).all()


def test_one_batch_alone(tmp_path: Path) -> None:
    source = open_images(python_batches(tmp_path) / "data_batch_1")
    assert source.labels.tolist() == [0, 1, 2]
    assert source.classes == tuple(NAMES)


def test_newer_pickles_are_read_too(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": PLANES[:2], b"labels": [0, 1]}, protocol=3)
    assert set(unpickle(content, "x")) == {b"data", b"labels"}
    (tmp_path / "data_batch_1").write_bytes(content)
    assert (np.asarray(list(open_images(tmp_path).reader.read([0])))[0].transpose(2, 0, 1).ravel() == PLANES[0]).all()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": Evil(), "labels": []}, protocol=2),
        pickle.dumps(Evil(), protocol=0),
        b"\x80\x02cbuiltins\neval\n(U\x041+1 tR.",
        b"\x80\x02cnumpy\nfromfile\n(U\x01xtR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}(U\x01aK\x01ub.",
    ],
)
def test_nothing_in_a_pickle_runs(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="not a CIFAR batch") as caught:
        unpickle(content, "data_batch_1")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "value",
    [
        {"labels": [0]},
        {"data": PLANES[:2], "labels": [0]},
        {"data": PLANES[:1], "labels": ["x"]},
        {"data": PLANES[:1], "labels": [-5]},
        {"data": [1, 2], "labels": [0, 1]},
        {"data": PLANES[:1, :100], "labels": [0]},
        [1, 2],
    ],
)
def test_other_contents_are_refused(value: Any, tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(old_pickle(value))
    with pytest.raises(DataError):
        open_images(tmp_path)


def test_random_damage_is_refused_or_read() -> None:
    whole, rng = old_pickle(batch([0, 1])), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(0, 400, 3):
            damaged[place] = rng.integers(0, 256)
        with suppress(DataError):
            assert isinstance(unpickle(bytes(damaged), "x"), dict)


def test_odd_sizes_and_mixed_kinds_are_refused(tmp_path: Path) -> None:
    binary_batches(tmp_path)
    python_batches(tmp_path)
    with pytest.raises(DataError, match="both binary and Python"):
        open_images(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "data_batch_1.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match="3073-byte"):
        open_images(tmp_path / "one")


def test_an_archive_of_other_things_is_no_cifar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("readme")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(DataError, match="give a folder"):
        open_images(path)
