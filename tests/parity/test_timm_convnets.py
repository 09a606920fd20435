"""timm's ResNets, ResNeXts, Wide ResNets and pre-activated ResNets: strict loading and equal logits.

Norms' scales, shifts and statistics are random, so that a swapped or forgotten one shows.
"""

import re

import pytest
import torch

from sartor.models.network import build, count, list_models, spec_of
from sartor.testing.backbones import randomise_norms

NAMES = [
    *("resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
    *("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnetv2_18", "resnetv2_34", "resnetv2_50", "resnetv2_101", "resnetv2_152"),
]
QUICK = ("resnet18", "resnet50", "resnext50_32x4d", "resnetv2_18", "resnetv2_50")
ODD = 97


def marked(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def images(side, batch=1):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def pair(timm, name, dtype):
    """timm's network with random norms, and ours with its weights."""
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    randomise_norms(theirs, images(64, 4))
    theirs = theirs.to(dtype)
    ours = build(spec_of(name), device="meta").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


@torch.inference_mode()
def difference(theirs, ours, side):
    x = images(side).to(next(ours.parameters()).dtype)
    expected = theirs(x)
    assert expected.std() > 0.1
    return (ours(x) - expected).abs().max().item(), expected.abs().max().item()


@pytest.mark.parametrize("name", marked(NAMES, QUICK))
def test_logits_at_an_odd_size(timm, name):
    theirs, ours = pair(timm, name, torch.float64)
    assert difference(theirs, ours, ODD)[0] < 1e-5
    error, scale = difference(theirs.float(), ours.float(), ODD)
    assert error < 1e-3 * scale


@pytest.mark.parametrize("name", marked(NAMES, ("resnet18", "resnetv2_18")))
def test_logits_at_224(timm, name):
    theirs, ours = pair(timm, name, torch.float64)
    assert difference(theirs, ours, 224)[0] < 1e-5
    error, scale = difference(theirs.float(), ours.float(), 224)
    assert error < 1e-3 * scale


@pytest.mark.parametrize("name", NAMES)
def test_parameters(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert count(spec_of(name)).value("params") == sum(p.numel() for p in theirs.parameters())


def test_training_steps_are_equal(timm):
    """One step in training mode: gradients and running statistics too."""
    theirs, ours = pair(timm, "resnetv2_18", torch.float64)
    ours.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    for net in (theirs.train(), ours.train()):
        net(images(64, 4).double()).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-12, msg=name)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_every_variant_of_timm_is_here(timm):
    """Names of a family, depth and widths alone; letters after them mark other stems, norms or attention."""
    plain = re.compile(r"resnet\d+|resnext\d+_\d+x\d+d|wide_resnet\d+_\d+|resnetv2_\d+")
    assert {name for name in timm.list_models("*res*") if plain.fullmatch(name)} == set(NAMES)
    assert set(NAMES) <= set(list_models())
