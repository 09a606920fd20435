"""Maps by stride: what they are, of every kind of backbone, and that no step is run that nobody asked for."""

import pytest
import torch

from sartor import Pyramid
from sartor.core.errors import SpecError
from sartor.models.network import build, spec_of

SIDES = {"levit": 128, "swin": 64}


def backbone(name, **changes):
    return build(spec_of(name, **changes)).eval()


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "hardnet39ds", "dla60_res2net", "resnetv2_18"])
def test_four_strides(name):
    net = backbone(name)
    maps = Pyramid(net)
    with torch.no_grad():
        out = maps(torch.randn(2, 3, 96, 64))
    assert maps.strides == (4, 8, 16, 32)
    for x, width, stride in zip(out, maps.channels, maps.strides, strict=True):
        assert x.shape == (2, width, 96 // stride, 64 // stride)


def test_swin_has_maps_before_its_last_norm():
    spec = spec_of("swin_tiny_patch4_window7_224", size=(64, 64))
    maps = Pyramid(build(spec).eval())
    assert maps.channels == (96, 192, 384, 768)
    assert maps.names[-1] == "stage4.2"


def test_tokens_become_maps_without_the_class_token():
    net = backbone("deit_tiny_patch16_224", size=(32, 48))
    maps = Pyramid(net, (16,))
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        (out,) = maps(x)
        tokens = net.run(x, stop="stage1.12")
    assert out.shape == (1, 192, 2, 3)
    assert torch.equal(out[0, :, 1, 2], tokens[0, 1 + 1 * 3 + 2])


def test_tokens_of_several_strides():
    maps = Pyramid(backbone("levit_128s", size=(128, 128)), (16, 32, 64))
    with torch.no_grad():
        assert [tuple(m.shape[2:]) for m in maps(torch.randn(1, 3, 128, 128))] == [(8, 8), (4, 4), (2, 2)]


def test_missing_strides_and_backbones_without_maps():
    with pytest.raises(SpecError, match="no map of stride 4; there are maps of strides 16"):
        Pyramid(backbone("deit_tiny_patch16_224", size=(32, 32)))
    with pytest.raises(SpecError, match="maps of strides none"):
        Pyramid(backbone("residual_mlp4_64"), (1,))


def test_steps_after_the_last_map_are_not_run():
    net = backbone("resnet18")
    seen = []
    advance = net.advance
    net.advance = lambda step, x: (seen.append(step), advance(step, x))[1]
    with torch.no_grad():
        Pyramid(net, (8, 4))(torch.randn(1, 3, 64, 64))
    assert seen[-1] == "stage2.2"
