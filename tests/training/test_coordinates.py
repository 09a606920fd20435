"""The coordinate check tells parametrizations apart, and diversity is what theory says of random networks."""

import pytest
import torch

from sartor.core.errors import SpecError
from sartor.models.network import build, spec_of
from sartor.models.scaling import deeper, wider
from sartor.models.vision.residual_mlp import ResidualMLP
from sartor.training.coordinates import coordinate_check, diversity, slope
from sartor.training.optimisers import AdamW
from sartor.training.parametrization import DepthMup, Standard, base_of
from sartor.training.recipe import Recipe

MLP = ResidualMLP(32, 4, channels=1, size=(8, 8))
ADAM = Recipe(optimiser=AdamW(), lr=1e-3)


def test_depth_mup_moves_all_sizes_alike_and_the_standard_does_not():
    powers = {}
    for parametrization in (Standard(), base_of(MLP)):
        chosen = ADAM.replace(parametrization=parametrization)
        found = coordinate_check(MLP, chosen, (1, 4, 16), (1, 4, 16), steps=2, seeds=2)
        powers[parametrization.kind] = [slope(networks, "moved") for networks in found.values()]
    assert max(map(abs, powers["depth-mup"])) < 0.25
    assert min(powers["standard"]) > 0.4


def test_deeper_and_wider():
    spec = spec_of("resnext29_8x64d_cifar")
    assert [s.depth for s in deeper(spec, 2).stages] == [6, 6, 6]
    doubled = wider(spec, 2)
    assert [s.width for s in doubled.stages] == [2 * s.width for s in spec.stages]
    assert [s.block.groups for s in doubled.stages] == [s.block.groups for s in spec.stages]


def test_layers_of_depth_mup_differ_and_repeated_layers_do_not():
    torch.manual_seed(0)
    images = torch.randn(8, 1, 8, 8)
    deep = MLP.replace(width=256, depth=256)
    walk = build(DepthMup(base_depth=256, constant=1.0).spec_for(deep))
    assert diversity(walk, images) == pytest.approx(0.5, abs=0.05)
    smooth = build(DepthMup(base_depth=256, constant=1.0, alpha=1.0).spec_for(deep))
    for block in smooth.blocks:
        block.load_state_dict(smooth.blocks[0].state_dict())
    assert diversity(smooth, images) == pytest.approx(0.0, abs=0.1)


def test_diversity_needs_a_deep_network():
    with pytest.raises(SpecError, match="diversity needs 16 blocks"):
        diversity(build(MLP), torch.randn(2, 1, 8, 8))
