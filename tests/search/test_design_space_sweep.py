import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sartor.core.errors import DataError, RunError, SpecError
from sartor.core.spec import spec_id
from sartor.search.design_space_analysis import AnalysisOptions, analyse, value
from sartor.search.design_space_sweep import collect, gene, launch, read_sweep, setup, sweep_from_table

PYCLS = Path(__file__).with_name("pycls")
TABLE = """
name = "small regnets"
configs = 24
seed = 5
settings = { epochs = 2, lr = 0.1 }
retries = 1

[network]
space = "regnet"
image = [3, 32, 32]
classes = 10
stem = "res_stem_cifar"
stem_width = 16
se = 0.25
stages = [2, 3]
ranges = { depth = [4, 12], w0 = [8, 64], group_width = [1, 16] }
complexity = { macs = [5e6, 5e7], params = [0, 5e5] }

[genes.lr]
low = 0.01
high = 1.0
quantum = 0.001
law = "log_uniform"

[analysis]
metrics = ["depth", "w0", "lr*epochs", "line_error"]
complexity = ["macs"]
best = 2
worst = 1
"""


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(TABLE.replace('"lr*epochs"', '"lr"'))
    return read_sweep(path)


def evaluate(spec, settings):
    """A made-up error with its best depth at 8 blocks, and a curve."""
    assert settings["epochs"] == 2
    depth = sum(stage.depth for stage in spec.stages)
    error = 0.3 + 0.01 * abs(depth - 8) + 0.02 * abs(np.log10(settings["lr"]) + 1)
    return {"error": float(error), "curve": [0.9, float(error)]}


def failing(spec, settings, folder, failures):
    """Fails the first times it is called for a network, counted by files."""
    calls = folder / f"{spec_id(spec)}-{settings['lr']}"
    calls.write_text(calls.read_text() + "." if calls.exists() else ".")
    if len(calls.read_text()) <= failures:
        raise ValueError("no luck")
    return evaluate(spec, settings)


def test_sweep_runs_from_table_to_analysis(sweep, tmp_path):
    folder = tmp_path / "run"
    configs = setup(sweep, folder)
    assert len({*configs}) == 24
    launch(sweep, folder, evaluate)
    records = collect(folder)
    assert [record["index"] for record in records] == list(range(24))
    assert [sweep.drawn.config(record["config"]) for record in records] == configs
    for record in records:
        assert 5e6 <= record["complexity"]["macs"] <= 5e7
        assert record["network"]["total_depth"] == sum(record["network"]["depths"])
    analysis = analyse({sweep.name: records}, sweep.analysis)
    spread = analysis.spreads["depth"][sweep.name]
    assert spread.lowest <= spread.band.low <= spread.band.median <= spread.band.high <= spread.highest
    assert abs(spread.band.median - 8) <= 1
    assert analysis.spreads["line_error"][sweep.name].highest < 0.5
    errors = sorted(record["error"] for record in records)
    assert [record["error"] for record in analysis.best[sweep.name]] == errors[:2]
    assert [record["error"] for record in analysis.worst[sweep.name]] == errors[-1:]
    assert analysis.edfs[sweep.name].errors.tolist() == errors


def test_records_do_not_depend_on_workers_or_interruptions(sweep, tmp_path):
    setup(sweep, tmp_path / "one")
    launch(sweep, tmp_path / "one", evaluate)
    setup(sweep, tmp_path / "two")
    with ThreadPoolExecutor(3) as pool:
        launch(sweep, tmp_path / "two", evaluate, pool)
    for number in (3, 11, 20):
        (tmp_path / "two" / "records" / f"{number:06}.json").unlink()
    assert len(collect(tmp_path / "two")) == 21
    setup(sweep, tmp_path / "two")
    launch(sweep, tmp_path / "two", evaluate)
    collect(tmp_path / "one"), collect(tmp_path / "two")
    one, two = ((tmp_path / name / "records.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(("failures", "failed"), [(1, 0), (2, 24)])
def test_failures_are_tried_again_then_recorded(sweep, tmp_path, failures, failed):
    folder, calls = tmp_path / "run", tmp_path / "calls"
    calls.mkdir()
    setup(sweep, folder)
    lucky = partial(failing, folder=calls, failures=failures)
    launch(sweep, folder, lucky)
    records = collect(folder)
    assert sum("failed" in record for record in records) == failed
    if failed:
        assert records[0]["failed"] == "ValueError: no luck"
        with pytest.raises(DataError, match="no evaluated record is left"):
            analyse({"all": records}, sweep.analysis)
        launch(sweep, folder, lucky)  # failed ones once more
        assert not any("failed" in record for record in collect(folder))


def test_a_folder_belongs_to_one_sweep(sweep, tmp_path):
    with pytest.raises(RunError, match="set the sweep up first"):
        launch(sweep, tmp_path / "run", evaluate)
    setup(sweep, tmp_path / "run")
    (tmp_path / "run" / "configs.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="holds other configurations"):
        setup(sweep, tmp_path / "run")


RECORDS = [
    {"index": i, "error": e, "config": {"depth": [1, i], "lr": 0.1, "wd": i / 10}, "complexity": {"macs": 10.0 * i}}
    for i, e in enumerate((0.5, 0.3, 0.2, 0.4))
]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("depth", 3.0), ("config.depth", 3.0), ("macs", 20.0), ("error", 0.2), ("lr*wd", 0.02), ("config.lr * macs", 2.0)],
)
def test_metrics_are_found_by_path_or_name(metric, expected):
    assert value(RECORDS[2], metric) == pytest.approx(expected)


def test_unknown_metrics_are_named():
    with pytest.raises(DataError, match="did you mean depth"):
        value(RECORDS[0], "dept")


def test_filters_keep_and_split():
    options = AnalysisOptions(complexity=("macs",), pre_filters={"macs": [5, 100]}, split_filters={})
    kept = analyse({"all": RECORDS}, options)
    assert [record["index"] for record in kept.populations["all"]] == [1, 2, 3]
    options = AnalysisOptions(
        complexity=("macs",), split_filters={"low": {"macs": [0, 10, 10]}, "high": {"macs": [20, 30]}}
    )
    split = analyse({"all": RECORDS}, options)
    assert {name: len(records) for name, records in split.populations.items()} == {"low": 2, "high": 2}
    assert split.spreads["macs"]["high"].lowest == 20.0


def test_pycls_sweep_of_regnets():
    sweep = read_sweep(PYCLS / "cifar_regnet.yaml")
    assert sweep.name == "cifar/cifar_regnet"
    assert sweep.description.startswith("Example CIFAR sweep 2 of 3")
    assert sweep.genes == ()
    assert str(sweep.space.budget) == "macs<=130M, params<=2M, activations<=1M"
    assert str(sweep.space.floor) == "macs<=120M"
    assert sweep.analysis.metrics == ("depth", "w0", "wa", "wm", "group_width")
    assert sweep.settings["lr"] == 1.0
    assert sweep.settings["batch_size"] == 1024
    for seed in range(3):
        config = sweep.space.sample(np.random.default_rng(seed))
        spec = sweep.space.spec(config)
        assert 6 <= config["depth"] <= 16
        assert len(spec.stages) == 2
        assert spec.stages[0].block.se == 0.25
        assert (spec.stem.kernel, spec.stem.stride, spec.classes, spec.size) == (3, 1, 10, (32, 32))


def test_pycls_sweep_of_the_training_of_one_network(tmp_path):
    sweep = read_sweep(PYCLS / "cifar_optim.yaml")
    assert [g.name for g in sweep.genes] == ["lr", "weight_decay"]
    assert sweep.analysis.metrics == ("lr", "weight_decay", "lr*weight_decay")
    configs = setup(sweep, tmp_path)
    specs = {sweep.space.spec(config) for config in configs}
    assert len({*configs}) == 64
    assert len(specs) == 1
    assert sweep.space.count(configs[0]).value("params") == 855_770  # ResNet-56
    assert all(0.25 <= config["lr"] <= 5.0 for config in configs)


def test_pycls_sweep_of_epochs_and_seeds():
    sweep = read_sweep(PYCLS / "cifar_best.yaml")
    assert {g.name: g.size for g in sweep.genes} == {"epochs": 4, "seed": 3}
    assert sweep.drawn.size() == sweep.configs == 12
    assert sweep.analysis.split_filters["epochs=050"] == {"epochs": [50, 50, 50]}


def test_pycls_lists_of_stages():
    text = """
NAME: lists
SETUP:
  NUM_CONFIGS: 3
  SAMPLERS:
    ANYNET.WIDTHS:
      TYPE: list_sampler
      LENGTH: 3
      ITEM_SAMPLER: {TYPE: int_sampler, RAND_TYPE: log_uniform, RANGE: [16, 256], QUANTIZE: 8}
    ANYNET.DEPTHS: {TYPE: value_sampler, VALUES: [[1, 1, 1], [2, 2, 2]]}
  BASE_CFG:
    MODEL: {TYPE: anynet, ACTIVATION_FUN: swish}
    ANYNET: {STRIDES: [1, 2, 2], BOT_MULS: [0.5, 0.5, 0.5], GROUP_WS: [8, 8, 8]}
"""
    from sartor.search.design_space_pycls import sweep_from_yaml

    space = sweep_from_yaml(text).space
    spec = space.spec(space.sample(np.random.default_rng(0)))
    assert spec.act == "silu"
    assert [stage.stride for stage in spec.stages] == [1, 2, 2]
    assert all(stage.block.inner == stage.width // 2 for stage in spec.stages)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("configs = 24", ""), "needs a name and the number of configs"),
        (("configs = 24", "confgs = 24"), "did you mean configs"),
        (('space = "regnet"', 'space = "anynet_q"'), "AnyNetX space 'Q'"),
        (('space = "regnet"', 'space = "regnet"\ntied = 3'), "unknown key of sweep network 'tied'"),
        (('space = "regnet"', 'space = "regnet"\norders = {}'), "regnet takes no"),
        (('stem = "res_stem_cifar"', 'stem = "stump"'), "unknown stem"),
        (('law = "log_uniform"', 'law = "log"'), "unknown law 'log'"),
        (("low = 0.01", ""), "needs either values, or low and high"),
        (("best = 2", "bset = 2"), "did you mean best"),
        (("seed = 5", "seed ="), "sweep"),
    ],
)
def test_wrong_tables_are_named(tmp_path, change, words):
    path = tmp_path / "sweep.toml"
    path.write_text(TABLE.replace(*change))
    with pytest.raises((SpecError, DataError), match=words) as error:
        read_sweep(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("a: 1", "has a SETUP"),
        ("SETUP: {BASE_CFG: {MODEL: {TYPE: vit}}}", "'vit' is not regnet or anynet"),
        ("SETUP: {BASE_CFG: {MODEL: {TYPE: anynet}, ANYNET: {STEM_TYPE: twig}}}", "unknown STEM_TYPE"),
        ("SETUP: {BASE_CFG: {MODEL: {TYPE: regnet}}, SAMPLERS: {LR: {TYPE: dice}}}", "unknown TYPE 'dice'"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_wrong_pycls_files_are_named(tmp_path, text, words):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words) as error:
        read_sweep(path)
    assert "\n" not in str(error.value)


def test_genes_of_tables():
    assert gene("n", {"values": [[1, 2], [3]]}).values == ((1, 2), (3,))
    assert gene("n", {"low": 1, "high": 4, "length": 2, "order": "increasing"}).size == 10
    assert gene("n", {"low": 0.5, "high": 1.0, "quantum": 0.25}).levels == 3
    with pytest.raises(SpecError, match="unknown key of gene n"):
        gene("n", {"low": 1, "hihg": 4})


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"sweep .*none\.toml"):
        read_sweep(tmp_path / "none.toml")


def test_tables_may_come_from_json():
    table = json.loads(
        '{"name": "a", "configs": 2, "network": {"space": "anynet_e", "orders": {"width": "decreasing"}}}'
    )
    config = sweep_from_table(table).space.sample(np.random.default_rng(0))
    assert [*config["width"]] == sorted(config["width"], reverse=True)
