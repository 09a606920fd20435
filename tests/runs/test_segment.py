"""A segmentation run from the command line: trained, resumed, exported, judged, and masks written."""

import json

import numpy as np
import pytest
from PIL import Image

import sartor
from sartor.core.errors import RunError, SpecError
from sartor.core.spec import to_json
from sartor.models.vision.hardnet_segmentation import DenseUNet
from sartor.runtime import ImageSegmenter
from tests.masks import COUNTS, write_scenes

SMALL = DenseUNet(((6, 1), (8, 2)), (2, 2), (6, 8), 1.7, (12, 16))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    patch = pytest.MonkeyPatch()
    patch.setenv("SARTOR_CACHE", str(root / "cache"))
    yield write_scenes(root / "my data", COUNTS, void=2)
    patch.undo()


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = sartor.train(to_json(SMALL), scenes, epochs=10, settings=["lr=0.02"], ignore=(11,), out=folder)
    return result.folder


def test_the_result(run, scenes):
    result = sartor.Result(run)
    assert result.facts["task"]["kind"] == "segmentation"
    winner = result.facts["winner"]
    assert winner["test"]["miou"] > 0.4
    assert winner["n_test"] == 4
    assert winner["checks"]["onnx"]["max_rel"] < 1e-3
    best = result.best()
    assert best.cost.value("latency") > 0
    answer = best.predict(scenes / "test" / "test_0.png")
    assert answer["mask"].shape == (24, 32)
    judged = json.loads((run / "judged.json").read_text())
    assert np.sum(judged["pixels"]) == 4 * 24 * 30
    card = (run / "best" / "README.md").read_text()
    assert "an image segmenter" in card
    assert "image-segmentation" in card
    assert "ImageSegmenter.open" in card
    report = result.report.read_text()
    assert "reaches miou" in report
    assert "--task segmentation --ignore 11" in report


def test_the_command_again_does_nothing_and_another_is_refused(run, scenes):
    before = (run / "judged.json").stat().st_mtime_ns
    sartor.train(to_json(SMALL), scenes, epochs=10, settings=["lr=0.02"], ignore=(11,), out=run)
    assert (run / "judged.json").stat().st_mtime_ns == before
    with pytest.raises(RunError):
        sartor.train(to_json(SMALL), scenes, epochs=10, settings=["lr=0.02"], out=run)


def test_masks_are_written(run, scenes, tmp_path, capsys):
    from sartor.cli.predict import predict

    predict(run, [scenes / "test"], to=tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    served = ImageSegmenter.open(run / "best")
    for number in range(4):
        with Image.open(tmp_path / "out" / f"test_{number}.png") as picture:
            assert picture.mode == "P"
            assert picture.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
            (answer,) = served.predict([scenes / "test" / f"test_{number}.png"])
            assert np.array_equal(np.asarray(picture), answer["mask"])
    predict(run, [scenes / "test" / "test_0.png"] * 2, to=tmp_path / "twice", json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["mask"], second["mask"]) == tuple(str(tmp_path / "twice" / f"test_0{n}.png") for n in ("", "-2"))
    assert sum(first["shares"].values()) == pytest.approx(1)


def test_classifiers_become_backbones(scenes, tmp_path):
    result = sartor.train("resnet20_cifar", scenes, epochs=1, ignore=(11,), size=24, out=tmp_path / "run")
    assert result.best().candidate.proposal.spec.kind == "fcn"


def test_what_cannot_be(scenes, tmp_path):
    with pytest.raises(SpecError, match="task"):
        sartor.train("resnet20_cifar", scenes, task="detection", out=tmp_path / "run")
    with pytest.raises(SpecError, match="fc_hardnet70 gives masks, and digits has none"):
        sartor.train("fc_hardnet70", "digits", out=tmp_path / "run")
    with pytest.raises(SpecError, match="levit"):
        sartor.train("levit_128s", scenes, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
