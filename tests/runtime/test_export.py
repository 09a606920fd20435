"""Export writes what serves, compares it, and keeps quiet; the chosen engine has plain PyTorch's classes."""

import json

import numpy as np
import onnx
import pytest
import torch
from serving import NAMES, as_images, pictures

import sartor.runtime.export
from sartor.core.errors import DataError
from sartor.runtime import ImageClassifier, choose
from sartor.runtime.choose import choose_engine
from sartor.runtime.engines import PREFERRED
from sartor.runtime.export import compare, export

IMAGES = as_images(pictures(30, seed=7))


def test_what_is_written_and_recorded(exported):
    assert sorted(p.name for p in exported.iterdir()) == ["config.json", "model.onnx", "model.safetensors"]
    checks = json.loads((exported / "config.json").read_text())["checks"]["onnx"]
    assert checks["images"] == 40
    assert checks["different"] == 0
    assert 0 <= checks["max_rel"] < 1e-5


def test_the_graph_takes_any_number_of_uint8_images(exported):
    graph = onnx.load(exported / "model.onnx").graph
    (given,), (got,) = graph.input, graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert (got.name, got.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    shape = given.type.tensor_type.shape.dim
    assert shape[0].dim_param == "batch"
    assert [d.dim_value for d in shape[1:]] == [3, 24, 24]
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_an_exporter_without_words_and_without_remains(classifier, tmp_path, capfd, monkeypatch):
    old = tmp_path / "model"
    classifier.save(old)

    def fail(*_, **__):
        print("a word")
        raise RuntimeError("\n\nno such operator: strange\nand so on")

    monkeypatch.setattr(torch.onnx, "export", fail)
    description = export(classifier, old, IMAGES)
    assert description.checks["onnx"]["error"].startswith("the network has no ONNX form (no such operator: strange)")
    assert sorted(p.name for p in old.iterdir()) == ["config.json", "model.safetensors"]
    assert capfd.readouterr() == ("", "")
    assert ImageClassifier.open(old).predict(pictures(1))[0]["label"] in NAMES


def test_a_failing_export_leaves_the_old_folder(classifier, tmp_path, monkeypatch):
    classifier.save(tmp_path / "model")
    before = (tmp_path / "model" / "config.json").read_bytes()
    monkeypatch.setattr(ImageClassifier, "write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export(classifier, tmp_path / "model", IMAGES)
    assert (tmp_path / "model" / "config.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_no_images_no_comparison(classifier, exported, tmp_path):
    with pytest.raises(DataError, match="was given none; give at least one"):
        export(classifier, tmp_path / "model", IMAGES[:0])
    with pytest.raises(DataError, match="was given none; give at least one"):
        choose_engine(exported, IMAGES[:0])


class Shifted:
    """An engine whose logits are those of another, moved."""

    name = "shifted"

    def __init__(self, engine, by):
        self.engine, self.by = engine, np.asarray(by, np.float32)

    def __call__(self, images):
        return self.engine(images) + self.by


def test_comparison_tells_rounding_from_wrong(classifier):
    engine = classifier.engine
    same = compare(engine, engine, IMAGES)
    assert same == {"max_abs": 0.0, "max_rel": 0.0, "different": 0, "images": 30}
    largest = np.abs(engine(IMAGES[:16])).max()  # as many as the largest compared batch
    assert compare(engine, Shifted(engine, 1e-5 * largest), IMAGES)["max_rel"] == pytest.approx(1e-5, rel=0.3)
    for wrong in (0.01 * largest, np.nan):
        with pytest.raises(Exception, match="differs from PyTorch"):
            compare(engine, Shifted(engine, wrong), IMAGES)


@pytest.fixture
def copy_of_exported(exported, tmp_path):
    ImageClassifier.open(exported).save(tmp_path / "model")
    return tmp_path / "model"


def test_the_chosen_engine_is_the_fastest_that_agrees(copy_of_exported, classifier, monkeypatch):
    monkeypatch.setattr(choose, "SECONDS", 0.05)
    description = choose_engine(copy_of_exported, IMAGES, batch=4)
    found = description.checks["engines"]
    timed = {name: found[name]["milliseconds"] for name in PREFERRED if "milliseconds" in found.get(name, {})}
    assert {"onnx", "eager"} <= set(timed)
    assert description.engine == min(timed, key=timed.get)
    assert found["batch"] == 4
    assert found["images"] == 30
    opened = ImageClassifier.open(copy_of_exported)
    assert opened.engine.name == description.engine
    assert (opened.logits(IMAGES).argmax(1) == classifier.logits(IMAGES).argmax(1)).all()
    if "packed-bf16" in timed:
        guarded = ImageClassifier.open(copy_of_exported, "packed-bf16")
        assert guarded.engine.tolerance == description.guard.tolerance > 0
        assert 0 <= description.guard.recomputed <= 1
        assert (guarded.logits(IMAGES).argmax(1) == classifier.logits(IMAGES).argmax(1)).all()


def test_an_engine_with_another_class_is_not_chosen(copy_of_exported, classifier, monkeypatch):
    monkeypatch.setattr(choose, "SECONDS", 0.01)
    opening = choose.open_engine

    def tampered(name, *rest):
        engine = opening(name, *rest)
        return Shifted(engine, np.arange(len(NAMES)) * 100.0) if name == "onnx" else engine

    monkeypatch.setattr(choose, "open_engine", tampered)
    description = choose_engine(copy_of_exported, IMAGES)
    assert description.engine != "onnx"
    assert "another class on" in description.checks["engines"]["onnx"]["reason"]


def test_a_network_that_fx_cannot_trace_is_exported_all_the_same(classifier, tmp_path, monkeypatch):
    def fail(_):
        raise torch.fx.proxy.TraceError("symbolically traced variables cannot be used as inputs to control flow")

    monkeypatch.setattr(sartor.runtime.export, "fold_norms", fail)
    description = export(classifier, tmp_path / "model", IMAGES)
    assert description.checks["onnx"]["different"] == 0
