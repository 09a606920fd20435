"""The maps of a pyramid against timm's ``features_only=True``, with the same weights."""

import pytest
import torch

from sartor import Pyramid
from sartor.models.network import build, spec_of
from sartor.testing.backbones import randomise_norms

NETWORKS = {"resnet50": 64, "regnety_002": 64, "res2net50_26w_4s": 64, "swin_tiny_patch4_window7_224": 64}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_timms(timm, name):
    side = NETWORKS[name]
    torch.manual_seed(0)
    sized = {"img_size": side} if name.startswith("swin") else {}
    whole = timm.create_model(name, **sized)
    randomise_norms(whole, torch.randn(4, 3, side, side))
    info = timm.create_model(name, features_only=True, **sized).feature_info
    wanted = [i for i, stride in enumerate(info.reduction()) if stride >= 4]
    theirs = timm.create_model(name, features_only=True, out_indices=wanted, **sized).eval().double()
    weights = {
        key.replace(".", "_", 1) if key.startswith("layers.") else key: v for key, v in whole.state_dict().items()
    }
    kept = theirs.state_dict()
    theirs.load_state_dict({key: weights[key] for key in kept}, strict=True)
    spec = spec_of(name, size=(side, side)) if sized else spec_of(name)
    ours = build(spec, device="meta").eval()
    state = {key: value for key, value in whole.state_dict().items() if key in ours.state_dict()}
    ours.load_state_dict(state, strict=True, assign=True)
    maps = Pyramid(ours.double())
    assert list(maps.channels) == theirs.feature_info.channels()
    assert list(maps.strides) == theirs.feature_info.reduction()
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        for mine, other in zip(maps(x), theirs(x), strict=True):
            other = other.permute(0, 3, 1, 2) if sized else other
            assert mine.shape == other.shape
            assert (mine - other).abs().max() < 1e-5
