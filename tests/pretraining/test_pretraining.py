"""Methods of pretraining: losses against slow definitions, the figures of the papers, and the one loop running them."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartor.core.errors import SpecError, TrainingError
from sartor.models.network import build, spec_of
from sartor.models.vision.deit import ViT
from sartor.pretraining.byol import BYOL, Rising
from sartor.pretraining.losses import byol_loss, dino_loss, info_nce, masked_error, nt_xent
from sartor.pretraining.mae import MAE, MaskedAutoencoder, patches_of, waves
from sartor.pretraining.plan import pretrain, pretraining_plan
from sartor.pretraining.recipe import list_methods, pretraining
from sartor.pretraining.trunk import Trunk, draw_truncated
from sartor.training.loop import run

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_training import PREPROCESS, SPEC, Images, weights_hash

SMALL_VIT = ViT(16, 2, 2, patch=2, size=(8, 8), classes=3)
SETTINGS = {
    "byol": ("method.hidden=32", "method.out=8", "method.probe=true"),
    "dino": ("method.out=32", "method.hidden=16", "method.narrow=8"),
    "mae": ("method.width=16", "method.depth=1", "method.heads=2"),
}


def vectors(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def tiny(method, **changes):
    recipe = pretraining(method).fitted(40).replace(epochs=3, precision="float32")
    return recipe.replace_from(SETTINGS.get(method, ())).replace(**changes)


def tiny_plan(method):
    torch.manual_seed(1)
    network = build(SMALL_VIT if method in ("mae", "dino") else SPEC)
    return pretraining_plan(tiny(method), network, Images(), PREPROCESS, classes=3, seed=3)


class TestLosses:
    def test_nt_xent(self):
        a, b, t = vectors(5, 7), vectors(5, 7) + 1, 0.3
        z = [v / v.norm() for v in (*a, *b)]
        total = 0.0
        for i in range(10):
            partner = (i + 5) % 10
            others = sum(math.exp(float(z[i] @ z[k]) / t) for k in range(10) if k != i)
            total -= math.log(math.exp(float(z[i] @ z[partner]) / t) / others)
        assert nt_xent(a, b, t).item() == pytest.approx(total / 10, abs=1e-12)

    def test_info_nce(self):
        q, k, queue, t = vectors(4, 6), vectors(4, 6) + 1, F.normalize(vectors(9, 6), dim=1), 0.2
        total = 0.0
        for i in range(4):
            a, b = q[i] / q[i].norm(), k[i] / k[i].norm()
            positive = math.exp(float(a @ b) / t)
            total -= math.log(positive / (positive + sum(math.exp(float(a @ o) / t) for o in queue)))
        assert info_nce(q, k, queue, t).item() == pytest.approx(total / 4, abs=1e-12)

    def test_byol_is_0_where_equal_and_4_where_opposite(self):
        a = vectors(4, 6)
        assert byol_loss(a, 3 * a).item() == pytest.approx(0.0, abs=1e-12)
        assert byol_loss(a, -a).item() == pytest.approx(4.0, abs=1e-12)

    def test_dino(self):
        s, t, centre = vectors(3, 5), vectors(3, 5) + 1, vectors(5)
        total = 0.0
        for i in range(3):
            wanted = [math.exp((float(t[i, k]) - float(centre[k])) / 0.04) for k in range(5)]
            given = [math.exp(float(s[i, k]) / 0.1) for k in range(5)]
            total -= sum(w / sum(wanted) * math.log(g / sum(given)) for w, g in zip(wanted, given, strict=True))
        assert dino_loss(s, t, centre, (0.1, 0.04)).item() == pytest.approx(total / 3, abs=1e-12)

    def test_masked_error_counts_hidden_patches_only(self):
        patches, hidden = vectors(2, 3, 4), torch.tensor([[1.0, 0, 1], [0, 0, 1]], dtype=torch.float64)
        normal = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
        given = normal.clone()
        given[0, 1] += 100.0  # seen: does not count
        given[1, 2] += 3.0
        assert masked_error(given, patches, hidden).item() == pytest.approx(9.0 / 3, abs=1e-12)


class TestByol:
    def test_parameters_of_a_resnet50(self):
        network = build(spec_of("resnet50"), device="meta")
        with torch.device("meta"):
            members = BYOL(probe=True, own_start=False).members(network, 20)
        counts = {name: sum(p.numel() for p in m.module.parameters()) for name, m in members.items()}
        trunk = sum(p.numel() for p in members["model"].module.trunk.parameters())
        projector = sum(p.numel() for p in members["model"].module.projector.parameters())
        assert (trunk, projector) == (23_508_032, 9_449_472)
        assert (counts["predictor"], counts["probe"], counts["target"]) == (2_109_440, 40_980, 32_957_504)
        assert sum(counts[name] for name in ("model", "predictor", "probe")) == 35_107_924

    def test_the_decay_of_the_average(self):
        values = [Rising(0.99).value(step, 100) for step in (0, 25, 50, 100)]
        assert values == pytest.approx([0.99, 0.991464, 0.995, 1.0], abs=5e-7)

    def test_the_own_start_is_cut_off_at_1(self):
        layer = nn.Sequential(nn.Linear(2, 4000), nn.BatchNorm1d(4000))
        draw_truncated(layer)
        assert 0.9 < layer[0].weight.abs().max() <= 1.0
        assert not layer[0].bias.any()

    def test_the_target_follows_weights_alone_and_normalises_by_its_batches(self):
        plan = tiny_plan("byol")
        target = plan.modules["target"].module
        states = []

        def watch(modules, context):
            states.append([copy.deepcopy(modules[name].state_dict()) for name in ("target", "model")])
            assert modules["target"].training

        run(replace(plan, hooks=replace(plan.hooks, after_step=watch)))
        assert not any(p.requires_grad for p in target.parameters())
        (old, _), (new, online) = states[4:6]
        tau = Rising(0.99).value(5, len(states))
        name = next(k for k in old if k.endswith("conv1.weight"))
        expected = old[name] + (1 - tau) * (online[name] - old[name])
        assert not torch.equal(new[name], old[name])
        assert torch.allclose(new[name], expected, atol=1e-8)
        norm = next(k for k in old if k.endswith("bn1.running_mean"))
        share = (new[norm] - old[norm]) / (online[norm] - old[norm])
        assert (share - (1 - tau)).abs().min() > 1e-4  # statistics of its own, not averages

    def test_a_probe_teaches_the_features_nothing(self):
        with_probe, without = (tiny_plan("byol") for _ in range(2))
        del without.modules["probe"]
        loss = lambda m, b, c: {"byol": BYOL(32, 8).terms(m, b, c)["byol"]}  # noqa: E731
        without = replace(without, turns=[replace(without.turns[0], loss=loss)])
        assert weights_hash(run(with_probe).network) == weights_hash(run(without).network)


class TestTrunk:
    @pytest.mark.parametrize("name", ["resnet20_cifar", "levit_128s", "dla60", "simplenet_cifar_310k"])
    def test_has_all_of_a_network_but_its_classifier(self, name):
        spec = spec_of(name)
        torch.manual_seed(0)
        network, images = build(spec).eval(), torch.randn(2, spec.channels, *spec.size)
        expected = network.run(images, stop="pool").flatten(1)
        trunk = Trunk(network).eval()
        with torch.no_grad():
            assert torch.equal(trunk(images), expected)
        assert expected.shape == (2, trunk.width)
        kinds = {role.kind for role in trunk.backbone.roles().values()}
        assert "readout" not in kinds


class TestMae:
    def test_patches_row_by_row(self):
        images = vectors(2, 3, 4, 6)
        patches = patches_of(images, 2)
        assert torch.equal(patches[1, 4].reshape(3, 2, 2), images[1, :, 2:4, 2:4])

    def test_hides_the_stated_share_and_draws_every_patch(self):
        torch.manual_seed(0)
        model = MaskedAutoencoder(MAE(0.75, 16, 1, 2), build(SMALL_VIT))
        given, hidden = model(torch.randn(3, 3, 8, 8))
        assert given.shape == (3, 16, 12)
        assert hidden.sum(1).tolist() == [12.0] * 3

    def test_positions_differ(self):
        assert len(waves((3, 4), 16)[0].unique(dim=0)) == 12

    def test_is_for_vision_transformers(self):
        with pytest.raises(TrainingError, match="anynet"):
            MAE().members(build(SPEC), 0)


@pytest.mark.parametrize("method", list_methods())
class TestInTheLoop:
    def test_stopped_and_resumed_is_as_never_stopped(self, method, tmp_path):
        whole = run(tiny_plan(method))
        plan = tiny_plan(method)

        def stop(modules, context):
            if context.step == 7:  # in the middle of the second epoch
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(replace(plan, hooks=replace(plan.hooks, configure=stop)), tmp_path, save_every=0.0)
        resumed = run(tiny_plan(method), tmp_path)
        assert resumed.steps == whole.steps
        assert weights_hash(resumed.network) == weights_hash(whole.network)
        assert [line["loss"] for line in resumed.history] == [line["loss"] for line in whole.history]

    def test_changes_the_backbone(self, method):
        network = build(SMALL_VIT if method in ("mae", "dino") else SPEC)
        before = copy.deepcopy(network.state_dict())
        backbone, trained = pretrain(network, Images(), PREPROCESS, tiny(method, epochs=1.0), classes=3)
        assert trained.finished
        changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
        assert len(changed) > len(before) / 2


def test_moco_queues_the_keys_of_earlier_batches():
    plan, queues = tiny_plan("moco-v2"), []

    def watch(modules, context):
        queues.append((context.memory["queue"]["keys"].clone(), int(context.memory["queue"]["at"])))

    run(replace(plan, hooks=replace(plan.hooks, after_step=watch)))
    (first, at), (second, later) = queues[:2]
    assert (at, later) == (4, 8)
    assert torch.equal(first[:4], second[:4])
    assert not torch.equal(first[4:8], second[4:8])
    assert torch.allclose(second.norm(dim=1), torch.ones(len(second)))


class TestRecipe:
    def test_settings_and_what_is_wrong_with_them(self):
        recipe = pretraining("moco-v2")
        assert recipe.replace_from(["method.temperature=0.1"]).method.temperature == 0.1
        with pytest.raises(SpecError, match="temperture"):
            recipe.replace_from(["method.temperture=0.1"])
        with pytest.raises(SpecError, match="simclr"):
            pretraining("simclear")

    def test_few_images_make_small_batches_and_queues(self):
        fitted = pretraining("moco-v2").fitted(100)
        assert (fitted.batch, fitted.method.queue) == (8, 50)
        assert pretraining("moco-v2").fitted(10**6) == pretraining("moco-v2")

    def test_the_rate_is_no_integer_division(self):
        recipe = pretraining("supervised").replace(batch=128)
        assert recipe.rate(100).value(20, 100) == pytest.approx(0.25e-4, rel=0.2)

    def test_methods_that_need_labels_say_so(self):
        for method in ("supervised", "byol"):
            with pytest.raises(TrainingError, match="labels"):
                pretraining_plan(tiny(method), build(SPEC), Images(), PREPROCESS)
