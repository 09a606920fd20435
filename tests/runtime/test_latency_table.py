"""The table of engines measures each one, or says why it could not."""

from functools import partial

import pytest
from serving import SPEC, pictures

import sartor.runtime.export
import sartor.runtime.latency_table
from sartor.core.errors import SartorError
from sartor.cost.meters import latency, peak_memory, storage
from sartor.models.network import spec_of
from sartor.runtime import ImageClassifier
from sartor.runtime.latency_table import latency_table, training_memory, untrained


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    monkeypatch.setattr(sartor.runtime.latency_table, "latency", partial(latency, seconds=0.2))


def test_larger_networks_are_slower_on_every_engine():
    with untrained(SPEC, 24, graph=False) as folder:
        small = latency_table(folder, threads=1, engines=("eager", "packed"))
    with untrained(spec_of("resnet56_cifar"), 64, graph=False) as folder:
        large = latency_table(folder, threads=1, engines=("eager", "packed"))
    assert list(small) == ["eager", "packed"]
    for name, reading in small.items():
        if not reading.why:
            assert large[name].cost.value("latency") > 4 * reading.cost.value("latency")


def test_an_engine_that_cannot_run_has_a_reason(monkeypatch):
    def fail(*_):
        raise SartorError("no ONNX form")

    monkeypatch.setattr(sartor.runtime.export, "write_graph", fail)
    with untrained(SPEC, 24) as folder:
        table = latency_table(folder, batch=2, threads=1, engines=("onnx", "eager"))
    assert "model.onnx to run" in table["onnx"].why
    assert table["eager"].cost.value("latency@2") > 0


def test_unknown_engines_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(SartorError, match="unknown engine 'eagre': did you mean eager"):
        latency_table(tmp_path, engines=("eagre",))


def test_an_exported_classifier_can_be_metered(exported):
    onnx, eager = (partial(ImageClassifier.open, exported, name) for name in ("onnx", "eager"))
    raw = list(pictures(4))
    assert all(r.cost.value("latency") > 0 for r in latency([onnx, eager], raw, threads=1, seconds=0.1))
    held = [peak_memory(opener, raw, threads=1).cost.value("peak_memory") for opener in (onnx, eager)]
    assert 2 * held[0] < held[1]  # torch itself is most of it
    files = ImageClassifier.open(exported, "onnx").files
    total = sum((exported / name).stat().st_size for name in ("config.json", "model.onnx"))
    assert storage(exported, files).cost.value("storage") == total


def test_training_takes_more_memory_for_larger_batches():
    small, large = (training_memory(SPEC, 24, batch, threads=1) for batch in (2, 512))
    assert large.cost.value("train_memory") > 2 * small.cost.value("train_memory")
