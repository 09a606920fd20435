import numpy as np
import pytest
import torch

from sartor.core.budget import Budget
from sartor.core.errors import ImpossibleBudget, SpecError
from sartor.models.network import build
from sartor.search.spaces import check_families, families, family_space, rounded, why_unsuited
from sartor.search.spaces_attention import ATTENTION
from sartor.search.spaces_near import near, nearest, smallest, widened
from sartor.testing.spaces import check_space

SMALL, DIGITS, LARGE = (3, 32, 32), (1, 8, 8), (3, 224, 224)
CIFAR = Budget.parse("params<300k, macs<25M")


SUITED = {image: [f for f in families() if not why_unsuited(f, image)] for image in (DIGITS, SMALL, LARGE)}


def suited(*images):
    """Every pair of a family and an image that suits it."""
    return [(family, image) for image in images for family in families() if not why_unsuited(family, image)]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("family", "image"), [*suited(SMALL), ("levit", LARGE)])
def test_laws(family, image):
    check_space(family_space(family, image, 10), seeds=range(3))


@pytest.mark.parametrize(
    ("family", "image"),
    suited((1, 1, 1), DIGITS, (1, 28, 28), SMALL, (3, 64, 48), (3, 64, 64), (3, 96, 96), LARGE, (3, 500, 333)),
)
def test_last_maps_suit_the_image(family, image):
    space = family_space(family, image, 7)
    for seed in range(5):
        spec = space.spec(space.sample(rng(seed)))
        assert (spec.channels, spec.size, spec.classes) == (image[0], image[1:], 7)
        *_, last, _ = build(spec, device="meta").seams
        side = min(image[1:]) // last.ports[0].stride
        if family == "swin":  # merging fills odd sides up
            side = -(-min(image[1:]) // last.ports[0].stride)
        assert 1 <= min(image[1:]) < 4 or 2 <= side <= 14
        if image in (SMALL, LARGE, DIGITS) and family != "vit":
            assert (2 if image == DIGITS or family == "levit" else 4) <= side <= 8


@pytest.mark.parametrize(("family", "image"), [*suited(SMALL), ("levit", (3, 64, 64))])
def test_drawn_networks_run_and_count(family, image):
    space = family_space(family, image, 10)
    for seed in range(3):
        config = near(space, CIFAR, 1.0, rng(seed))
        network = build(space.spec(config)).eval()
        assert network(torch.zeros(2, *image)).shape == (2, 10)
        if family != "levit":  # its costs are those of the deployed form
            assert sum(p.numel() for p in network.parameters()) == space.count(config).value("params")


@pytest.mark.parametrize(
    ("family", "image", "budget", "use"),
    [(f, DIGITS, "params<10k", 0.75) for f in SUITED[DIGITS]]
    + [(f, SMALL, "params<300k", 0.9) for f in SUITED[SMALL]]
    + [(f, SMALL, "params<300k, macs<25M", 0.85) for f in SUITED[SMALL]]
    + [(f, LARGE, "macs<4G", 0.9) for f in SUITED[LARGE]],
)
def test_near_fills_the_budget_and_stays_inside(family, image, budget, use):
    space, limits = family_space(family, image, 10), Budget.parse(budget)
    fullest = []
    for seed in range(20):
        cost = space.count(near(space, limits, 0.98, rng(seed)))
        assert limits.distance(cost) < 0.98
        fullest.append(limits.distance(cost) / 0.98)
    assert np.median(fullest) > use


def test_near_takes_measured_and_no_bounds():
    space = family_space("resnet", DIGITS, 10)
    assert near(space, Budget.parse("latency<1ms"), 0.9, rng(3)) == space.sample(rng(3))
    assert near(space, Budget.parse("latency<1ms, params<9k"), 1.0, rng(3)) == near(
        space, Budget.parse("params<9k"), 1.0, rng(3)
    )


def test_near_is_a_function_of_the_generator():
    space = family_space("regnetx", SMALL, 10)
    assert near(space, CIFAR, 0.9, rng(5)) == near(space, CIFAR, 0.9, rng(5))


def test_widened_is_the_widest():
    space = family_space("resnet", SMALL, 10)
    for seed in range(20):
        config = widened(space, space.sample(rng(seed)), CIFAR)
        wider = space.config({**config, "width": config["width"] + 1})
        assert CIFAR.verdict(space.count(config)) == "in"
        assert CIFAR.verdict(space.count(wider)) == "out"


def test_what_trains_well_is_common_near_its_budget():
    """A 4x4 stem of stride 2 and three stages of few basic blocks, 48 to 88 wide, is a strong net for 300k."""
    space = family_space("resnet", SMALL, 10)
    wanted = {
        "stem": "4x4/2",
        "stages": 3,
        "depth1": 1,
        "depth2": 1,
        "depth3": 1,
        "growth2": 1.7,
        "growth3": 1.1,
        "width": 48,
    }
    spec = space.spec(space.config(wanted))
    assert [stage.width for stage in spec.stages] == [48, 80, 88]
    drawn = [near(space, CIFAR, 0.98, rng(seed)) for seed in range(200)]
    strided = [c for c in drawn if c["stem"] != "3x3/1" and c["stages"] == 3]
    shallow = [c for c in strided if c["depth1"] + c["depth2"] + c["depth3"] <= 5]
    assert len(strided) > 120
    assert len(shallow) > 70
    full = [c for c in drawn if space.count(c).value("params") > 200e3 and space.count(c).value("macs") > 10e6]
    assert len(full) > 120


@pytest.mark.parametrize("family", SUITED[SMALL])
def test_draws_near_a_budget_differ(family):
    space = family_space(family, SMALL, 10)
    drawn = {near(space, CIFAR, 0.95, rng(seed)) for seed in range(30)}
    assert len(drawn) >= (12 if family in ATTENTION else 28)  # transformers have few genes, and one patch suits here


@pytest.mark.parametrize(("family", "image"), suited(DIGITS, SMALL, LARGE))
@pytest.mark.parametrize("field", ["params", "macs"])
def test_nothing_drawn_is_smaller_than_the_smallest(family, image, field):
    space = family_space(family, image, 10)
    least = space.count(smallest(space, field)).value(field)
    narrowest = next(gene for gene in space.genes if gene.name == "width").at(0)
    for seed in range(200):
        drawn = space.sample(rng(seed))
        assert space.count(space.config({**drawn, "width": narrowest})).value(field) >= least


def test_an_impossible_budget_names_the_nearest():
    space = family_space("resnet", DIGITS, 10)
    least = space.count(smallest(space)).value("params")
    with pytest.raises(
        ImpossibleBudget, match=rf"no resnet is within params<100; the nearest possible has params {least:.0f}"
    ):
        near(space, Budget.parse("params<100"), 1.0, rng())
    assert space.count(nearest(space, Budget.parse("params<100"))).value("params") == least


def test_a_budget_only_the_smallest_meets_is_met():
    space = family_space("resnet", DIGITS, 10)
    least = space.count(smallest(space)).value("params")
    config = near(space, Budget.parse(f"params<={least:.0f}"), 1.0, rng())
    assert space.count(config).value("params") == least


def test_cost_grows_with_the_width():
    for family, image in [*suited(SMALL), ("levit", LARGE)]:
        space = family_space(family, image, 10)
        config = space.sample(rng(1))
        for field in ("params", "macs", "activations"):
            costs = [space.count(space.config({**config, "width": w})).value(field) for w in range(4, 200)]
            assert costs == sorted(costs)


def test_widths_are_multiples_of_four_then_eight():
    assert [rounded(w) for w in (1, 5, 7, 13.9, 27, 31.9, 33, 36.1, 44)] == [4, 4, 8, 12, 28, 32, 32, 40, 48]
    assert all(rounded(w) <= rounded(w + 0.5) for w in np.arange(1, 200, 0.5))


def test_families_asked_for_are_checked():
    assert check_families(["resnet", "regnety", "resnet"]) == ("resnet", "regnety")
    assert check_families(()) == ()
    with pytest.raises(SpecError, match="did you mean regnety or regnetx"):
        check_families(["resnet", "regnetz"])


def test_transformers_are_searched_where_patches_suit_the_images():
    assert [{*families()} - {*SUITED[image]} for image in (DIGITS, SMALL, LARGE)] == [{"levit"}, {"levit"}, set()]
    assert "no patches cover images of 29x29" in why_unsuited("vit", (3, 29, 29))
    assert not any(why_unsuited(family, (3, 29, 29)) for family in families()[:10])
    with pytest.raises(SpecError, match="levit: its stem divides sides by 16"):
        family_space("levit", SMALL, 10)


def test_unknown_families_are_named():
    with pytest.raises(SpecError, match="did you mean resnet"):
        family_space("resnt", SMALL, 10)
