"""Depth-muP against its table of factors and what its theory predicts of widths and depths."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sartor.core.errors import SpecError, TrainingError
from sartor.core.protocols import Role
from sartor.models.network import build, spec_of
from sartor.models.vision.preact_resnet import Scaling, preact_resnet_cifar
from sartor.models.vision.residual_mlp import ResidualMLP
from sartor.training.classification import groups_for, spec_for
from sartor.training.optimisers import SGD, AdamW, Lamb
from sartor.training.parametrization import DepthMup, Standard
from sartor.training.recipe import Recipe, recipe

MLP = ResidualMLP(64, 4, channels=1, size=(8, 8))
ADAM = Recipe(optimiser=AdamW(), lr=1e-2, parametrization=DepthMup(base_depth=4, base_width=64))
TABLE = {  # kind, block: factors under AdamW and SGD of a network 16 times as deep and 4 times as wide
    ("input", -1): (1, 4),
    ("norm", -1): (1, 4),
    ("hidden", -1): (1 / 4, 1),
    ("hidden", 3): (1 / 16, 1),
    ("bias", 3): (1 / 4, 4),
    ("norm", 3): (1 / 4, 4),
}


def test_factors_are_those_of_the_table():
    wide = {"head.weight": Role("readout", -1, 256, 64), "head.bias": Role("bias", -1, 256, 64)}
    wide |= {f"{kind}{block}": Role(kind, block, 256, 64) for kind, block in TABLE}
    rule = DepthMup(base_depth=4, base_width=64)
    for optimiser, column in ((AdamW(), 0), (SGD(), 1)):
        factors = rule.lr_factors(wide, optimiser)
        assert factors["head.weight"] == (1, 4)[column]
        assert factors["head.bias"] == 1
        for (kind, block), expected in TABLE.items():
            assert factors[f"{kind}{block}"] == expected[column]


def test_the_limit_of_an_equation_has_the_whole_factor_on_branches():
    roles = {"head.weight": Role("readout", -1, 64, 16), "w": Role("hidden", 0, 64, 16)}
    rule = DepthMup(base_depth=4, alpha=1.0)
    assert rule.lr_factors(roles, AdamW())["w"] == 1
    assert rule.lr_factors(roles, SGD())["w"] == 4
    assert rule.spec_for(MLP.replace(depth=16)).branch_scale == 1 / 4


def test_a_recipe_gives_factors_to_spec_and_groups():
    spec = spec_for(ADAM.replace(weight_decay=0.1), MLP.replace(width=256, depth=64))
    assert (spec.branch_scale, spec.readout_scale) == (2 / 8, 1 / 4)
    assert spec_for(ADAM, spec) == spec
    groups = groups_for(ADAM.replace(weight_decay=0.1))({"model": build(spec)})
    found = [(group.lr_factor, group.weight_decay) for group in groups]
    assert found == [(1 / 16, 1.6), (1.0, 0.1), (1.0, 0.0)]  # weights of blocks, of ends, a bias


def test_the_base_network_is_as_it_was():
    assert spec_for(ADAM, MLP) == MLP
    network = build(MLP)
    assert {group.lr_factor for group in groups_for(ADAM)({"model": network})} == {1.0}
    assert Standard().lr_factors(network.roles(), Lamb()) == dict.fromkeys(network.roles(), 1.0)


def test_what_the_theory_does_not_give_is_refused():
    with pytest.raises(SpecError, match="not for updates scaled layer by layer"):
        recipe("rsb-a3").replace_from(["parametrization.kind=depth-mup"])
    with pytest.raises(SpecError, match="alpha must be from"):
        DepthMup(alpha=0.0)
    plain = preact_resnet_cifar(20, shortcut=Scaling(shortcut=0.0))
    with pytest.raises(TrainingError, match="no residual branches"):
        DepthMup().spec_for(plain)


def test_every_classifier_is_a_readout():
    spec = spec_of("levit_128s", widths=(16, 24), depths=(1, 1), heads=(2, 3), key=8, size=(32, 32))
    roles = build(spec, device="meta").roles()
    factors = DepthMup(base_width=6).lr_factors(roles, SGD())
    assert [factors[f"{name}.linear.{leaf}"] for name in ("head", "head_dist") for leaf in ("weight", "bias")] == [
        4, 1, 4, 1,
    ]  # fmt: skip


def test_a_network_that_knows_no_factors_is_refused():
    with pytest.raises(TrainingError, match="a dla network has no factors on branches and readout"):
        DepthMup().spec_for(spec_of("dla60"))


def growth(depth, **changes):
    """|x_L|^2 / |x_0|^2 at initialisation with unit constant."""
    torch.manual_seed(0)
    spec = ResidualMLP(512, depth, channels=1, size=(16, 16), **changes)
    spec = DepthMup(base_depth=depth, constant=1.0).spec_for(spec)
    with torch.no_grad():
        states = build(spec).features(torch.randn(16, 1, 16, 16), ["stem", f"block{depth}"])
    first, last = (state.square().sum().item() for state in states.values())
    return last / first


@pytest.mark.parametrize("depth", [4, 64])
@pytest.mark.parametrize(
    ("act", "center", "share"),
    [("identity", False, 1), ("relu", True, 1 / 2 - 1 / (2 * math.pi)), ("abs", True, 1 - 2 / math.pi)],
)
def test_activations_grow_as_predicted(depth, act, center, share):
    assert growth(depth, act=act, center=center) == pytest.approx((1 + share / depth) ** depth, rel=0.05)


def change_of_one_step(depth, parametrization):
    """How far a step of Adam moves what the last block gives, per coordinate."""
    torch.manual_seed(0)
    chosen = Recipe(optimiser=AdamW(eps=1e-12), parametrization=parametrization)
    spec = DepthMup(base_depth=1).spec_for(ResidualMLP(128, depth, channels=1, size=(8, 8)))
    network = build(spec)
    images, labels, last = torch.randn(32, 1, 8, 8), torch.randint(10, (32,)), f"block{depth}"
    before = network.run(images, stop=last).detach()
    groups = groups_for(chosen)({"model": network})
    optimiser = chosen.optimiser([{"params": g.parameters, "lr": 1e-4 * g.lr_factor} for g in groups])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("blocks"))
    F.cross_entropy(network(images), labels).backward()
    optimiser.step()
    return (network.run(images, stop=last).detach() - before).abs().mean().item()


@pytest.mark.parametrize(("parametrization", "slope"), [(DepthMup(), 0.0), (Standard(), 0.5)])
def test_one_step_moves_deep_networks_as_far_as_shallow(parametrization, slope):
    depths = [4, 16, 64]
    moved = [change_of_one_step(depth, parametrization) for depth in depths]
    assert np.polyfit(np.log(depths), np.log(moved), 1)[0] == pytest.approx(slope, abs=0.1)
