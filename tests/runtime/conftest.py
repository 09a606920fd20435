import pytest
import torch
from serving import NAMES, PREPROCESS, SPEC, as_images, pictures, randomise

from sartor.models.network import build
from sartor.runtime import ImageClassifier
from sartor.runtime.export import export


@pytest.fixture(scope="session")
def backbone():
    network = randomise(build(SPEC))
    with torch.no_grad():  # centre the logits, so that no class wins everywhere
        x = torch.from_numpy(as_images(pictures(64))).float() / 255
        normalised = (x - torch.tensor(PREPROCESS.mean).view(3, 1, 1)) / torch.tensor(PREPROCESS.std).view(3, 1, 1)
        network.fc.weight.mul_(10)
        network.fc.bias.sub_(network(normalised).mean(0))
    return network


@pytest.fixture(scope="session")
def classifier(backbone):
    return ImageClassifier.of(backbone, PREPROCESS, NAMES)


@pytest.fixture(scope="session")
def exported(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(classifier, folder, as_images(pictures(40)))
    return folder


@pytest.fixture(scope="session")
def mirrored(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored") / "model"
    export(ImageClassifier.of(backbone, PREPROCESS, NAMES, views=2), folder, as_images(pictures(40)))
    return folder
