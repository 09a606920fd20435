"""timm's ResNet-RS: the same state-dict keys and shapes for all, equal logits and gradients for the smallest."""

import pytest
import torch

from sartor.models.network import build, list_models, spec_of
from sartor.testing.backbones import randomise_norms

NAMES = list_models("resnetrs*")
QUICK = ("resnetrs50",)
ODD = (97, 65)


def pair(timm, name):
    """timm's network in float64 with random norms, and ours with its weights."""
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    randomise_norms(theirs, torch.randn(4, 3, 64, 64))
    theirs = theirs.double()
    ours = build(spec_of(name), device="meta").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_logits_are_equal(timm, name):
    theirs, ours = pair(timm, name)
    with torch.inference_mode():
        for size in (ODD, (160, 160)):
            x = torch.randn(1, 3, *size, dtype=torch.float64)
            expected = theirs(x)
            assert expected.std() > 0.01
            assert (ours(x) - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = build(spec_of(name), device="meta")
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (theirs, ours)]
    assert shapes[0] == shapes[1]


def test_training_steps_are_equal(timm):
    theirs, ours = pair(timm, "resnetrs50")
    ours = build(spec_of("resnetrs50", dropout=0.0), device="meta")
    ours.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    x = torch.randn(3, 3, 48, 48, dtype=torch.float64)
    for net in (theirs.train(), ours.train()):
        net(x).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-7, atol=1e-10, msg=name)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_every_variant_of_timm_is_here(timm):
    assert set(timm.list_models("resnetrs*")) == set(NAMES)
