"""Losses and augmentation of masks, and a training that resumes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sartor.core.errors import SpecError, TrainingError
from sartor.data.mask_dataset import IGNORED, MaskPreprocess
from sartor.models.network import build
from sartor.models.vision.hardnet_segmentation import DenseUNet
from sartor.runtime import ImageSegmenter
from sartor.tasks.segmentation import Segmentation
from sartor.training import loop
from sartor.training.augment.masks import MaskAugment, MaskAugmenter
from sartor.training.classification import plan_for as classification_plan
from sartor.training.losses.segmentation import Bootstrapped, PixelCrossEntropy
from sartor.training.plan import Context
from sartor.training.recipe import read_recipe, recipe
from sartor.training.schedules import Exponential, Poly
from sartor.training.segmentation import plan_for, quick_segmentation, train
from tests.masks import COUNTS, write_scenes


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    patch = pytest.MonkeyPatch()
    patch.setenv("SARTOR_CACHE", str(root / "cache"))
    yield Segmentation.open(write_scenes(root / "data", COUNTS, void=2), ignore=(11,))
    patch.undo()


def logits_and_mask(seed=0, shape=(2, 3, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    mask = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator).byte()
    mask[:, :2] = IGNORED
    return logits, mask


def pixel_losses(logits, mask):
    losses = F.cross_entropy(logits, mask.long(), ignore_index=IGNORED, reduction="none")
    return [losses[i][mask[i] != IGNORED].sort(descending=True).values for i in range(len(mask))]


def test_cross_entropy_over_pixels_of_a_class():
    logits, mask = logits_and_mask()
    expected = torch.cat(pixel_losses(logits, mask)).mean()
    assert PixelCrossEntropy()(logits, {"mask": mask}) == pytest.approx(expected.item())
    assert PixelCrossEntropy()(logits, {"mask": torch.full_like(mask, IGNORED)}) == 0


@pytest.mark.parametrize(("keep", "threshold"), [(5, 0.3), (40, 0.3), (40, 3.0), (4096, 0.0), (4096, 0.3)])
def test_bootstrapped_is_the_rule_written_out(keep, threshold):
    logits, mask = logits_and_mask()
    expected = []
    for ranked in pixel_losses(logits, mask):
        last = ranked[min(keep, len(ranked)) - 1]
        expected.append(ranked[ranked > threshold].mean() if last > threshold else ranked[:keep].mean())
    loss = Bootstrapped(keep, threshold)(logits.requires_grad_(), {"mask": mask})
    assert loss.item() == pytest.approx(sum(expected).item() / 2, rel=1e-6)
    loss.backward()
    assert (logits.grad[:, :, :2] == 0).all()


def test_bootstrapped_without_a_class():
    logits, mask = logits_and_mask()
    mask[0] = IGNORED
    loss = Bootstrapped()(logits.requires_grad_(), {"mask": mask})
    loss.backward()
    assert loss.isfinite()
    assert (logits.grad[0] == 0).all()


def augmented(augment, image, mask, epoch=0):
    preprocess = MaskPreprocess(3, mask.shape[1:], (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    context = Context(0, 10, epoch, 0, torch.device("cpu"), 0, 1, {}, lambda name: 0.0)
    batch = {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask), "key": torch.arange(len(image))}
    return MaskAugmenter(augment, preprocess)(batch, context)


def test_masks_move_with_their_pictures():
    """Where a picture says its own class by its brightness, it still does after every change of place."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, (6, 5, 6)), np.ones((1, 8, 8))).astype(np.uint8)
    image = np.repeat((80 * mask)[:, None], 3, 1)
    augment = MaskAugment(scale=(0.5, 2.0), crop=(32, 40), flip=0.5, vertical_flip=0.5)
    seen = set()
    for epoch in range(6):
        out = augmented(augment, image, mask, epoch)
        assert out["image"].shape == (6, 3, 32, 40)
        levels = (out["image"][:, 0] * 0.25 + 0.5) * 255
        valid = out["mask"] != IGNORED
        near = (levels[valid] / 80 - out["mask"][valid]).abs() < 0.3
        assert near.float().mean() > 0.85  # the others lie on edges, where pictures are blended
        assert (levels[~valid] - 128).abs().max() < 2 if (~valid).any() else True
        seen.add(bool((~valid).any()))
    assert seen == {True} or seen == {True, False}


def test_no_change_is_the_picture_normalised():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 255, (2, 3, 6, 7)).astype(np.uint8), rng.integers(0, 3, (2, 6, 7)).astype(np.uint8)
    out = augmented(MaskAugment(), image, mask)
    assert torch.allclose(out["image"], (torch.from_numpy(image).float() / 255 - 0.5) / 0.25, atol=1e-5)
    assert torch.equal(out["mask"], torch.from_numpy(mask))


def test_colours_change_pictures_only():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 255, (2, 3, 6, 7)).astype(np.uint8), rng.integers(0, 3, (2, 6, 7)).astype(np.uint8)
    out = augmented(MaskAugment(jitter=0.4), image, mask)
    assert not torch.allclose(out["image"], augmented(MaskAugment(), image, mask)["image"])
    assert torch.equal(out["mask"], torch.from_numpy(mask))


def test_schedules():
    assert Poly(0.9).value(0, 10) == 1.0
    assert Poly(0.9).value(5, 10) == pytest.approx(0.5**0.9)
    assert Poly(0.9).value(10, 10) == 0.0
    assert Exponential(0.2016).value(400, 800) == pytest.approx(0.998**400, rel=1e-3)


def test_named_recipes_and_quick():
    assert recipe("hardnet-cityscapes").loss == Bootstrapped()
    assert recipe("hardnet-camvid").masks.crop == (224, 224)
    quick = quick_segmentation(367, (360, 480))
    assert (quick.batch, quick.masks.crop) == (16, (256, 352))
    assert quick_segmentation(3, (24, 32)).batch == 2
    with pytest.raises(SpecError, match="scale must rise"):
        read_recipe({"masks": {"kind": "mask-augment", "scale": [0.0, 1.0]}})


SMALL = DenseUNet(((6, 1), (8, 2)), (2, 2), (6, 8), 1.7, (12, 16), classes=3, size=(24, 32))


def network():
    torch.manual_seed(0)
    return build(SMALL)


def test_training_learns_and_repeats_after_a_stop(task, tmp_path, monkeypatch):
    rule = quick_segmentation(12, (24, 32)).replace(epochs=12, batch=4, lr=0.02)
    whole = train(network(), task, rule, folder=tmp_path / "whole")
    served = ImageSegmenter.of(whole.network, task.preprocess, task.classes)
    assert task.evaluate(served, "test").values["miou"] > 0.5

    class Stop(Exception):
        pass

    def stop(share, text):
        if share > 0.4:
            raise Stop

    monkeypatch.setattr(loop, "_REPORT", 0.0)
    with pytest.raises(Stop):
        train(network(), task, rule, folder=tmp_path / "cut", progress=stop)
    again = train(network(), task, rule, folder=tmp_path / "cut")
    states = whole.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_recipes_of_the_other_kind_are_refused(task):
    with pytest.raises(TrainingError, match="is for classification"):
        plan_for(recipe("quick"), network(), task)
    net = network()
    with pytest.raises(TrainingError, match="is for segmentation"):
        classification_plan(recipe("quick-segmentation"), net, task.split("train"), task.preprocess)
