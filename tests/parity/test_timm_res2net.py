"""timm's Res2Nets, DLA-60 among their frames: strict loading and equal logits.

Of those that are deeper or wider keys and shapes alone, unless slow tests are wanted.
"""

import re

import pytest
import torch

from sartor.models.network import build, count, list_models, spec_of
from sartor.testing.backbones import randomise_norms

NAMES = (
    *("res2net50_48w_2s", "res2net50_26w_4s", "res2net50_14w_8s", "res2net50_26w_6s", "res2net50_26w_8s"),
    *("res2net101_26w_4s", "res2next50", "res2net50d", "res2net101d"),
    *("dla60", "dla60_res2net", "dla60_res2next"),
)
QUICK = ("res2net50_26w_4s", "res2next50", "res2net50d", "dla60_res2net", "dla60_res2next")
SIDES = (97, 224)
DLA_SIDES = (96, 160)  # timm's takes multiples of 32 alone


def images(side, batch=1):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def their_network(timm, name):
    if not name.startswith("se"):
        return timm.create_model(name)
    gate = timm.layers.SEModule
    return timm.create_model(name.removeprefix("se"), block_args={"scale": 4, "attn_layer": gate})


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in (*NAMES, "seres2net50_26w_4s")]
)
def test_logits(timm, name):
    torch.manual_seed(0)
    theirs = their_network(timm, name)
    randomise_norms(theirs, images(64, 4))
    ours = build(spec_of(name), device="meta").eval()
    theirs = theirs.double()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    sides = DLA_SIDES if name.startswith("dla") else SIDES
    for side in sides:
        expected = theirs(images(side).double())
        assert expected.std() > 0.1
        assert (ours(images(side).double()) - expected).abs().max() < 1e-5
    x = images(sides[0])
    expected = theirs.float()(x)
    assert (ours.float()(x) - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", [*NAMES, "seres2net50_26w_4s"])
def test_keys_shapes_and_parameters(timm, name):
    with torch.device("meta"):
        theirs = their_network(timm, name)
    ours = build(spec_of(name), device="meta")
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    assert count(spec_of(name)).value("params") == sum(p.numel() for p in theirs.parameters())


def test_training_steps_are_equal(timm):
    """One step in training mode: gradients and running statistics too."""
    torch.manual_seed(0)
    theirs = timm.create_model("res2net50d", layers=(2, 1, 1, 1)).double()
    spec = spec_of("res2net50d")
    stages = tuple(s.__class__(s.block, d, s.width, s.stride) for s, d in zip(spec.stages, (2, 1, 1, 1), strict=True))
    ours = build(spec.replace(stages=stages)).double()
    ours.load_state_dict(theirs.state_dict())
    for net in (theirs.train(), ours.train()):
        net(images(64, 4).double()).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-12, msg=name)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_every_variant_of_timm_is_here(timm):
    named = re.compile(r"res2ne[tx]t?\d+(d|_\d+w_\d+s)?|dla60(_res2ne[tx]t?)?")
    known = [*timm.list_models("res2*"), *timm.list_models("dla*")]
    assert {name for name in known if named.fullmatch(name)} == set(NAMES)
    assert set(NAMES) <= set(list_models())
