import numpy as np
import pytest

from sartor.core.errors import SpecError
from sartor.search.design_space_named import named_space, space_names
from sartor.search.spaces import families, why_unsuited


@pytest.mark.parametrize(
    ("name", "image"),
    [
        (n, i)
        for n in space_names()
        for i in ((3, 224, 224), (1, 32, 32))
        if n not in families() or not why_unsuited(n, i)
    ],
)
def test_every_named_space_draws_networks_for_the_images(name, image):
    spec = named_space(name, image, 7).spec(named_space(name, image, 7).sample(np.random.default_rng(0)))
    assert (spec.channels, *spec.size, spec.classes) == (*image, 7)
    assert spec.tally().params > 0


def test_names_are_the_papers_and_the_families():
    assert {"regnetx", "regnety", "anynet_a", "anynet_e", "resnet", "wide_resnet"} <= {*space_names()}
    with pytest.raises(SpecError, match="unknown design space 'regnet'"):
        named_space("regnet", (3, 32, 32), 10)


def test_y_blocks_are_gated_and_small_images_get_the_small_stem():
    y, x = (named_space(f"regnet{letter}", (3, 32, 32), 10) for letter in "yx")
    config = y.sample(np.random.default_rng(1))
    assert {stage.block.se for stage in y.spec(config).stages} == {0.25}
    assert {stage.block.se for stage in x.spec(config).stages} == {0.0}
    assert (y.spec(config).stem.stride, y.spec(config).stem.width) == (1, 16)
    assert named_space("regnetx", (3, 224, 224), 10).spec(config).stem.stride == 2


def test_ranges_of_cost_hold():
    space = named_space("regnetx", (3, 224, 224), 1000, {"macs": (2e8, 4e8), "params": (0, 6e6)})
    for seed in range(5):
        cost = space.count(space.sample(np.random.default_rng(seed)))
        assert 2e8 <= cost.value("macs") <= 4e8
        assert cost.value("params") <= 6e6
