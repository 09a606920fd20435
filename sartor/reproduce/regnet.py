"""RegNet (Radosavovic et al. 2020, arXiv 2003.13678): the published models, the spaces, two populations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

import numpy as np

from sartor.core.rng import generator
from sartor.models.network import spec_of
from sartor.models.vision.regnet import quantised_line
from sartor.report.design_space import plot_scaling, svg
from sartor.reproduce.regnet_population import contrast, widths
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result, Rows
from sartor.search.design_space import Level, anynet_space, regnet_space
from sartor.search.design_space_statistics import Edf, best_band, slope

Costs = Mapping[str, Mapping[str, float]]
FAMILIES = {"RegNetX": "regnetx_", "RegNetY": "regnety_", "EfficientNet": "efficientnet_"}
# Exponents of activations and of parameters over multiply-adds, to the digits they are known to.
SLOPES: Mapping[str, Mapping[str, str]] = {
    "RegNetX": {"activations": "0.550", "params": "0.694"},
    "RegNetY": {"activations": "0.516", "params": "0.758"},
    "EfficientNet": {"activations": "0.82"},
}
SIZES: Mapping[Level, int] = {
    "A": (16 * 128 * 3 * 6) ** 4, "B": (16 * 128 * 6) ** 4 * 3, "C": (16 * 128) ** 4 * 3 * 6,
}  # fmt: skip
DRAWS = 20_000
VALID, NEAR = 0.223, 0.01  # share of draws that are networks of four stages without a gap, and how near ours must be


def recorded() -> dict[str, dict[str, float]]:
    """What pycls records of the 24 published models and of EfficientNets: params, macs, activations by our names."""
    text = files("sartor.reproduce").joinpath("regnet.json").read_text()
    models: dict[str, dict[str, float]] = json.loads(text)["models"]
    return models


def exact(conditions: Conditions) -> Result:
    """Complexities, slopes, the sampler, the sizes of the spaces, and the statistics of a made-up population."""
    published = recorded()
    counted = {name: _counted(name) for name in published if name.startswith("regnet")}
    wrong = [name for name, cost in counted.items() if cost != published[name]]
    costs = {**published, **counted}
    slopes = {family: {m: _slope(costs, FAMILIES[family], m) for m in wanted} for family, wanted in SLOPES.items()}
    bent = [
        f"{family} {metric}"
        for family, wanted in SLOPES.items()
        for metric, digits in wanted.items()
        if f"{slopes[family][metric]:.{len(digits) - 2}f}" != digits
    ]
    shares = sampled()
    sizes = {level: anynet_space(level).size() for level in SIZES}
    odd = [level for level, size in SIZES.items() if sizes[level] != size]
    faults = statistics_faults()
    return Result(
        f"{len(counted) - len(wrong)} of {len(counted)} models have exactly the recorded parameters, multiply-adds and "
        f"activations; {_all(bent, 'exponents')} equal the published ones to their digits; {shares['valid']:.3f} of "
        f"{DRAWS:,} draws are networks (expected {VALID} to {NEAR}), {shares['gap']:.3f} have a gap; "
        f"{_all(odd, 'sizes of spaces A to C')} are those of the formulas; the distribution and bootstrap of a made-up "
        f"population {'fail: ' + ', '.join(faults) if faults else 'are as they were made'}.",
        passed=not (wrong or bent or odd or faults) and abs(shares["valid"] - VALID) <= NEAR,
        tables={
            "Models (multiply-adds with biases, as recorded)": _model_rows(counted, wrong),
            "Exponents of a cost over multiply-adds": _slope_rows(slopes),
            "Sizes of the spaces": [{"space": f"AnyNetX_{k}", "configurations": f"{v:.3e}"} for k, v in sizes.items()],
        },
        pictures={"activations": _picture(costs)},
        data={"wrong": wrong, "slopes": slopes, "shares": shares},
    )


def _counted(name: str) -> dict[str, float]:
    tally = spec_of(name).tally(convention="pycls")
    return {"params": tally.params, "macs": tally.macs, "activations": tally.activations}


def _family(costs: Costs, prefix: str) -> list[Mapping[str, float]]:
    return [cost for name, cost in costs.items() if name.startswith(prefix)]


def _slope(costs: Costs, prefix: str, metric: str) -> float:
    rows = _family(costs, prefix)
    return slope([row["macs"] for row in rows], [row[metric] for row in rows])


def _all(exceptions: Sequence[str], what: str) -> str:
    return f"all {what} but {', '.join(exceptions)}" if exceptions else f"all {what}"


def sampled() -> dict[str, float]:
    """Shares of the default sampler's draws: valid, with a gap, and with another number of stages than four."""
    rng = generator(0, "sampler")
    space = replace(regnet_space(), valid=None)
    lines = []
    for _ in range(DRAWS):
        c = space.sample(rng)
        lines.append(quantised_line(c["depth"], c["w0"], c["wa"], c["wm"]))
    gaps = sum(line.has_gap for line in lines)
    valid = sum(not line.has_gap and len(line.widths) == 4 for line in lines)
    return {"valid": valid / DRAWS, "gap": gaps / DRAWS, "stages": (DRAWS - gaps - valid) / DRAWS}


def statistics_faults() -> list[str]:
    """What is wrong with the error distribution and the bootstrap of a population whose best depth is 12."""
    rng = generator(0, "made up")
    depth = rng.integers(2, 30, 400)
    errors = 0.2 + 0.01 * np.abs(depth - 12) + 0.005 * rng.random(400)
    edf, band, faults = Edf.of(errors), best_band(depth, errors), []
    at = edf(np.linspace(0.0, 1.0, 101))
    if not (np.diff(at) >= 0).all() or at[0] != 0.0 or at[-1] != 1.0:
        faults.append("the distribution does not rise from 0 to 1")
    if not band.low <= 12 <= band.high or band.median != 12:
        faults.append(f"the best depth is found at {band.median:g}")
    return faults


def _model_rows(counted: Costs, wrong: list[str]) -> Rows:
    return [
        {"model": name, **{metric: f"{value:,.0f}" for metric, value in cost.items()},
         "as recorded": "no" if name in wrong else "yes"}
        for name, cost in counted.items()
    ]  # fmt: skip


def _slope_rows(slopes: Mapping[str, Mapping[str, float]]) -> Rows:
    return [
        {
            "family": family,
            **{metric: f"{found[metric]:.3f}" if metric in found else "–" for metric in SLOPES["RegNetX"]},
        }
        for family, found in slopes.items()
    ]


def _picture(costs: Costs) -> str:
    return svg(plot_scaling({family: _family(costs, prefix) for family, prefix in FAMILIES.items()}, "activations"))


REPRODUCTION = Reproduction(
    "regnet",
    "RegNet",
    {
        "exact": Part("Published models, spaces and statistics", exact, exact=True),
        "population": Part("Ascending against descending widths", widths),
        "contrast": Part("AnyNetX_A against RegNet", contrast, optional=True),
    },
)
