import argparse
import json
import os
import struct
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from sartor.core.errors import WeightsError
from sartor.weights.read import read_state

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "fc.bias": torch.tensor([1.0, -2.0])}


class Exploit:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def same(got, expected):
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], tensor) for key, tensor in expected.items())


def refused(path):
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def header(tensors, data=b""):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_files(tmp_path, zipped):
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    same(read_state(tmp_path / "a.safetensors"), STATE)
    same(read_state(tmp_path / "a.pth"), STATE)


def prefixed(prefix):
    return OrderedDict((prefix + key, tensor) for key, tensor in STATE.items())


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"state_dict": STATE, "epoch": 3, "best_acc1": torch.tensor(71.5)},
        {"model": STATE, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "args": argparse.Namespace(lr=0.1)},
        {"model": {k: t + 1 for k, t in STATE.items()}, "model_ema": STATE},
        {"model_ema": "none", "state_dict": prefixed("module.")},
        {"model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.")}},
        {"model_state": STATE, "ema_state": {k: t + 1 for k, t in STATE.items()}, "cfg": "MODEL:\n  TYPE: regnet\n"},
        prefixed("module._orig_mod."),
        prefixed("_orig_mod.module."),
        {"state_dict": prefixed("model.")},
        {**STATE, "epoch": 4},
    ],
)
def test_wrapped_checkpoints(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "a.pth")
    same(read_state(tmp_path / "a.pth"), STATE)


def test_a_prefix_that_some_keys_lack_stays(tmp_path):
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(mixed, tmp_path / "a.pth")
    same(read_state(tmp_path / "a.pth"), mixed)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, zipped):
    mark = tmp_path / "was run"
    torch.save({"state_dict": STATE, "x": Exploit(mark)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = refused(tmp_path / "a.pth")
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert ".safetensors" in message
    assert not mark.exists()


def test_whole_modules_are_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "a.pth")


GOOD = save(STATE)
FLOATS = {"dtype": "F32", "shape": [2]}
DAMAGED = {
    "empty": b"",
    "truncated header": GOOD[:20],
    "truncated data": GOOD[:-4],
    "giant header": struct.pack("<Q", 1 << 40) + GOOD[8:],
    "overlapping": header({"a": FLOATS | {"data_offsets": [0, 8]}, "b": FLOATS | {"data_offsets": [4, 12]}}, bytes(12)),
    "beyond the end": header({"a": FLOATS | {"data_offsets": [0, 8]}}, bytes(4)),
    "size and offsets differ": header({"a": FLOATS | {"data_offsets": [0, 4]}}, bytes(4)),
    "unknown type": header({"a": {"dtype": "os.system", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "no tensors": header({}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04" + bytes(60), GOOD, b"<html>404</html>"])
def test_damaged_pickles(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    refused(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {"lr": 0.1}}])
def test_files_without_tensors(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert "no tensors" in refused(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 2).to_sparse(), torch.empty(2, device="meta")],
    ids=["sparse", "meta"],
)
def test_tensors_that_are_not_plain(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "a.pth")
    assert "plain dense" in refused(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), patch=st.binary(min_size=1, max_size=6), cut=st.booleans())
def test_any_damage_is_tensors_or_one_line(tmp_path, suffix, place, patch, cut):
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": STATE, "epoch": 3}, path)
    good = path.read_bytes() if suffix == "pth" else GOOD
    at = place % len(good)
    path.write_bytes(good[:at] + patch + (b"" if cut else good[at + len(patch) :]))
    message = ""
    try:
        read_state(path)
    except WeightsError as error:
        message = str(error)
    assert "\n" not in message
