"""Random views, and the optimiser, targets and head that pretraining and fine-tuning brought."""

from __future__ import annotations

import colorsys
import copy
import math

import numpy as np
import pytest
import torch
from tiny_training import PREPROCESS, RECIPE, SPEC, Images
from torch import nn

from sartor.core.errors import SpecError
from sartor.models.network import build
from sartor.training.augment.draws import Draws
from sartor.training.augment.views import Views, blurred, hue_turned
from sartor.training.classification import plan_for, spec_for
from sartor.training.loop import run
from sartor.training.optimisers import Lars

NOTHING = Views(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0, vertical=0, colour=0, grey=0, blur=0)


def pictures(n=6, side=8, channels=3):
    return np.random.default_rng(5).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def view(views, images, number=0, keys=None):
    draw = Draws(3, 1, np.arange(len(images)) if keys is None else np.array(keys))
    return views.of(images, draw, number, PREPROCESS, 8)


def plain(values):
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in (PREPROCESS.mean, PREPROCESS.std))
    return values * std + mean


class TestViews:
    def test_with_nothing_to_do_the_images_are_normalised(self):
        images = pictures()
        assert torch.allclose(plain(view(NOTHING, images)), torch.from_numpy(images).float(), atol=1e-3)

    def test_flips_both_ways(self):
        images = pictures()
        turned = plain(view(Views(**{**vars(NOTHING), "flip": 1.0, "vertical": 1.0}), images))
        assert torch.allclose(turned, torch.from_numpy(images).float().flip(2, 3), atol=1e-3)

    def test_grey_has_equal_channels(self):
        grey = plain(view(Views(**{**vars(NOTHING), "grey": 1.0}), pictures()))
        assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-3)

    def test_two_views_differ_and_depend_on_the_key_alone(self):
        images = pictures()
        first, second = view(Views(), images), view(Views(), images, 1)
        assert not torch.allclose(first, second)
        alone = view(Views(blur=0), images[3:4], keys=[3])
        assert torch.equal(alone[0], view(Views(blur=0), images)[3])

    def test_one_channel_keeps_its_colour(self):
        images = pictures(channels=1)
        one = type(PREPROCESS)(1, 8)
        made = Views().of(images, Draws(0, 0, np.arange(6)), 0, one, 8)
        assert made.shape == (6, 1, 8, 8)

    def test_hue_is_that_of_hsv(self):
        images = torch.rand(4, 3, 2, 2, dtype=torch.float64) * 255
        images[3] = 77.0  # grey has no hue
        turn = np.array([0.1, -0.3, 0.5, 0.25])
        turned = hue_turned(images, turn)
        for i, by in enumerate(turn):
            for y in range(2):
                for x in range(2):
                    h, s, v = colorsys.rgb_to_hsv(*(images[i, :, y, x] / 255).tolist())
                    expected = colorsys.hsv_to_rgb((h + by) % 1.0, s, v)
                    assert (turned[i, :, y, x] / 255).tolist() == pytest.approx(expected, abs=1e-9)

    def test_blur_is_a_gaussian_mean(self):
        image = torch.zeros(2, 1, 9, 9, dtype=torch.float64)
        image[:, 0, 4, 4] = 1.0
        out = blurred(image, np.array([0.5, 1.0]))
        weights = [math.exp(-0.5 * k * k) for k in range(-3, 4)]
        assert out[1, 0, 4, 5].item() == pytest.approx(weights[3] * weights[4] / sum(weights) ** 2, abs=1e-12)
        assert out.sum((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)

    def test_wrong_values(self):
        with pytest.raises(SpecError, match=r"views\.scale"):
            Views(scale=(0.5, 0.2))
        with pytest.raises(SpecError, match="probability"):
            Views(blur=1.5)


def test_lars_by_its_definition():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
    w, b = weight.detach().clone().double(), bias.detach().clone().double()
    momentum = {"w": torch.zeros_like(w), "b": torch.zeros_like(b)}
    optimiser = Lars()([{"params": [weight], "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0.0}])
    for step in range(4):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 / (step + 1)
        weight.grad, bias.grad = torch.randn(3, 4), torch.randn(3)
        g = weight.grad.double()
        trust = 0.001 * w.norm() / (g.norm() + 0.01 * w.norm())
        momentum["w"] = 0.9 * momentum["w"] + trust * (g + 0.01 * w)
        momentum["b"] = 0.9 * momentum["b"] + bias.grad.double()
        w, b = w - 0.5 / (step + 1) * momentum["w"], b - 0.5 / (step + 1) * momentum["b"]
        optimiser.step()
    assert torch.allclose(weight.double(), w, atol=1e-6)
    assert torch.allclose(bias.double(), b, atol=1e-6)


def test_the_head_alone_trains():
    recipe = RECIPE.replace(trains="head", ema=0.0, drop_path=0.0, dropout=0.0)
    torch.manual_seed(0)
    network = build(spec_for(recipe, SPEC))
    before = copy.deepcopy(network.state_dict())
    trained = run(plan_for(recipe, network, Images(), PREPROCESS, seed=1)).network
    changed = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
