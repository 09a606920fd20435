"""Transformers are exported and served by every engine; those that cannot pack a layer run it as it is."""

import numpy as np
import pytest
import torch

from sartor.data.preprocess import Preprocess
from sartor.models.network import build, spec_of
from sartor.runtime.classifier import ImageClassifier
from sartor.runtime.description import Description
from sartor.runtime.engines import EngineUnavailable, open_engine, run
from sartor.runtime.export import export
from sartor.testing.backbones import randomise_norms

SPECS = {
    "deit_tiny_patch16_224": {"width": 24, "depth": 2, "patch": 8},
    "swin_tiny_patch4_window7_224": {"width": 12, "depths": (2, 2), "heads": (1, 2), "window": 3},
    "levit_128s": {"widths": (16, 24), "depths": (1, 1), "heads": (2, 3), "key": 8},
}
IMAGES = np.random.default_rng(0).integers(0, 255, (18, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module", params=SPECS)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    network = build(spec_of(request.param, classes=5, size=(32, 32), **SPECS[request.param]))
    randomise_norms(network, torch.randn(4, 3, 32, 32))
    path = tmp_path_factory.mktemp("served") / "model"
    classifier = ImageClassifier.of(network, Preprocess(3, 32), list("abcde"))
    assert "error" not in export(classifier, path, IMAGES).checks["onnx"]
    return path


@pytest.mark.parametrize("name", ["folded", "packed", "onnx", "packed-bf16"])
def test_engines_agree(folder, name):
    expected = run(open_engine("eager", Description.read(folder), folder), IMAGES)
    try:
        got = run(open_engine(name, Description.read(folder), folder), IMAGES)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    limit = 5e-2 if name == "packed-bf16" else 1e-4
    assert np.abs(got - expected).max() <= limit * np.abs(expected).max()
