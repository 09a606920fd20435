"""The classifier answers pictures of every kind, and answers the same when it was saved and opened."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from serving import NAMES, PREPROCESS, as_images, pictures

from sartor.core.errors import DataError, SartorError, WeightsError
from sartor.core.protocols import Servable
from sartor.data.preprocess import Preprocess
from sartor.models.network import count
from sartor.runtime import ImageClassifier

RAW = pictures(20, seed=5)


def in_new_process(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_answers(classifier):
    assert isinstance(classifier, Servable)
    answers = classifier.predict(RAW)
    logits = classifier.logits(as_images(RAW))
    assert [a["index"] for a in answers] == logits.argmax(1).tolist()
    assert len({a["index"] for a in answers}) > 2
    for answer in answers:
        assert answer["label"] == NAMES[answer["index"]]
        assert answer["probability"] == max(answer["probabilities"])
        assert sum(answer["probabilities"]) == pytest.approx(1)
    assert classifier.predict([]) == []
    assert classifier.logits(np.empty((0, 3, 24, 24), np.uint8)).shape == (0, len(NAMES))


def test_every_kind_of_picture(classifier, tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(RAW[0]).save(file)
    kinds = [RAW[0], Image.fromarray(RAW[0]), file, str(file), file.read_bytes()]
    answers = classifier.predict(kinds)
    assert all(answer == answers[0] for answer in answers)
    grey, large = classifier.predict([RAW[0][..., 0], pictures(1, size=60)[0]])
    assert grey["label"] in NAMES
    assert large["label"] in NAMES


def test_more_pictures_than_are_run_at_once(classifier):
    many = np.concatenate([RAW] * 15)
    first, last = (classifier.predict(many)[i] for i in (0, -len(RAW)))
    assert first["probability"] == pytest.approx(last["probability"], abs=1e-5)


def test_an_unreadable_picture_is_named(classifier, tmp_path):
    for name, written in (("no picture.jpg", "no picture.jpg"), ("no\npicture.jpg", "no\\npicture.jpg'")):
        (tmp_path / name).write_text("text")
        with pytest.raises(DataError, match="not an image of a known format") as caught:
            classifier.predict([RAW[0], tmp_path / name])
        assert f"{written}: " in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="picture 2: "):
        classifier.predict([RAW[0], b"text"])


def test_logits_want_preprocessed_images(classifier):
    with pytest.raises(DataError, match=r"must be a uint8 array \(N, 3, 24, 24\), not float32"):
        classifier.logits(as_images(RAW).astype(np.float32))
    with pytest.raises(DataError, match=r"not uint8 \(20, 24, 24, 3\)"):
        classifier.logits(RAW)


def test_parts_that_do_not_fit_are_refused(backbone):
    with pytest.raises(SartorError, match="6 class names for a network of 7 outputs"):
        ImageClassifier.of(backbone, PREPROCESS, NAMES[:-1])
    with pytest.raises(SartorError, match="gives 1 channels, the network takes 3"):
        ImageClassifier.of(backbone, Preprocess(1, 24), NAMES)
    with pytest.raises(SartorError, match="views is 3"):
        ImageClassifier.of(backbone, PREPROCESS, NAMES, views=3)


def test_a_classifier_keeps_its_own_weights(backbone):
    import torch

    classifier = ImageClassifier.of(backbone, PREPROCESS, NAMES)
    before = classifier.predict(RAW[:3])
    assert not backbone.training
    with torch.no_grad():
        backbone.fc.bias.add_(torch.arange(7.0))
    try:
        assert classifier.predict(RAW[:3]) == before
    finally:
        with torch.no_grad():
            backbone.fc.bias.sub_(torch.arange(7.0))


ANSWER = """
import json, sys
import numpy as np
from sartor.runtime import ImageClassifier
model = ImageClassifier.open(sys.argv[1], sys.argv[3])
answers = model.predict(np.load(sys.argv[2]))
print(json.dumps([answers, "torch" in sys.modules, model.engine.name, list(model.files)]))
"""


@pytest.mark.parametrize(("engine", "torch"), [("eager", True), ("packed", True), ("onnx", False)])
def test_equal_answers_in_a_new_process(exported, tmp_path, engine, torch):
    np.save(tmp_path / "raw.npy", RAW)
    answers, imported, name, files = in_new_process(ANSWER, exported, tmp_path / "raw.npy", engine)
    assert answers == ImageClassifier.open(exported, engine).predict(RAW)
    assert imported is torch  # memory and start-up: onnxruntime serves without torch
    assert name == engine
    assert files == ["config.json", "model.safetensors" if torch else "model.onnx"]


def test_save_writes_what_open_read(exported, classifier, tmp_path):
    classifier.save(tmp_path / "first")
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == ["config.json", "model.safetensors"]
    opened = ImageClassifier.open(tmp_path / "first")
    assert opened.predict(RAW) == classifier.predict(RAW)
    ImageClassifier.open(exported, "onnx").save(tmp_path / "second")
    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "second" / name).read_bytes() == (exported / name).read_bytes()
    assert ImageClassifier.open(tmp_path / "second").engine.name == "onnx"


def test_a_saved_folder_is_also_a_network(classifier, tmp_path):
    from sartor.weights import from_pretrained

    classifier.save(tmp_path / "model")
    network = from_pretrained(tmp_path / "model")
    assert sum(p.numel() for p in network.parameters()) == classifier.counted().value("params")


def test_counted_cost_of_two_views(backbone, classifier):
    one, two = classifier.counted(), ImageClassifier.of(backbone, PREPROCESS, NAMES, views=2).counted()
    assert one == count(backbone.spec)
    assert two.value("params") == one.value("params")
    assert two.value("macs") == 2 * one.value("macs")


def damage(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_damaged_folders_are_one_line(classifier, tmp_path):
    def opening(name, expected, engine=None):
        with pytest.raises(WeightsError, match=expected) as caught:
            ImageClassifier.open(tmp_path / name, engine)
        assert "\n" not in str(caught.value)

    for name in ("config", "json", "class", "views", "format", "guard", "short", "weights", "other", "spec"):
        classifier.save(tmp_path / name)
    opening("nowhere", r"no config\.json in it; name a folder")
    (tmp_path / "config" / "config.json").write_text("{}")
    opening("config", "lacks 'format'")
    (tmp_path / "json" / "config.json").write_text('{"format": ')
    opening("json", "describes no classifier")
    damage(tmp_path / "class", classes=["a", "b"])
    opening("class", "2 class names for 7 outputs")
    damage(tmp_path / "views", views=3)
    opening("views", "views is 3, not 1 or 2")
    damage(tmp_path / "format", format=99)
    opening("format", "format 99 is of a later version")
    damage(tmp_path / "guard", guard={"tolerance": -1.0, "images": 1, "recomputed": 0.0})
    opening("guard", "tolerance -1.0 is no distance")
    weights = tmp_path / "short" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    opening("short", "cannot be read")
    (tmp_path / "weights" / "model.safetensors").unlink()
    opening("weights", r"no model\.safetensors in it")
    other = load_file(tmp_path / "other" / "model.safetensors")
    save_file({k: v for k, v in other.items() if k != "fc.bias"}, tmp_path / "other" / "model.safetensors")
    opening("other", r"1 weights do not fit the described network, first fc\.bias")
    damage(tmp_path / "spec", spec={"kind": "os.system", "classes": 7})
    opening("spec", "unknown spec kind 'os.system'")


def test_an_engine_that_cannot_run_is_replaced_unless_asked_for(classifier, tmp_path):
    classifier.save(tmp_path / "model")
    damage(tmp_path / "model", engine="onnx")
    assert ImageClassifier.open(tmp_path / "model").engine.name in ("packed", "eager")
    with pytest.raises(SartorError, match=r"cannot run here; onnx: no model\.onnx to run"):
        ImageClassifier.open(tmp_path / "model", "onnx")
    with pytest.raises(SartorError, match=r"not calibrated for this model|bfloat16|oneDNN"):
        ImageClassifier.open(tmp_path / "model", "packed-bf16")
    damage(tmp_path / "model", engine="none")
    with pytest.raises(SartorError, match="unknown engine 'none'"):
        ImageClassifier.open(tmp_path / "model")
