"""Optimisers, losses, augmentation, orders and schedules against timm's, number for number."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sartor.core.rng import uniforms
from sartor.training.augment import geometry
from sartor.training.augment.draws import Draws
from sartor.training.augment.erase import erase_boxes
from sartor.training.augment.mix import Mix
from sartor.training.augment.rand import INCREASING, OPERATIONS, Move, RandAugment
from sartor.training.classification import schedule_for
from sartor.training.clipping import clip_units
from sartor.training.losses.classification import BinaryCrossEntropy, CrossEntropy
from sartor.training.optimisers import Adam, AdamW, Lamb, RMSpropTF
from sartor.training.orders import Repeated
from sartor.training.recipe import recipe
from sartor.training.schedules import Cosine, Held, Scaled, Warmup

DATA = Path(os.environ.get("SARTOR_DATA", Path(__file__).parents[2] / "../shared/data"))


class Numbers:
    """Stands for ``numpy.random`` inside timm, on a generator."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.beta = self.generator.beta

    def rand(self, *size):
        return self.generator.random(size or None)

    def randint(self, low, high, size=None):
        return self.generator.integers(low, high, size)


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 4, 3, 3), (8,), (5, 8), (5,), (3, 3)]
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    made[3].zero_()  # a weight of norm 0
    return made


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("trust_clip", [False, True])
@pytest.mark.parametrize("always_adapt", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
def test_lamb(timm, clip, trust_clip, always_adapt, foreach):
    options = {"trust_clip": trust_clip, "always_adapt": always_adapt}
    spec = Lamb(max_grad_norm=clip, **options)
    equal_lamb(spec, max_grad_norm=clip or None, foreach=foreach, **options)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("averaging", [False, True])
@pytest.mark.parametrize("trust_clip", [False, True])
def test_switches_of_lamb(timm, decoupled, bias_correction, averaging, trust_clip):
    spec = Lamb(trust_clip=trust_clip, decoupled=decoupled, bias_correction=bias_correction, averaging=averaging)
    equal_lamb(
        spec, decoupled_decay=decoupled, bias_correction=bias_correction, grad_averaging=averaging,
        trust_clip=trust_clip,
    )  # fmt: skip


def equal_lamb(spec, **options):
    """Six steps equal those of timm's class with its options."""
    from timm import optim

    ours, theirs = ([t.clone().requires_grad_() for t in tensors()] for _ in range(2))
    mine = spec([{"params": ours[::2], "weight_decay": 0.02}, {"params": ours[1::2], "weight_decay": 0.0}])
    other = optim.Lamb(
        [{"params": theirs[::2], "weight_decay": 0.02}, {"params": theirs[1::2], "weight_decay": 0.0}],
        **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator) * (3.0 if step < 3 else 0.01)
            b.grad = a.grad.clone()
        for optimiser in (mine, other):
            for group in optimiser.param_groups:
                group["lr"] = 0.005 * (step + 1)
            optimiser.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)


def test_rmsprop_tf(timm):
    from timm import optim

    ours, theirs = ([t.clone().requires_grad_() for t in tensors()] for _ in range(2))
    mine = RMSpropTF()([{"params": ours, "weight_decay": 0.01}])
    other = optim.RMSpropTF(theirs, momentum=0.9, eps=1e-3, weight_decay=0.01, foreach=False)
    generator = torch.Generator().manual_seed(2)
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimiser in (mine, other):
            optimiser.param_groups[0]["lr"] = 0.01 * (step + 1)
            optimiser.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)


def test_adamw_and_adam(timm):
    """The classes timm makes for these names, step by step."""
    from timm.optim import create_optimizer_v2

    for name, rule in (("adamw", AdamW()), ("adam", Adam())):
        ours, theirs = ([t.clone().requires_grad_() for t in tensors()] for _ in range(2))
        mine = rule([{"params": ours, "weight_decay": 0.05}])
        other = create_optimizer_v2([{"params": theirs, "weight_decay": 0.05}], opt=name, lr=1e-3)
        generator = torch.Generator().manual_seed(2)
        for step in range(4):
            for a, b in zip(ours, theirs, strict=True):
                a.grad = torch.randn(a.shape, generator=generator)
                b.grad = a.grad.clone()
            for optimiser in (mine, other):
                optimiser.param_groups[0]["lr"] = 0.01 * (step + 1)
                optimiser.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("share", [0.003, 0.01, 0.3])
def test_adaptive_clipping(timm, share):
    from timm.utils.agc import adaptive_clip_grad

    ours, theirs = ([t.clone().requires_grad_() for t in tensors()] for _ in range(2))
    with torch.no_grad():
        ours[0][0], theirs[0][0] = 0.0, 0.0  # a filter of norm 0
    for scale in (1e-3, 1.0, 0.0):
        generator = torch.Generator().manual_seed(2)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator) * scale
            b.grad = a.grad.clone()
        clip_units(ours, share)
        adaptive_clip_grad(theirs, share)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=2e-6, atol=1e-9)


LOGITS = torch.sin(torch.arange(12.0)).reshape(3, 4)
LABELS = torch.tensor([0, 3, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("positive_weight", [1.0, 2.5])
@pytest.mark.parametrize("share", [None, 0.1, 0.3, 0.9])
def test_bce(timm, smoothing, threshold, sum_classes, positive_weight, share):
    from timm import loss
    from timm.data.mixup import mixup_target

    other = loss.BinaryCrossEntropy(
        smoothing, threshold, sum_classes=sum_classes, pos_weight=None if positive_weight == 1.0 else positive_weight
    )
    batch = {"label": LABELS}
    target = LABELS
    if share is not None:
        batch.update(other=LABELS.flip(0), share=torch.full((3,), share))
        target = mixup_target(LABELS, 4, share, smoothing)
    ours = BinaryCrossEntropy(smoothing, threshold, sum_classes, positive_weight)(LOGITS, batch)
    torch.testing.assert_close(ours, other(LOGITS, target))


def test_soft_cross_entropy(timm):
    from timm import loss
    from timm.data.mixup import mixup_target

    batch = {"label": LABELS, "other": LABELS.flip(0), "share": torch.full((3,), 0.3)}
    expected = loss.SoftTargetCrossEntropy()(LOGITS, mixup_target(LABELS, 4, 0.3, 0.1))
    torch.testing.assert_close(CrossEntropy(0.1)(LOGITS, batch), expected)
    expected = loss.LabelSmoothingCrossEntropy(0.1)(LOGITS, LABELS)
    torch.testing.assert_close(CrossEntropy(0.1)(LOGITS, {"label": LABELS}), expected)


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 1.0), (0.4, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("prob", [1.0, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_mixup_and_cutmix(timm, monkeypatch, mode, mixup, cutmix, prob, seed):
    from timm import loss
    from timm.data import mixup as theirs

    images = torch.randn(6, 3, 14, 10, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([0, 3, 1, 2, 2, 0])
    shim = type("numpy", (), {**vars(np), "random": Numbers(seed)})
    monkeypatch.setattr(theirs, "np", shim)
    other = theirs.Mixup(mixup, cutmix, prob=prob, mode=mode, label_smoothing=0.1, num_classes=4)
    their_images, their_target = other(images.clone(), labels)
    ours = Mix(mixup, cutmix, prob, mode=mode)({"image": images.clone(), "label": labels}, np.random.default_rng(seed))
    torch.testing.assert_close(ours["image"], their_images)
    logits = torch.sin(torch.arange(24.0)).reshape(6, 4)
    expected = loss.SoftTargetCrossEntropy()(logits, their_target)
    torch.testing.assert_close(CrossEntropy(0.1)(logits, ours), expected)


@pytest.fixture(scope="module")
def pictures():
    folder = DATA / "images/imagenet-samples"
    files = sorted(folder.rglob("*.JPEG"))[:2] + sorted(folder.rglob("*.jpg"))[:2]
    if not files:
        pytest.skip(f"needs pictures in {folder}: set SARTOR_DATA")
    return [Image.open(file).convert("RGB").resize((61, 47)) for file in files[:2]]


@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("magnitude", [0, 1, 2.5, 5, 6, 7, 8.3, 10])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_every_operation_gives_the_same_pixels(timm, monkeypatch, pictures, increasing, magnitude, sign):
    from timm.data import auto_augment as theirs

    names = theirs._RAND_INCREASING_TRANSFORMS if increasing else theirs._RAND_TRANSFORMS
    table = INCREASING if increasing else OPERATIONS
    assert [name.removesuffix("Increasing") for name in names] == list(table)
    monkeypatch.setattr(theirs.random, "random", lambda: 0.75 if sign < 0 else 0.25)
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        hparams = {"img_mean": (124, 116, 104), "interpolation": resample}
        for name, ours in zip(names, table.values(), strict=True):
            operation = theirs.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
            for picture in pictures:
                try:
                    expected = np.asarray(operation(picture))
                except ValueError:  # newer Pillow's posterize takes no 0 bits, which was black
                    assert "Posterize" in name
                    assert magnitude in (0, 1, 10)
                    expected = np.zeros_like(picture)
                got = np.asarray(ours(picture, Move(magnitude / 10, sign, resample, (124, 116, 104))))
                assert (got == expected).all(), name


def test_randaugment_notation(timm):
    from timm.data.auto_augment import rand_augment_transform

    for text in ("rand-m7-mstd0.5-inc1", "rand-m9-n3-mstd0.5", "rand-m6-p0.8-mstd101-inc1", "rand-m15-mmax20"):
        theirs, ours = rand_augment_transform(text), RandAugment.parse(text)
        operation = theirs.ops[4]
        assert (theirs.num_layers, operation.prob, operation.magnitude) == (ours.layers, ours.prob, ours.magnitude)
        assert operation.magnitude_std == ours.std
        assert (operation.magnitude_max or 10) == ours.limit
        assert ("Increasing" in operation.name) == ours.increasing
    for name, text in {"rsb-a1": "rand-m7-mstd0.5-inc1", "rsb-a3": "rand-m6-mstd0.5-inc1"}.items():
        assert recipe(name).augment.rand == text


def test_randaugment_draws_as_often_and_as_strongly(timm, monkeypatch):
    """Operations are uniform with replacement, half of them are applied, magnitudes are timm's clipped normal."""
    from timm.data import auto_augment as theirs

    ours = RandAugment.parse("rand-m9-mstd2.5-inc1")
    u = uniforms(3, np.arange(20_000), ours.draws).reshape(-1, ours.layers, 6)
    counts = np.bincount((u[..., 0] * 15).astype(int).ravel(), minlength=15) / 40_000
    assert abs(counts - 1 / 15).max() < 0.006
    assert abs((u[..., 1] <= ours.prob).mean() - 0.5) < 0.01
    magnitudes = ours.magnitudes(u[..., 2], u[..., 3]).ravel()

    random.seed(0)
    seen = []
    operation = theirs.AugmentOp("SolarizeIncreasing", 1.0, 9, {"magnitude_std": 2.5})
    monkeypatch.setattr(operation, "level_fn", lambda level, hparams: seen.append(level) or (0,))
    monkeypatch.setattr(operation, "aug_fn", lambda image, *args, **kwargs: image)
    for _ in range(40_000):
        operation(None)
    quantiles = np.linspace(0.02, 0.98, 25)
    assert abs(np.quantile(magnitudes, quantiles) - np.quantile(seen, quantiles)).max() < 0.12
    assert magnitudes.max() == max(seen) == 10.0


@pytest.mark.parametrize("size", [(224, 224), (120, 300), (32, 32)])
def test_random_resized_crops_have_the_same_distribution(timm, size):
    from timm.data.transforms import RandomResizedCropAndInterpolation

    n, scale, ratio = 6000, (0.08, 1.0), (3 / 4, 4 / 3)
    u = Draws(1, 0, np.arange(n))("crop", 40).reshape(n, 10, 4)
    ours = geometry.crop_boxes(u, size, scale, ratio)
    random.seed(0)
    image = Image.new("RGB", size[::-1])
    theirs = np.array([RandomResizedCropAndInterpolation.get_params(image, scale, ratio) for _ in range(n)])
    quantiles = np.linspace(0.05, 0.95, 19)
    for column in range(4):
        spread = theirs[:, column].std() + 1.0
        difference = np.quantile(ours[:, column], quantiles) - np.quantile(theirs[:, column], quantiles)
        assert abs(difference).max() < 0.12 * spread + 1.0
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()


def test_random_erasing_has_the_same_distribution(timm):
    from timm.data.random_erasing import RandomErasing

    n, size = 4000, 40
    boxes = erase_boxes(Draws(1, 0, np.arange(n))("erase", 41), (size, size), 0.6)
    random.seed(0)
    erase = RandomErasing(0.6, mode="const", device="cpu")
    theirs = [int((erase(torch.ones(1, size, size)) == 0).sum()) for _ in range(n)]
    ours = boxes[:, 2] * boxes[:, 3]
    assert abs((ours > 0).mean() - np.mean([t > 0 for t in theirs])) < 0.04
    quantiles = np.linspace(0.5, 0.98, 13)
    assert abs(np.quantile(ours, quantiles) - np.quantile(theirs, quantiles)).max() < 0.04 * size * size


@pytest.mark.parametrize("count", [10, 300, 1000, 1281])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("block", [1, 256])
def test_repeated_augmentation_order(timm, count, world, times, block):
    from timm.data.distributed_sampler import RepeatAugSampler

    keys = Repeated(times, block, shuffle=False).keys(count, 0, 0, world)
    for rank in range(world):
        theirs = RepeatAugSampler(range(count), world, rank, shuffle=False, num_repeats=times, selected_round=block)
        assert (keys[rank::world] % count).tolist() == list(theirs)


@pytest.mark.parametrize("name", ["rsb-a1", "rsb-a2", "rsb-a3"])
def test_cosine_schedule(timm, name):
    """Epoch by epoch, as the released procedures were run: warm-up from 1e-4, cosine to 1e-6."""
    from timm.scheduler import CosineLRScheduler

    r = recipe(name)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = CosineLRScheduler(
        torch.optim.SGD([parameter], r.lr), int(r.epochs), lr_min=1e-6, warmup_t=5, warmup_lr_init=1e-4
    )
    per_epoch = 7
    shape = Held(Warmup(r.schedule, 5 * per_epoch, r.warmup_from), per_epoch)
    ours = Scaled(shape, r.full_lr())
    for epoch in range(int(r.epochs)):
        for step in (0, 3, 6):
            value = ours.value(epoch * per_epoch + step, int(r.epochs) * per_epoch)
            assert value == pytest.approx(theirs._get_lr(epoch)[0], rel=1e-9)
    assert Cosine(0.5).value(10, 10) == 0.5


@pytest.mark.parametrize("prefix", [False])
def test_staircase(timm, prefix):
    """The exponential fall in steps of procedure B, with its warm-up, epoch by epoch."""
    from timm.scheduler import StepLRScheduler

    r = recipe("rsb-b")
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = StepLRScheduler(
        torch.optim.SGD([parameter], r.lr), decay_t=2.4, decay_rate=0.97, warmup_t=3,
        warmup_lr_init=r.warmup_from * r.lr, warmup_prefix=prefix,
    )  # fmt: skip
    ours = schedule_for(r, 5)
    total = int(r.epochs) * 5
    for epoch in range(int(r.epochs)):
        if epoch % 12:  # every fifth step falls on an epoch, where the last digit of 2.4 n decides
            assert ours.value(epoch * 5 + 2, total) == pytest.approx(theirs._get_lr(epoch)[0], rel=1e-9), epoch


def test_step_schedule(timm):
    from timm.scheduler import StepLRScheduler

    r = recipe("resnext-imagenet")
    theirs = StepLRScheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], r.lr), decay_t=30, decay_rate=0.1)
    for epoch in range(100):
        assert Scaled(r.schedule, r.full_lr()).value(epoch, 100) == pytest.approx(theirs._get_lr(epoch)[0])
