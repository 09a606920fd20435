"""Sweeps as facebookresearch/pycls writes them: its YAML files for RegNets and AnyNets.

What describes networks becomes a space, what describes training the evaluator's settings; what describes its
cluster is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sartor.core.errors import SpecError, unknown
from sartor.core.genes import Choice, Gene, Int, Real, Repeat, frozen
from sartor.core.space import Space
from sartor.models.network import count
from sartor.models.vision.regnet import STEMS
from sartor.search.design_space import BASE, Setting, anynet_network, between, regnet_space
from sartor.search.design_space_analysis import AnalysisOptions
from sartor.search.design_space_sweep import Sweep

_STEMS = {"simple_stem_in": "simple", "res_stem_in": "res_stem_in", "res_stem_cifar": "res_stem_cifar"}
_BLOCKS = {
    "res_bottleneck_block": "x",
    "res_bottleneck_linear_block": "linear",
    "res_basic_block": "basic",
    "vanilla_block": "vanilla",
}
_REGNET: Mapping[str, tuple[str, Any]] = {  # pycls's key: our gene and pycls's default
    "DEPTH": ("depth", 10),
    "W0": ("w0", 32),
    "WA": ("wa", 5.0),
    "WM": ("wm", 2.5),
    "GROUP_W": ("group_width", 16),
    "BOT_MUL": ("bottle_ratio", 1.0),
}
_ANYNET = {"DEPTHS": "depth", "WIDTHS": "width", "BOT_MULS": "bottle_ratio", "GROUP_WS": "group_width"}
_COST = {"FLOPS": "macs", "PARAMS": "params", "ACTS": "activations"}
_NAMES = {"base_lr": "lr", "max_epoch": "epochs", "rng_seed": "seed"}
_METRICS = {
    "lr_wd": "lr*weight_decay", "wd": "weight_decay", "flops": "macs", "params": "params", "acts": "activations",
    "regnet_gw": "group_width", "regnet_bm": "bottle_ratio", "anynet_d": "total_depth", "anynet_w": "widths",
}  # fmt: skip
_ABOUT_DATA = {"dataset", "split", "im_size", "transforms"}  # the task's affair, not the training's


def sweep_from_yaml(text: str) -> Sweep:
    """The sweep of a pycls file. Raises SpecError for another file or a sampler of something unknown."""
    import yaml  # type: ignore[import-untyped]

    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"sweep: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(table, Mapping) or not isinstance(table.get("SETUP"), Mapping):
        raise SpecError("sweep: a pycls sweep has a SETUP with NUM_CONFIGS, SAMPLERS and a BASE_CFG")
    setup = table["SETUP"]
    base, samplers = setup.get("BASE_CFG") or {}, dict(setup.get("SAMPLERS") or {})
    constraints = setup.get("CONSTRAINTS") or {}
    space = _space(base, samplers, (constraints.get("REGNET") or {}).get("NUM_STAGES", (4, 4)))
    complexity = {_COST[key]: (float(low), float(high)) for key, (low, high) in (constraints.get("CX") or {}).items()}
    return Sweep(
        name=str(table.get("NAME", "sweep")),
        space=space.within(*between(complexity)),
        configs=setup.get("NUM_CONFIGS", 0),
        genes=tuple(_gene(_name(key), sampler) for key, sampler in samplers.items()),
        draws=setup.get("NUM_SAMPLES", 1_000_000),
        seed=setup.get("RNG_SEED", 0),
        settings=_settings(base),
        analysis=_options(table.get("ANALYZE") or {}),
        description=" ".join(str(table.get("DESC", "")).split()),
    )


def _space(base: Mapping[str, Any], samplers: dict[str, Any], stages: Sequence[int]) -> Space:
    """The space of the networks; takes their samplers out of ``samplers``."""
    model, size = base.get("MODEL") or {}, (base.get("TRAIN") or {}).get("IM_SIZE", 224)
    kind = model.get("TYPE")
    if kind not in ("regnet", "anynet"):
        raise SpecError(f"sweep: MODEL.TYPE {kind!r} is not regnet or anynet")
    network = base.get(kind.upper()) or {}
    stem, block = network.get("STEM_TYPE", "simple_stem_in"), network.get("BLOCK_TYPE", "res_bottleneck_block")
    for what, name, known in (("STEM_TYPE", stem, _STEMS), ("BLOCK_TYPE", block, _BLOCKS)):
        if name not in known:
            raise SpecError(f"sweep: {unknown(what, name, known)}")
    spec = BASE.replace(
        stem=STEMS[_STEMS[stem]](network.get("STEM_W", 32)),
        size=(size, size),
        classes=model.get("NUM_CLASSES", 10),
        act={"swish": "silu"}.get(model.get("ACTIVATION_FUN", "relu"), model.get("ACTIVATION_FUN", "relu")),
        head_width=network.get("HEAD_W", 0),
    )
    strides = tuple(network.get("STRIDES", ())) or (network.get("STRIDE", 2),) * 64
    setting = Setting(spec, _BLOCKS[block], network.get("SE_R", 0.25) if network.get("SE_ON") else 0.0, strides)
    if kind == "regnet":
        space = regnet_space(setting, stages=(stages[0], stages[1]))
        return replace(space, genes=_regnet_genes(space, network, samplers))
    return Space("anynet", _anynet_genes(network, samplers), partial(anynet_network, setting), count)


def _regnet_genes(space: Space, network: Mapping[str, Any], samplers: dict[str, Any]) -> tuple[Gene, ...]:
    composite = samplers.pop("REGNET", None)
    genes: list[Gene] = []
    for key, (name, default) in _REGNET.items():
        usual = next((gene for gene in space.genes if gene.name == name), None)
        if f"REGNET.{key}" in samplers:
            genes.append(_gene(name, samplers.pop(f"REGNET.{key}")))
        elif composite is None:
            genes.append(Choice(name, (network.get(key, default),)))
        elif isinstance(usual, Real):
            low, high = composite.get(key, (usual.low, usual.high))
            genes.append(replace(usual, low=type(usual.low)(low), high=type(usual.high)(high)))
    return tuple(genes)


def _anynet_genes(network: Mapping[str, Any], samplers: dict[str, Any]) -> tuple[Gene, ...]:
    genes: list[Gene] = []
    for key, name in _ANYNET.items():
        if f"ANYNET.{key}" in samplers:
            genes.append(_gene(name, samplers.pop(f"ANYNET.{key}")))
        elif network.get(key):
            genes.append(Choice(name, (frozen(network[key]),)))
    return tuple(genes)


def _gene(name: str, sampler: Mapping[str, Any]) -> Gene:
    kind = sampler.get("TYPE")
    if kind == "value_sampler":
        return Choice(name, tuple(map(frozen, sampler["VALUES"])))
    if kind == "list_sampler":
        item = _gene(name, sampler["ITEM_SAMPLER"])
        if isinstance(item, Repeat):
            raise SpecError(f"sweep: sampler of {name}: lists of lists are not read")
        return Repeat(item, sampler["LENGTH"])  # type: ignore[arg-type]
    low, high = sampler.get("RANGE", (0, 0))
    law = sampler.get("RAND_TYPE", "uniform")
    if kind == "int_sampler":
        return Int(name, low, high, sampler.get("QUANTIZE", 1), law)
    if kind == "float_sampler":
        return Real(name, float(low), float(high), float(sampler.get("QUANTIZE", 1e-5)), law)
    raise SpecError(f"sweep: sampler of {name}: unknown TYPE {kind!r}")


def _name(key: str) -> str:
    name = key.removeprefix("cfg.").split(".")[-1].lower()
    return _NAMES.get(name, name)


def _settings(base: Mapping[str, Any]) -> dict[str, Any]:
    """The training's fixed values, flat and under our names."""
    sections = [base.get(section) or {} for section in ("OPTIM", "TRAIN", "BN")]
    named = {_name(key): value for section in sections for key, value in section.items()}
    return {name: value for name, value in named.items() if name not in _ABOUT_DATA}


def _options(analyze: Mapping[str, Any]) -> AnalysisOptions:
    """What is looked at. Records are complete, so filters on ``done`` go; timings are not recorded."""

    def metric(key: str) -> str:
        return _METRICS.get(key) or _name(key.removeprefix("regnet_").removeprefix("anynet_"))

    split = analyze.get("SPLIT_FILTERS") or {}
    return AnalysisOptions(
        metrics=tuple(map(metric, analyze.get("METRICS") or ())),
        complexity=tuple(_METRICS[k] for k in analyze.get("COMPLEXITY") or () if k in ("flops", "params", "acts")),
        pre_filters={metric(k): ends for k, ends in (analyze.get("PRE_FILTERS") or {}).items() if k != "done"},
        split_filters={name: {metric(k): ends for k, ends in ranges.items()} for name, ranges in split.items()},
        best=max(analyze.get("PLOT_MODELS_BEST", 0), analyze.get("PLOT_CURVES_BEST", 0)),
        worst=max(analyze.get("PLOT_MODELS_WORST", 0), analyze.get("PLOT_CURVES_WORST", 0)),
    )
