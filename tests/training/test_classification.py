"""From recipe, backbone and task to a plan, and the call that trains it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import PREPROCESS, RECIPE, SPEC, Images, TinyTask, tiny_network, tiny_plan, weights_hash

from sartor.core.errors import TrainingError
from sartor.models.network import build
from sartor.training import pace
from sartor.training.classification import groups_for, plan_for, schedule_for, spec_for, train
from sartor.training.loop import run
from sartor.training.plan import Numerics
from sartor.training.recipe import recipe


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))


def test_weight_decay_leaves_out_norms_and_biases():
    network = tiny_network()
    decayed, free = groups_for(RECIPE.replace(weight_decay=0.1))({"model": network})
    assert (decayed.weight_decay, free.weight_decay) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed.parameters)
    assert all(p.ndim == 1 for p in free.parameters)
    assert len(decayed.parameters) + len(free.parameters) == len(list(network.parameters()))
    (everything,) = groups_for(RECIPE.replace(weight_decay=0.1, decay_all=True))({"model": network})
    assert len(everything.parameters) == len(list(network.parameters()))


def test_the_network_must_be_built_for_the_recipe():
    deep = RECIPE.replace(drop_path=0.3, dropout=0.2)
    spec = spec_for(deep, SPEC)
    assert (spec.drop_path, spec.dropout) == (0.3, 0.2)
    assert spec_for(RECIPE, SPEC) == SPEC
    with pytest.raises(TrainingError, match="spec_for"):
        plan_for(deep, build(SPEC), Images(), PREPROCESS)
    assert plan_for(deep, build(spec), Images(), PREPROCESS).turns
    other = type("Other", (), {"kind": "other", "replace": lambda self, **changes: self})()
    with pytest.raises(TrainingError, match=r"drop_path=0.3 .* set it to none"):
        spec_for(deep, other)
    assert spec_for(deep.replace_from(["drop_path=none", "dropout=0.0"]), other) is other


def test_schedules_of_recipes():
    preact = schedule_for(recipe("preact-cifar"), 390)
    total = 164 * 390
    assert [preact.value(s, total) for s in (0, 399, 400)] == pytest.approx([0.01, 0.01, 0.1])
    assert [preact.value(s, total) for s in (31_979, 31_980, 47_970)] == pytest.approx([0.1, 0.01, 0.001])
    a3 = schedule_for(recipe("rsb-a3"), 625)
    assert a3.value(0, 62_500) == pytest.approx(1e-4)
    assert a3.value(5 * 625, 62_500) == a3.value(6 * 625 - 1, 62_500)
    quick = schedule_for(recipe("quick").replace(batch=32), 100)
    assert quick.value(60, 2000) == pytest.approx(0.075)


def test_networks_are_trained_at_the_recipes_size():
    seen = []
    plan = tiny_plan(RECIPE.replace(size=6, epochs=0.4))
    hooked = plan.modules["model"].module
    hooked.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    run(plan)
    assert set(seen) == {(8, 3, 6, 6)}


def test_training_learns():
    plain = RECIPE.replace_from(["epochs=30", "augment.mixup=0", "augment.cutmix=0", "augment.erase=0"])
    trained = run(tiny_plan(plain))
    assert trained.history[-1]["loss"] < 0.5 * trained.history[0]["loss"]
    from sartor.training.augment.pipeline import Augment

    keys = np.arange(40)
    augmenter = replace(tiny_plan(plain).hooks.transform, augment=Augment())
    batch = {**Images().batch(keys), "key": torch.from_numpy(keys)}
    context = type("Step", (), {"seed": 0, "epoch": 0, "device": torch.device("cpu")})
    with torch.inference_mode():
        answers = trained.network(augmenter(batch, context)["image"]).argmax(1)
    assert (answers == batch["label"]).float().mean() > 0.9


def test_train_continues_and_resumes(tmp_path, monkeypatch):
    chosen = [Numerics("bfloat16", True), Numerics("float32", False)]
    monkeypatch.setattr(pace, "choose_numerics", lambda *args, **values: chosen[0])
    plateau = RECIPE.replace_from(["schedule.decay=0.0", "epochs=1"])
    short = train(tiny_network(), TinyTask(), plateau, folder=tmp_path / "0", seed=5)
    assert (short.steps, short.finished) == (5, True)
    chosen.reverse()
    rest = train(tiny_network(), TinyTask(), RECIPE, folder=tmp_path / "1", seed=5, start=tmp_path / "0")
    whole = run(tiny_plan(seed=5, numerics=Numerics("bfloat16", True), identity={"task": "tiny"}))
    assert weights_hash(rest.network) == weights_hash(whole.network)
    again = train(tiny_network(), TinyTask(), RECIPE, folder=tmp_path / "1", seed=5)
    assert weights_hash(again.network) == weights_hash(whole.network)


def test_the_average_is_what_is_kept():
    backbone = tiny_network()
    trained = train(backbone, TinyTask(), RECIPE.replace(precision="float32"))
    assert trained.network is not backbone
    assert weights_hash(trained.network) != weights_hash(backbone)
    assert not trained.network.training
    plain = train(tiny_network(), TinyTask(), RECIPE.replace(precision="float32", ema=0.0))
    assert set(plain.network.state_dict()) == set(trained.network.state_dict())


def test_clipping_by_units_spares_the_classifier():
    groups = groups_for(RECIPE.replace(clip=0.01, clip_by="unit"))({"model": tiny_network()})
    roles = tiny_network().roles()
    spared = [p for group in groups if not group.clipped for p in group.parameters]
    assert sorted(p.shape for p in spared) == sorted(
        p.shape for name, p in tiny_network().named_parameters() if "fc" in name
    )
    assert any(role.kind == "readout" for role in roles.values())
    trained = run(tiny_plan(RECIPE.replace_from(["clip=0.01", "clip_by=unit", "epochs=2"])))
    assert np.isfinite(trained.history[-1]["loss"])


def test_a_recipe_may_leave_normalisation_out(tmp_path):
    """The network is trained, and served, on values in 0 to 1."""
    plan = tiny_plan(RECIPE.replace(normalise=False))
    assert plan.hooks.transform.preprocess == PREPROCESS.plain()
    assert plan.identity["preprocess"] == PREPROCESS.plain().to_json()
