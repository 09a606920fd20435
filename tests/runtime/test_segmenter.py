"""Segmenters: masks in the pictures' own sizes, saved and opened, and as an ONNX graph."""

import numpy as np
import pytest
import torch
from PIL import Image

from sartor.core.errors import DataError, SartorError, WeightsError
from sartor.data.mask_dataset import MaskPreprocess
from sartor.models.network import build
from sartor.models.vision.fcn import fcn
from sartor.models.vision.hardnet_segmentation import DenseUNet
from sartor.runtime import ImageSegmenter
from sartor.runtime.opening import open_servable
from sartor.runtime.segmenter import export_segmenter
from sartor.testing.backbones import randomise_norms

SIZE = (32, 48)
CLASSES = ("sky", "road", "car")
SPECS = {
    "released": DenseUNet(((6, 2), (8, 1)), (4, 2, 4), (4, 6, 4), 1.7, (12, 16, 20), classes=3, size=SIZE),
    "dense": DenseUNet(((6, 1),), (2, 2), (4, 4), 0.0, classes=3, size=SIZE),
    "fcn": fcn("resnet18", 3).replace(size=SIZE),
}
PREPROCESS = MaskPreprocess(3, SIZE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def segmenter(name="released"):
    torch.manual_seed(0)
    net = build(SPECS[name])
    randomise_norms(net, torch.randn(4, 3, *SIZE))
    return ImageSegmenter.of(net, PREPROCESS, CLASSES), net


def pictures(count=3, size=(40, 30)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8) for _ in range(count)]


def test_masks_are_the_networks(tmp_path):
    served, net = segmenter()
    exact = pictures(size=SIZE[::-1])
    images = torch.from_numpy(np.stack(exact)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    with torch.no_grad():
        wanted = net((images - mean) / std).argmax(1).numpy()
    for answer, mask in zip(served.predict(exact), wanted, strict=True):
        assert (answer["mask"] == mask).mean() > 0.999
        assert sum(answer["shares"].values()) == pytest.approx(1.0)
        assert set(answer["shares"]) <= set(CLASSES)


def test_masks_have_the_pictures_size():
    served, _ = segmenter()
    first, second = served.predict([pictures(1, (40, 30))[0], Image.new("L", (7, 91))])
    assert first["mask"].shape == (30, 40)
    assert second["mask"].shape == (91, 7)
    assert first["mask"].dtype == np.uint8


def test_saved_and_opened(tmp_path):
    served, _ = segmenter()
    served.save(tmp_path / "model")
    opened = open_servable(tmp_path / "model")
    assert isinstance(opened, ImageSegmenter)
    assert opened.classes == CLASSES
    for a, b in zip(served.predict(pictures()), opened.predict(pictures()), strict=True):
        assert np.array_equal(a["mask"], b["mask"])


@pytest.mark.parametrize("name", SPECS)
def test_the_graph_answers_alike(tmp_path, name):
    served, _ = segmenter(name)
    images = np.stack([PREPROCESS.array(picture) for picture in pictures()])
    description = export_segmenter(served, tmp_path / "model", images)
    assert description.checks["onnx"]["max_rel"] < 1e-3
    graph = ImageSegmenter.open(tmp_path / "model", engine="onnx")
    assert graph.files == ("config.json", "model.onnx")
    for a, b in zip(served.predict(pictures()), graph.predict(pictures()), strict=True):
        assert (a["mask"] == b["mask"]).mean() > 0.99


def test_what_cannot_be(tmp_path):
    served, net = segmenter()
    with pytest.raises(SartorError, match="does not fit 2 class names"):
        ImageSegmenter.of(net, PREPROCESS, ("a", "b"))
    with pytest.raises(DataError, match="picture 2"):
        served.predict([pictures(1)[0], b"no picture"])
    with pytest.raises(WeightsError, match=r"no config.json"):
        ImageSegmenter.open(tmp_path)
    served.save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(SartorError, match="safetensors"):
        ImageSegmenter.open(tmp_path / "model")
