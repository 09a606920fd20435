"""Recipes: the published values, reading, overriding, and errors of one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.errors import DataError, SpecError
from sartor.data.preprocess import Preprocess
from sartor.models.network import spec_of
from sartor.models.vision.deit import ViT
from sartor.training.augment.pipeline import Augment
from sartor.training.augment.rand import RandAugment
from sartor.training.losses.classification import BinaryCrossEntropy
from sartor.training.losses.semantic import SemanticSoftmax
from sartor.training.optimisers import SGD, Adadelta, Adam, AdamW, Lamb, RMSpropTF
from sartor.training.published import published, published_lines
from sartor.training.quick import quick
from sartor.training.recipe import Recipe, list_recipes, read_recipe, recipe
from sartor.training.schedules import Cosine, OneCycle, Steps

# epochs, lr, decay, smoothing, depth, repeats, RandAugment, Mixup, training size (Wightman et al. 2021, table 2)
RSB = {
    "rsb-a1": (600, 5e-3, 0.01, 0.1, 0.05, 3, "rand-m7-mstd0.5-inc1", 0.2, 224),
    "rsb-a2": (300, 5e-3, 0.02, 0.0, 0.05, 3, "rand-m7-mstd0.5-inc1", 0.1, 224),
    "rsb-a3": (100, 8e-3, 0.02, 0.0, 0.0, 1, "rand-m6-mstd0.5-inc1", 0.1, 160),
}


@pytest.mark.parametrize("name", RSB)
def test_procedures_a(name):
    r = recipe(name)
    assert RSB[name] == (
        r.epochs, r.full_lr(), r.weight_decay, r.loss.smoothing, r.drop_path, r.repeats, r.augment.rand,
        r.augment.mixup, r.size,
    )  # fmt: skip
    assert (r.batch, r.warmup, r.decay_all, r.ema, r.clip) == (2048, 5, False, 0.0, 0.0)
    assert isinstance(r.loss, BinaryCrossEntropy)
    assert r.loss.threshold == 0.2
    assert r.optimiser == Lamb()
    assert isinstance(r.schedule, Cosine)
    assert r.schedule.floor * r.lr == pytest.approx(1e-6)
    assert r.warmup_from * r.lr == pytest.approx(1e-4)
    a = r.augment
    assert (a.crop, a.flip, a.cutmix, a.mix_switch, a.mix_prob, a.erase, a.jitter) == (
        "resized",
        0.5,
        1.0,
        0.5,
        1.0,
        0,
        0,
    )


def test_the_papers_own():
    for name, (epochs, batch, lr, decay) in {
        "resnext-imagenet": (100, 256, 0.1, 1e-4),
        "resnext-cifar": (300, 128, 0.1, 5e-4),
        "wrn-cifar": (200, 128, 0.1, 5e-4),
        "wrn-svhn": (160, 128, 0.01, 5e-4),
        "preact-cifar": (164, 128, 0.1, 1e-4),
        "preact-imagenet": (90, 256, 0.1, 1e-4),
        "regnet-imagenet": (100, 1024, 0.8, 5e-5),
        "regnet-population": (10, 128, 0.05, 5e-5),
        "hardnet-imagenet": (150, 256, 0.05, 6e-5),
    }.items():
        r = recipe(name)
        assert (r.epochs, r.batch, r.full_lr(), r.weight_decay) == (epochs, batch, pytest.approx(lr), decay), name
        assert r.decay_all
        assert r.optimiser == SGD(0.9, True)
    plain = recipe("res2net-imagenet")
    assert (plain.epochs, plain.batch, plain.full_lr(), plain.weight_decay) == (100, 256, 0.1, 1e-4)
    assert plain.optimiser == SGD(0.9, False)
    slow = recipe("simplenet-cifar")
    assert (slow.epochs, slow.batch, slow.full_lr(), slow.weight_decay) == (540, 100, 0.1, 1e-3)
    assert slow.optimiser == Adadelta(0.9, 1e-3)
    assert [round(share * 540 * 500) / 500 for share in slow.schedule.at] == [100, 190, 306, 390, 440]
    assert recipe("wrn-cifar").schedule == Steps((0.3, 0.6, 0.8), 0.2)
    assert recipe("regnet-imagenet").replace(batch=256).full_lr() == pytest.approx(0.2)
    assert recipe("rsb-a2").replace(batch=512).full_lr() == pytest.approx(5e-3 / 2)


def test_procedures_b_to_d():
    b, c1, c2, d = (recipe(f"rsb-{name}") for name in ("b", "c1", "c2", "d"))
    assert (b.optimiser, b.ema, b.loss.kind, b.warmup > 0) == (RMSpropTF(), 0.9999, "cross-entropy", True)
    assert b.schedule.every * b.epochs == pytest.approx(2.4, rel=1e-6)
    assert b.augment.rand
    for c in (c1, c2):
        assert (c.optimiser, c.clip, c.clip_by, c.schedule.kind) == (SGD(0.9, True), 0.01, "unit", "cosine")
    assert (c2.augment.cutmix, c2.drop_path) > (c1.augment.cutmix, c1.drop_path or 0.0)
    assert (d.optimiser, d.loss, d.schedule.kind) == (AdamW(), BinaryCrossEntropy(threshold=0.2), "cosine")
    for r in (c1, c2, d):
        assert r.schedule.floor * r.full_lr() == pytest.approx(1e-6)
        assert r.warmup_from * r.full_lr() == pytest.approx(1e-6)


def test_baselines_and_transformers():
    for name, batch in (("he-2015", 256), ("torchvision", 256)):
        r = recipe(name)
        assert (r.epochs, r.batch, r.full_lr(), r.weight_decay, r.decay_all) == (90, batch, 0.1, 1e-4, True)
        assert r.optimiser == SGD(0.9, False)
        assert [r.schedule.value(e, 90) for e in (29, 30, 60)] == pytest.approx([1, 0.1, 0.01])
    deit, swin = recipe("deit"), recipe("swin")
    for r in (deit, swin):
        a = r.augment
        assert (r.epochs, r.batch, r.full_lr(), r.weight_decay) == (300, 1024, pytest.approx(1e-3), 0.05)
        assert (r.optimiser, r.loss.smoothing, r.schedule.floor * r.full_lr()) == (AdamW(), 0.1, pytest.approx(1e-5))
        assert (a.rand, a.erase, a.mixup, a.cutmix, a.mix_switch) == ("rand-m9-mstd0.5-inc1", 0.25, 0.8, 1.0, 0.5)
    assert (deit.warmup, deit.drop_path, deit.repeats, deit.clip) == (5, 0.1, 3, 0.0)
    assert (swin.warmup, swin.drop_path, swin.repeats, swin.clip, swin.clip_by) == (20, 0.2, 1, 5.0, "norm")


def test_imagenet21k():
    r, scratch = recipe("imagenet21k"), recipe("imagenet21k-scratch")
    assert (r.epochs, r.full_lr(), r.weight_decay, r.decay_all) == (80, 3e-4, 1e-4, False)
    assert (r.optimiser, r.schedule) == (Adam(), OneCycle(0.1, 20.0))
    assert r.loss == SemanticSoftmax("imagenet_is_a.txt", 0.2, ancestors=False, include_last=False)
    assert (scratch.epochs, scratch.full_lr(), scratch.optimiser) == (140, 0.01, SGD())
    for one in (r, scratch):
        assert (one.resize, one.normalise, one.augment.cutout, one.size) == ("squash", False, 0.5, 224)
    with pytest.raises(DataError, match=r"no such file; name one with --set loss.hierarchy=FILE"):
        r.check()
    given = Preprocess(3, 8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    assert r.pixels(given) == Preprocess(3, 8)
    assert recipe("quick").pixels(given) == given


SWITCHES = [
    "loss.kind=bce", "loss.threshold=none", "loss.threshold=0.2", "loss.sum_classes=true", "loss.positive_weight=2.0",
    "loss.smoothing=0.1", "augment.mixup=0.2", "augment.cutmix=1.0", "augment.mix_mode=elem", "augment.mix_mode=pair",
    "augment.mix_prob=0.5", "augment.mix_switch=0.3", "augment.rand=rand-m7-mstd0.5-inc1", "augment.erase=0.25",
    "optimiser.kind=lamb", "optimiser.trust_clip=true", "optimiser.decoupled=true", "optimiser.bias_correction=false",
    "optimiser.averaging=false", "optimiser.always_adapt=true", "optimiser.max_grad_norm=0", "repeats=3",
    "repeat_block=1", "drop_path=0.05", "drop_path=none", "decay_all=true", "lr_per=step", "warmup=5", "clip=0.01",
    "clip_by=unit", "ema=0.9999", "size=160", "normalise=false", "resize=squash", "schedule.kind=staircase",
    "schedule.kind=one-cycle", "optimiser.kind=rmsprop-tf", "optimiser.kind=adam",
]  # fmt: skip


@pytest.mark.parametrize("setting", SWITCHES)
def test_every_ingredient_is_a_setting(setting):
    changed = recipe("rsb-a1").replace_from([setting])
    assert read_recipe(changed.to_json()) == changed


def test_published_figures():
    found = {(f.network, f.recipe): f for f in published()}
    assert {recipe for _, recipe in found} <= set(list_recipes())
    assert (found["ResNet-50", "rsb-a1"].accuracy, found["ResNet-50", "rsb-a1"].confirmed) == (80.4, True)
    assert not found["ViT-S", "rsb-a2"].confirmed
    assert len([f for f in published() if f.recipe == "rsb-a3"]) == 21
    assert published_lines("rsb-a3")[1:3] == ["#   ResNet-18: 68.2", "#   ResNet-34: 73.0"]
    assert published_lines("wrn-cifar") == []


def test_resnet_rs():
    r = recipe("resnet-rs")
    assert (r.epochs, r.batch, r.full_lr(), r.weight_decay) == (350, 4096, pytest.approx(1.6), 4e-5)
    assert (r.warmup, r.warmup_from, r.ema, r.loss.smoothing) == (5, 0.0, 0.9999, 0.1)
    assert (r.optimiser, r.schedule) == (SGD(0.9, True), Cosine())
    assert (r.dropout, r.drop_path) == (None, None)  # the networks have them
    rand = RandAugment.parse(r.augment.rand)
    assert (rand.magnitude, rand.limit, rand.layers) == (15, 15, 2)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_returns_from_its_plain_values(name):
    r = recipe(name)
    assert r.name == name
    assert read_recipe(r.to_json()) == r
    assert read_recipe(r.to_json()).id() == r.id()


def test_settings():
    r = recipe("quick").replace_from(["lr=0.004", "augment.mixup = 0.1", "augment.rand=rand-m5", "ema=0", "epochs=3"])
    assert (r.lr, r.augment.mixup, r.augment.rand, r.ema, r.epochs) == (0.004, 0.1, "rand-m5", 0.0, 3.0)
    assert r.augment.pad == recipe("quick").augment.pad
    other = r.replace_from(["optimiser.kind=adamw", "optimiser.eps=1e-6", "schedule.kind='steps'", "schedule.at=[0.5]"])
    assert other.optimiser == AdamW(eps=1e-6)
    assert other.schedule == Steps((0.5,))
    assert other.replace_from(["drop_path=0.2", "loss.kind=bce"]).loss == BinaryCrossEntropy()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("lrr=1", "did you mean lr"),
        ("augment.mixp=1", "did you mean mixup"),
        ("lr=fast", "must be float"),
        ("batch=12.5", "must be int"),
        ("lr", "name=value"),
        ("optimiser.kind=adamx", "adamw"),
        ("optimiser.trust_clip=true", "trust_clip"),
        ("augment.crop=middle", "'resized'"),
        ("lr=-1", "more than 0"),
        ("epochs=0", "more than 0"),
        ("ema=1", "below 1"),
        ("accumulate=3", "does not divide"),
        ("augment=1", "must be a spec"),
        ("warmup=-1", "negative"),
    ],
)
def test_wrong_settings_are_one_line(setting, says):
    with pytest.raises(SpecError) as error:
        recipe("quick").replace_from([setting])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_mixing_needs_even_parts():
    with pytest.raises(SpecError, match="even"):
        recipe("rsb-a2").replace(batch=6, accumulate=2)


def test_unknown_recipes_and_files(tmp_path):
    with pytest.raises(SpecError, match="rsb-a1"):
        recipe("rsb-a")
    with pytest.raises(SpecError, match="cannot be read"):
        recipe(str(tmp_path / "none.toml"))
    own = tmp_path / "own.toml"
    own.write_text("lr = 0.5\n[optimiser]\nnesterov = false\n")
    assert recipe(str(own)).optimiser == SGD(nesterov=False)
    own.write_text("lr = \n")
    with pytest.raises(SpecError, match="is not TOML"):
        recipe(str(own))
    own.write_text("rate = 1\n")
    with pytest.raises(SpecError, match="recipe own") as error:
        recipe(str(own))
    assert "\n" not in str(error.value)


def test_lineage_leaves_out_length_and_schedule():
    r = recipe("quick")
    assert r.lineage() == r.replace_from(["epochs=3", "schedule.decay=0.0"]).lineage()
    assert r.lineage() != r.replace(weight_decay=0.1).lineage()


@given(st.integers(1, 10**6), st.integers(4, 512), st.booleans())
def test_quick_suits_any_data(examples, size, flip):
    r = quick(examples, size, flip=flip)
    assert 1 <= r.batch <= min(128, examples)
    assert r.augment.flip == (0.5 if flip else 0.0)
    assert r.augment.pad < size or r.augment.crop != "pad"


def test_quick_for_known_sets():
    assert quick(50_000, 32) == recipe("quick")
    digits = quick(1437, 8, flip=False)
    assert (digits.batch, digits.full_lr(), digits.augment.crop) == (32, 0.075, "none")
    assert digits.augment == Augment(border="reflect", rotate=12.0, zoom=0.1, shift=0.1)
    assert quick(5000, 224).augment.crop == "resized"


def test_transformers_have_a_quick_recipe_of_their_own():
    vit = ViT(48, 2, 3, 8, classes=10, size=(32, 32))
    assert quick(50_000, 32, spec=vit) == recipe("quick-transformer")
    assert quick(50_000, 32, spec=vit).optimiser == AdamW()
    assert quick(1437, 8, flip=False, spec=vit).augment == quick(1437, 8, flip=False).augment
    assert quick(50_000, 32, spec=spec_of("resnet20_cifar")) == recipe("quick")


def test_recipes_are_values():
    assert Recipe() == Recipe()
    assert hash(recipe("rsb-a1")) == hash(recipe("rsb-a1"))
