"""Transformers go through the one training loop in both precisions, and end better than they began."""

import pytest
import torch
from tiny_training import RECIPE, Images, TinyTask, weights_hash
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.data.preprocess import Preprocess
from sartor.models.network import build, spec_of
from sartor.training.classification import train

NETWORKS = {
    "deit_tiny_patch16_224": {"width": 24, "depth": 2, "patch": 8},
    "swin_tiny_patch4_window7_224": {"width": 12, "depths": (2, 2), "heads": (1, 2), "window": 3},
    "levit_128s": {"widths": (16, 24), "depths": (1, 1), "heads": (2, 3), "key": 8},
    "vit_res_tiny": {
        "widths": (16, 24),
        "head_dims": (8, 8),
        "heads": ((2,), (3,)),
        "hidden": ((32,), (48,)),
        "patch": 4,
        "mid": 16,
    },
}


class LargerTask(TinyTask):
    preprocess = Preprocess(3, 32, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.25))

    def split(self, name):
        return Images(side=32)


def network(name, size=32):
    torch.manual_seed(0)
    return build(spec_of(name, classes=3, size=(size, size), **NETWORKS[name]))


@torch.no_grad()
def loss(net):
    batch, preprocess = Images(side=32).batch(range(40)), LargerTask.preprocess
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return F.cross_entropy(net((batch["image"] / 255 - mean) / std), batch["label"]).item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_loss(name, precision):
    recipe = RECIPE.replace(precision=precision, epochs=8.0)
    trained = train(network(name), LargerTask(), recipe, seed=1).network
    assert loss(trained) < min(1.0, loss(network(name).eval()))


def test_training_repeats():
    recipe = RECIPE.replace(precision="float32", epochs=1.0)
    nets = [train(network("swin_tiny_patch4_window7_224"), LargerTask(), recipe, seed=1).network for _ in range(2)]
    assert weights_hash(nets[0]) == weights_hash(nets[1])


def test_training_at_another_size_is_refused_in_one_line():
    with pytest.raises(SpecError, match="vit: built for images of 16x16 and given 32x32"):
        train(network("deit_tiny_patch16_224", 16), LargerTask(), RECIPE.replace(precision="float32"))
