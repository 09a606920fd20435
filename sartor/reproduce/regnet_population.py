"""Populations of tiny networks: ascending against descending widths, and AnyNetX_A against RegNet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from sartor.core.space import Config, Space
from sartor.core.spec import Json, digest
from sartor.models.anynet import AnyNet
from sartor.models.vision.regnet import STEMS
from sartor.report.design_space import plot_edf, svg
from sartor.reproduce.cifar import SIDE, CifarSubset
from sartor.reproduce.reproduction import Conditions, Result
from sartor.reproduce.statistics import Estimate, difference
from sartor.reproduce.trials import small
from sartor.search.design_space import BASE, Setting, anynet_network, anynet_space, between, regnet_space
from sartor.search.design_space_analysis import AnalysisOptions, Record, analyse
from sartor.search.design_space_sweep import Sweep, collect, launch, setup
from sartor.search.design_space_training import TrainedError, opened, training_workers

BAND = (2.0e6, 2.4e6)  # multiply-adds of every network
PAIRS, PAIR_EPOCHS = 24, 4
NETS, NET_EPOCHS = 14, 2
DATA = CifarSubset(300, 200)
SETTING = Setting(BASE.replace(stem=STEMS["res_stem_cifar"](16), classes=10, size=(SIDE, SIDE)))
ASCENDING, DESCENDING = "ascending widths", "descending widths"
_STAGES = 3  # of stride 2
_STRETCH = 16.0  # widths are scaled by at most this, up or down, to meet the band


def pair_space(descending: bool) -> Space:
    """Space D with three stages, or its control: the same depths and widths, these in the opposite order.

    Each network's widths are scaled so that its multiply-adds are in the band. A configuration is valid in both spaces
    or in neither, so equal seeds draw pairs.
    """
    space = anynet_space("D", SETTING, stages=_STAGES, ranges={"depth": (1, 8), "width": (8, 256)})
    name = DESCENDING if descending else ASCENDING
    return replace(space, name=name, to_spec=partial(_network, descending), valid=_makes_a_pair)


def _network(descending: bool, config: Config) -> AnyNet:
    spec = _scaled(descending, config)
    assert spec is not None  # configurations are valid
    return spec


def _makes_a_pair(config: Config) -> bool:
    pair = [_scaled(descending, config) for descending in (False, True)]
    return all(spec is not None and spec.stages[0].width != spec.stages[-1].width for spec in pair)


@lru_cache(maxsize=1 << 12)
def _scaled(descending: bool, config: Config) -> AnyNet | None:
    """The network with its widths times the factor, found by bisection, that brings it into the band, if one does."""
    widths = config["width"][::-1] if descending else config["width"]
    low, high = 1 / _STRETCH, _STRETCH
    for _ in range(24):
        factor = math.sqrt(low * high)
        scaled = tuple(max(8, round(w * factor / 8) * 8) for w in widths)
        spec = anynet_network(SETTING, Config({**config, "width": scaled}))
        macs = spec.tally().macs
        if BAND[0] <= macs <= BAND[1]:
            return spec
        low, high = (factor, high) if macs < BAND[0] else (low, factor)
    return None


def widths(conditions: Conditions) -> Result:
    """Space D against its control with descending widths: 24 pairs of networks of equal depth."""
    n = 2 if conditions.quick else PAIRS
    spaces = {space.name: space for space in (pair_space(False), pair_space(True))}
    records = evaluated(spaces, n, PAIR_EPOCHS, conditions)
    up, down = ([_error(record) for record in records[name]] for name in spaces)
    both = [(a, b) for a, b in zip(up, down, strict=True) if a is not None and b is not None]
    rising, falling = [a for a, _ in both], [b for _, b in both]
    gap, paired = difference(falling, rising), Estimate.of([b - a for a, b in both])
    pooled = math.hypot(Estimate.of(rising).error, Estimate.of(falling).error)
    better = sum(b > a for a, b in both)
    return _told(
        records,
        f"The mean error with descending widths less that with ascending ones is {100 * gap.mean:.2f} points, with a "
        f"pooled standard error of {100 * pooled:.2f}; ascending is better in {better} of {len(both)} pairs of equal "
        f"depths (difference in a pair: {paired.text(2, 100)}, mean ± deviation and 95 % interval). The rule is that "
        "descending is not better by more than one pooled standard error; the paper finds ascending clearly better.",
        passed=gap.mean >= -pooled,
        more={"difference": gap.to_json(), "paired": paired.to_json(), "pooled": pooled},
    )


def contrast(conditions: Conditions) -> Result:
    """AnyNetX_A against RegNet: recorded only."""
    ranges = {"bottle_ratio": (0.25, 1.0), "group_width": (1, 32)}
    free = anynet_space("A", SETTING, stages=_STAGES, ranges={**ranges, "depth": (1, 8), "width": (8, 256)})
    lines = regnet_space(
        SETTING, stages=(_STAGES, _STAGES),
        ranges={**ranges, "depth": (4, 16), "w0": (8, 128), "wa": (4.0, 64.0), "wm": (1.5, 3.0)},
    )  # fmt: skip
    limits = between({"macs": BAND})
    spaces = {"AnyNetX_A": free.within(*limits), "RegNet": lines.within(*limits)}
    records = evaluated(spaces, 2 if conditions.quick else NETS, NET_EPOCHS, conditions)
    means = {name: Estimate.of([e for r in found if (e := _error(r)) is not None]) for name, found in records.items()}
    said = ", ".join(f"{name} {mean.text(1, 100)}" for name, mean in means.items())
    return _told(
        records,
        f"Mean error (mean ± deviation and 95 % interval): {said}. There is no rule and nothing to conclude: after "
        f"{NET_EPOCHS} epochs depth decides, RegNets are deeper in these ranges, and some have narrow b = 4, g = 1 "
        "blocks. The paper's claim needs its protocol: 100 networks or more of each space, larger images, ten epochs.",
    )


def evaluated(spaces: Mapping[str, Space], n: int, epochs: float, conditions: Conditions) -> dict[str, list[Record]]:
    """The records of ``n`` networks of each space, trained and tested on the subset; those that are there are kept."""
    data = conditions.data if conditions.quick else DATA
    recipe = conditions.trained_by(small("resnext-cifar", epochs, 50))
    evaluate = TrainedError(data, recipe, split="test")
    opened(data)
    records: dict[str, list[Record]] = {}
    with training_workers(conditions.workers) as pool:
        for name, space in spaces.items():
            sweep = Sweep(name, space, n, retries=0)
            identity = digest([n, recipe.to_json(), data.train, data.test], 8)
            folder = conditions.folder / "populations" / f"{name.lower().replace(' ', '-')}-{identity}"
            setup(sweep, folder)
            launch(sweep, folder, evaluate, pool, partial(_tell, conditions, sweep))
            records[name] = list(collect(folder))
    return records


def _told(
    records: Mapping[str, Sequence[Record]], verdict: str, passed: bool | None = None, more: Json | None = None
) -> Result:
    analysis = analyse(records, AnalysisOptions(best=0))
    rows = []
    for name, found in analysis.populations.items():
        errors = Estimate.of([record["error"] for record in found])
        depths = [record["network"]["total_depth"] for record in found]
        rows.append(
            {"population": name, "networks": str(errors.n), "error %: mean ± deviation [95 %]": errors.text(1, 100),
             "lowest error %": f"{100 * analysis.edfs[name].lowest:.1f}", "blocks, median": f"{np.median(depths):g}"}
        )  # fmt: skip
    return Result(
        verdict,
        passed,
        tables={"Errors": rows},
        pictures={"edf": svg(plot_edf(analysis))},
        data={"records": {name: list(found) for name, found in records.items()}, **(more or {})},
    )


def _error(record: Record) -> float | None:
    return record.get("error")


def _tell(conditions: Conditions, sweep: Sweep, record: Record) -> None:
    outcome = f"error {100 * record['error']:.1f} %" if "error" in record else f"failed: {record['failed']}"
    conditions.say(f"{sweep.name}, network {record['index'] + 1} of {sweep.configs}: {outcome}")
