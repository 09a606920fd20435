"""Every part of every reproduction, tiny; and the rules, which must be able to fail."""

import pytest

from sartor.reproduce import (
    imagenet21k,
    pathology_pretraining,
    preact_resnet,
    regnet,
    regnet_population,
    resnet_strikes_back,
    resnext,
    timing,
    wide_resnet,
)
from sartor.reproduce.reproduction import Conditions, reproduce
from sartor.reproduce.table import REPRODUCTIONS
from sartor.reproduce.trials import Trials

PARTS = [(name, part) for name, reproduction in REPRODUCTIONS.items() for part in reproduction.parts]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_every_part_runs(name, part, conditions):
    content = reproduce(REPRODUCTIONS[name], part, conditions)
    exact = REPRODUCTIONS[name].parts[part].exact
    assert content["passed"] is (True if exact else None)
    assert all(rows for rows in content["tables"].values())
    for picture in content["pictures"]:
        assert "<svg" in (conditions.folder / f"{part}-{picture}.svg").read_text()
    assert REPRODUCTIONS[name].title in (conditions.folder / "result.md").read_text()


def trained(monkeypatch, module, errors=None, losses=None):
    """Let a module's trials have these errors and last losses by the beginning of a variant's name."""

    def run_trials(specs, recipe, conditions, data=None):
        records = []
        for variant in specs:
            error, loss = (
                next(v for k, v in (d or {"": 0.5}).items() if variant.startswith(k)) for d in (errors, losses)
            )
            for seed in range(3):
                record = {"variant": variant, "seed": seed}
                if loss is None:
                    record["diverged"] = "loss is nan"
                else:
                    record |= {"error": error + 0.001 * seed, "losses": [loss], "curve": [error], "seconds": [1.0]}
                records.append(record)
        return Trials(specs, records)

    monkeypatch.setattr(module, "run_trials", run_trials)


@pytest.mark.parametrize(("more", "passed"), [(-0.05, True), (0.0, True), (0.029, True), (0.031, False)])
def test_cardinality_may_be_a_little_worse(monkeypatch, tmp_path, more, passed):
    trained(monkeypatch, resnext, {"4x16d": 0.5 + more, "1x37d": 0.5})
    result = resnext.accuracy(Conditions(tmp_path))
    assert result.passed is passed
    assert ("does show" in result.verdict) is (more < -0.04)


@pytest.mark.parametrize(
    ("errors", "passed", "falls"),
    [((0.52, 0.48, 0.46), True, True), ((0.52, 0.46, 0.48), True, False), ((0.5, 0.48, 0.51), False, False)],
)
def test_wide_nets_must_not_be_worse(monkeypatch, tmp_path, errors, passed, falls):
    trained(monkeypatch, wide_resnet, dict(zip(("WRN-40", "WRN-16", "WRN-10"), errors, strict=True)))
    result = wide_resnet.accuracy(Conditions(tmp_path))
    assert result.passed is passed
    assert ("the error falls" in result.verdict) is falls


@pytest.mark.parametrize(("wide", "passed"), [(0.9, True), (1.1, False)])
def test_wide_nets_must_be_faster(monkeypatch, tmp_path, wide, passed):
    def step_times(specs, batch, rounds):
        one = {name: [1.0, 1.0] for name in specs}
        return {1: one, 2: one | {"WRN-16-2": [0.8, 0.8], "WRN-10-3": [wide, wide]}}

    monkeypatch.setattr(wide_resnet, "step_times", step_times)
    assert wide_resnet.speed(Conditions(tmp_path)).passed is passed


@pytest.mark.parametrize(
    ("original", "scaled", "dropped", "passed"),
    [
        (2.3, 2.3, None, True),
        (1.95, 2.3, 1e9, True),
        (1.89, 2.3, 2.3, False),
        (2.3, 1.9, 2.3, False),
        (2.3, 2.3, 1.8, False),
    ],
)
def test_full_preactivation_must_lead(monkeypatch, tmp_path, original, scaled, dropped, passed):
    losses = {"original, scaling": scaled, "original, dropout": dropped, "original": original, "full": 1.7}
    trained(monkeypatch, preact_resnet, losses=losses)
    assert preact_resnet.training(Conditions(tmp_path)).passed is passed


@pytest.mark.parametrize(("gain", "passed"), [(0.021, True), (0.019, False), (-0.05, False)])
def test_the_new_recipe_must_gain(monkeypatch, tmp_path, gain, passed):
    trained(monkeypatch, resnet_strikes_back, {"old": 0.5, "+ RandAugment": 0.5 - gain})
    monkeypatch.setattr(resnet_strikes_back, "learning_curves", lambda trials: "<svg/>")
    assert resnet_strikes_back.recipes(Conditions(tmp_path)).passed is passed
    assert resnet_strikes_back.short(Conditions(tmp_path)).passed is passed


@pytest.mark.parametrize(("worse", "passed"), [(-0.1, True), (0.004, True), (0.006, False)])
def test_binary_cross_entropy_must_not_be_much_worse(monkeypatch, tmp_path, worse, passed):
    trained(monkeypatch, resnet_strikes_back, {"+ RandAugment": 0.5 + worse, "A with": 0.5})
    assert resnet_strikes_back.bce_vs_ce(Conditions(tmp_path)).passed is passed


def test_a_changed_hyperparameter_is_found(monkeypatch, conditions):
    changed = resnet_strikes_back.named_recipe("rsb-a2").replace(weight_decay=0.03)
    original = resnet_strikes_back.named_recipe
    monkeypatch.setattr(
        resnet_strikes_back, "named_recipe", lambda name: changed if name == "rsb-a2" else original(name)
    )
    result = resnet_strikes_back.hyperparameters(conditions)
    assert (result.passed, result.data["wrong"]) == (False, ["weight decay of A2: 0.03 for 0.02"])


@pytest.mark.parametrize(("lower", "passed"), [(-0.01, True), (0.0, True), (0.01, False)])
def test_semantic_softmax_must_not_transfer_worse(monkeypatch, tmp_path, lower, passed):
    def gathered(jobs, measure, conditions, line):
        values = {"semantic softmax": 0.5 - lower, "single-label softmax": 0.5, "multi-label": 0.4}
        return {
            name: {"loss": job.loss, **dict.fromkeys(("fine", "probe", "tuned"), values[job.loss])}
            for name, job in jobs.items()
        }

    monkeypatch.setattr(imagenet21k, "gathered", gathered)
    assert imagenet21k.pretraining(Conditions(tmp_path)).passed is passed


def population(monkeypatch, ascending, descending):
    def evaluated(spaces, n, epochs, conditions):
        shape = {"network": {"total_depth": 9}, "complexity": {"macs": 2e6, "params": 1e5, "activations": 1e4}}
        errors = dict(zip(spaces, (ascending, descending), strict=True))
        return {
            name: [{"index": i, "error": error, "config": {}, **shape} for i, error in enumerate(errors[name])]
            for name in spaces
        }

    monkeypatch.setattr(regnet_population, "evaluated", evaluated)


@pytest.mark.parametrize(("shift", "passed"), [(0.05, True), (0.0, True), (-0.004, True), (-0.02, False)])
def test_descending_widths_must_not_be_better(monkeypatch, tmp_path, shift, passed):
    base = [0.60, 0.62, 0.64, 0.61]  # a standard error of 0.0085, pooled 0.012
    population(monkeypatch, base, [error + shift for error in base])
    result = regnet_population.widths(Conditions(tmp_path))
    assert result.passed is passed
    assert result.data["paired"]["mean"] == pytest.approx(shift)


def test_forms_that_differ_are_found(monkeypatch, conditions):
    convert = resnext.to_form

    def wrong(network, form):
        other = convert(network, form)
        if form == "B":
            other.get_parameter("layer2.0.bn1.3.weight").data *= 1.0 + 1e-6
        return other

    monkeypatch.setattr(resnext, "to_form", wrong)
    monkeypatch.setattr(resnext, "STEPS", 2)
    result = resnext.exact(conditions)
    assert result.passed is False
    assert result.data["gaps"]["A"]["state"] < 1e-8 < result.data["gaps"]["B"]["state"]


def test_a_wrong_count_is_found(monkeypatch, conditions):
    monkeypatch.setattr(resnext, "PUBLISHED", {"resnet50": (25_557_032, 4_089_184_257)})
    monkeypatch.setattr(resnext, "forms_apart", lambda conditions: {"A": {"outputs": 0.0, "state": 0.0}})
    assert resnext.exact(conditions).data["wrong"] == ["resnet50"]
    assert resnext.exact(conditions).passed is False


def test_shortcuts_that_do_not_scale_are_found(monkeypatch, conditions):
    monkeypatch.setattr(preact_resnet, "FACTORS", (0.5,))
    monkeypatch.setattr(preact_resnet, "Scaling", lambda factor: preact_resnet.Shortcut())
    assert preact_resnet.exact(conditions).passed is False


@pytest.mark.parametrize("fault", ["recorded", "SLOPES", "SIZES", "VALID"])
def test_each_fault_of_the_exact_regnet_part_is_found(monkeypatch, conditions, fault):
    if fault == "recorded":
        changed = regnet.recorded()
        changed["regnety_032"]["activations"] += 1
        monkeypatch.setattr(regnet, "recorded", lambda: changed)
    else:
        changes = {"SLOPES": {"RegNetX": {"params": "0.695"}}, "SIZES": {"A": 1}, "VALID": 0.3}
        monkeypatch.setattr(regnet, fault, changes[fault])
    monkeypatch.setattr(regnet, "_picture", lambda costs: "<svg/>")
    monkeypatch.setattr(regnet, "_slope_rows", lambda slopes: [{"family": "RegNetX"}])
    assert regnet.exact(conditions).passed is False


def test_pairs_have_equal_depths_and_opposite_widths():
    rising, falling = (regnet_population.pair_space(descending) for descending in (False, True))
    from sartor.search.design_space import population as drawn

    configs = drawn(rising, 20, 3)
    assert configs == drawn(falling, 20, 3)
    for config in configs:
        up, down = rising.spec(config), falling.spec(config)
        assert [s.depth for s in up.stages] == [s.depth for s in down.stages] == [*config["depth"]]
        assert [s.width for s in up.stages] == sorted(s.width for s in up.stages)
        assert [s.width for s in down.stages] == sorted((s.width for s in down.stages), reverse=True)
        assert up.stages[0].width < up.stages[-1].width
        assert all(2.0e6 <= spec.tally().macs <= 2.4e6 for spec in (up, down))


def test_populations_go_on_where_they_were(conditions, monkeypatch):
    space = regnet_population.pair_space(False)
    first = regnet_population.evaluated({space.name: space}, 2, 1, conditions)
    monkeypatch.setattr(regnet_population, "TrainedError", lambda *a, **k: None)  # would fail if it were called
    assert regnet_population.evaluated({space.name: space}, 2, 1, conditions) == first


def test_the_template_has_the_papers_shape():
    assert resnext.template(1, 37).tally().params == 380_587
    assert resnext.template(4, 16).tally().params == 370_138
    wide = resnext.template(4, 16, depth=29)
    assert [(s.depth, s.width, s.block.inner) for s in wide.stages] == [(3, 64, 64), (3, 128, 128), (3, 256, 256)]
    assert sum(s.depth for s in preact_resnet.deep().stages) == 81


def test_steps_are_timed_in_turn():
    specs = {"a": resnext.template(1, 4), "b": resnext.template(2, 4)}
    times = timing.step_times(specs, 2, 3)
    assert 1 in times
    assert all(len(times[1][name]) == 3 and min(times[1][name]) > 0 for name in specs)
    assert timing.time_ratio([2.0, 3.0, 4.0], [1.0, 1.0, 1.0]) == (3.0, 2.5, 3.5)
    first, second = timing.time_rows(specs, times[1])
    assert first["time / a (quartiles)"] == "1.00 (1.00 to 1.00)"
    assert float(second["multiply-adds / a"]) > 1


@pytest.mark.parametrize(("byol", "passed"), [(0.45, True), (0.5, False)])
def test_every_method_of_pretraining_must_be_above_scratch(monkeypatch, tmp_path, byol, passed):
    errors = {pathology_pretraining.SCRATCH: 0.5, "simclr": 0.4, "moco-v2": 0.4, "byol": byol}

    def run_all(variants, seeds, conditions):
        return {
            v.name: [
                {
                    "variant": v.name, "seed": s, "errors": dict.fromkeys(v.counts, errors[v.name]),
                    "losses": [], "pretraining_seconds": 1.0, "seconds": 2.0,
                }
                for s in range(seeds)
            ]
            for v in variants
        }  # fmt: skip

    monkeypatch.setattr(pathology_pretraining, "run_all", run_all)
    assert pathology_pretraining.photographs(Conditions(tmp_path)).passed is passed
