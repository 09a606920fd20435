"""Small networks and pictures for the tests of serving."""

import numpy as np
import torch

from sartor.data.preprocess import Preprocess
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.vision.resnet import Basic

NAMES = tuple(f"class {letter}" for letter in "abcdefg")
PREPROCESS = Preprocess(3, 24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
SPEC = AnyNet(Stem(8), (Stage(Basic(), 1, 8), Stage(Basic(), 1, 16, 2)), classes=len(NAMES), size=(24, 24))


def randomise(network, seed=0):
    """Batch norms with statistics of their own, and a classifier that tells images apart."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


def pictures(count, size=24, channels=3, seed=0):
    """uint8 (count, size, size, channels): coloured gradients, so that networks answer them differently."""
    rng = np.random.default_rng(seed)
    slopes, offset = rng.normal(0, 6, (2, count, 1, 1, channels)), rng.uniform(0, 255, (count, 1, 1, channels))
    steps = np.arange(size) - size / 2
    values = offset + slopes[0] * steps[:, None, None] + slopes[1] * steps[:, None]
    return np.clip(values + rng.normal(0, 20, values.shape), 0, 255).astype(np.uint8)


def as_images(raw):
    return np.ascontiguousarray(np.asarray(raw).transpose(0, 3, 1, 2))
