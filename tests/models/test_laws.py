"""Every named network against the laws of a backbone: in a thin form, and at full width with ``-m slow``."""

import pytest
import torch

from sartor.models.network import count, list_models, spec_of
from sartor.testing.backbones import check_backbone

MEMORY = 150e6  # parameters; of larger networks only the counts are checked at full width, without weights


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", list_models())
def test_thin_networks(name, thin):
    check_backbone(thin(spec_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_full_networks(name, thin):
    spec = spec_of(name)
    if count(spec).value("params") > MEMORY:
        pytest.skip("too large to hold; test_figures counts it without weights")
    # norms need some tokens of the last map to make statistics of; reductions of the grid must come out even
    side = {"levit": 128, "vit-resnas": 56}.get(spec.kind, 32)
    check_backbone(spec.replace(size=(side, side)))


SCALED = (
    "resnet18", "resnext50_32x4d", "resnetv2_50", "wrn40_2_b131_cifar", "regnety_032", "residual_mlp4_64", "resnetrs50",
    "seres2net50_26w_4s", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s", "vit_resnas_tiny",
)  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_factors_on_branches_and_readout(name, thin):
    check_backbone(thin(spec_of(name)).replace(branch_scale=0.3, readout_scale=0.5))
