"""The design spaces AnyNetX A to E and RegNet (Radosavovic et al. 2020, arXiv 2003.13678, sections 3 and 4).

A space is judged by the errors of a population: unique networks drawn from it under bounds on their counted cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

from sartor.core.budget import Bound, Budget
from sartor.core.cost import Quantity
from sartor.core.errors import SpecError, unknown
from sartor.core.genes import Gene, Int, Order, Real, Repeat
from sartor.core.rng import generator
from sartor.core.space import Config, Space
from sartor.models.anynet import AnyNet
from sartor.models.network import count
from sartor.models.vision.regnet import QUANTUM, Line, StageRow, anynet_x, quantised_line

Level = Literal["A", "B", "C", "D", "E"]
Range = tuple[float, float]
# What each AnyNetX space asks of its lists of genes: every space adds one restriction (section 3.2).
_RESTRICTIONS: tuple[tuple[str, Order], ...] = (
    ("bottle_ratio", "constant"),
    ("group_width", "constant"),
    ("width", "increasing"),
    ("depth", "increasing"),
)
# Genes a block has no use for: R has no groups, the plain convolutions have no bottleneck either.
_UNUSED: Mapping[str, tuple[str, ...]] = {
    "r": ("group_width",),
    **dict.fromkeys(("v", "vr", "vanilla", "basic"), ("group_width", "bottle_ratio")),
}
_CHUNK = 256  # draws of a population that share a generator


BASE = anynet_x([StageRow(1, 8)])  # pycls's defaults: the simple stem, 224x224 images, 1000 classes


@dataclass(frozen=True)
class Setting:
    """What all networks of a design space share.

    ``base`` gives the stem, the image size, the classes and the activation; its stages are replaced. ``block`` is a
    key of ``regnet.BLOCKS``; ``se`` makes x blocks Y blocks. Stages have the given ``strides``, then stride 2.
    """

    base: AnyNet = BASE
    block: str = "x"
    se: float = 0.0
    strides: tuple[int, ...] = ()

    def network(self, rows: Sequence[StageRow]) -> AnyNet:
        """The network with these stages."""
        strided = [row._replace(stride=stride) for row, stride in zip(rows, self.strides, strict=False)]
        spec = anynet_x([*strided, *rows[len(strided) :]], block=self.block, se=self.se)
        return self.base.replace(stages=spec.stages)


def anynet_space(
    level: Level,
    setting: Setting | None = None,
    *,
    stages: int = 4,
    ranges: Mapping[str, Range] | None = None,
    orders: Mapping[str, Order] | None = None,
) -> Space:
    """AnyNetX_A, in which the stages are free, or one of its restrictions B to E.

    ``ranges`` replaces the paper's of depth (1 to 16), width (8 to 1024), bottle ratio (1/4 to 1) and group width
    (1 to 32). ``orders`` replaces restrictions, for the paper's controls: ``{"width": "decreasing"}``. Ordered lists
    are free draws sorted. Raises SpecError for an unknown level, gene or range.
    """
    if level not in get_args(Level):
        raise SpecError(unknown("AnyNetX space", level, get_args(Level)))
    setting = setting or Setting()
    restricted = dict(_RESTRICTIONS[: get_args(Level).index(level)]) | dict(orders or {})
    items = _ranged(
        (
            Int("depth", 1, 16, 1, "log_uniform"),
            Int("width", 8, 1024, 8, "log_uniform"),
            Real("bottle_ratio", 0.25, 1.0, 1 / 128, "power2_uniform"),
            Int("group_width", 1, 32, 1, "power2_uniform"),
        ),
        ranges,
        setting.block,
    )
    for name in orders or {}:
        if name not in dict(_RESTRICTIONS):
            raise SpecError(unknown("gene", name, dict(_RESTRICTIONS)))
    genes = tuple(Repeat(item, stages, restricted.get(item.name, "free")) for item in items)
    return Space(f"anynet_{level.lower()}", genes, partial(anynet_network, setting), count)


def regnet_space(
    setting: Setting | None = None,
    *,
    stages: tuple[int, int] = (4, 4),
    ranges: Mapping[str, Range] | None = None,
    tied: bool = False,
) -> Space:
    """RegNets by their six parameters, under pycls's default ranges and laws; ``stages`` bounds their number.

    Nets whose line leaves out a width are not valid. ``ranges`` replaces default ranges; ``{"wm": (2.0, 2.0)}`` and
    ``tied``, which sets w0 = wa, are the paper's controls.
    """
    setting = setting or Setting()
    genes = _ranged(
        (
            Int("depth", 12, 28),
            Int("w0", 8, 256, QUANTUM, "log_uniform"),
            Real("wa", 8.0, 256.0, 0.1, "log_uniform"),
            Real("wm", 2.0, 3.0, 0.001, "log_uniform"),
            Int("group_width", 8, 128, 8, "power2_or_log_uniform"),
            Real("bottle_ratio", 1.0, 1.0, 1 / 128, "power2_uniform"),
        ),
        ranges,
        setting.block,
    )
    kept: tuple[Gene, ...] = tuple(gene for gene in genes if not (tied and gene.name == "wa"))
    return Space("regnet", kept, partial(_regnet, setting), count, valid=partial(_has_whole_line, stages))


def rule_of_thumb(macs: float) -> Budget:
    """pycls's bounds for good RegNets of at most ``macs`` multiply-adds at 224.

    With F in billions: parameters < (3 + 5.5 F) million and activations < 6.5 sqrt(F) million.
    """
    f = macs / 1e9
    return _limits({"macs": macs, "params": (3.0 + 5.5 * f) * 1e6, "activations": 6.5e6 * math.sqrt(f)})


def between(complexity: Mapping[str, Range]) -> tuple[Budget, Budget]:
    """Budget and floor of ranges of counted cost, for ``Space.within``; an end of 0 is open."""
    low, high = ({name: ends[i] for name, ends in complexity.items() if ends[i]} for i in (0, 1))
    return _limits(high), _limits(low)


def population(
    space: Space, n: int, seed: int = 0, *, draws: int = 1_000_000, pool: Executor | None = None
) -> list[Config]:
    """``n`` different valid configurations, the first of at most ``draws`` draws; the same with any pool of workers.

    Raises SpecError if there are not so many among the draws.
    """
    jobs = [(space, seed, chunk) for chunk in range(math.ceil(draws / _CHUNK))]
    found: dict[Config, None] = {}
    window = 32 if pool else 1
    for start in range(0, len(jobs), window):
        part = jobs[start : start + window]
        for configs in pool.map(_drawn, part) if pool else map(_drawn, part):
            found |= dict.fromkeys(configs)
        if len(found) >= n:
            return list(found)[:n]
    raise SpecError(f"space {space.name}: only {len(found)} of {n} configurations found in {draws} draws")


def _drawn(job: tuple[Space, int, int]) -> list[Config]:
    space, seed, chunk = job
    rng = generator(seed, "population", chunk)
    attempts = (space.attempt(rng) for _ in range(_CHUNK))
    return [config for config in attempts if config is not None]


def _ranged(genes: Sequence[Real], ranges: Mapping[str, Range] | None, block: str) -> tuple[Real, ...]:
    """The genes a block has a use for, with other ranges."""
    for name in ranges or {}:
        if name not in [gene.name for gene in genes]:
            raise SpecError(unknown("gene", name, [gene.name for gene in genes]))
    used = [gene for gene in genes if gene.name not in _UNUSED.get(block, ())]
    return tuple(_with_range(gene, *ranges[gene.name]) if ranges and gene.name in ranges else gene for gene in used)


def _with_range(gene: Real, low: float, high: float) -> Real:
    number = int if isinstance(gene, Int) else float
    return replace(gene, low=number(low), high=number(high))


def anynet_network(setting: Setting, config: Config) -> AnyNet:
    """The network of lists ``depth`` and ``width``, and of ``bottle_ratio`` and ``group_width`` if there are any."""
    depths, widths = config["depth"], config["width"]
    ratios = config.get("bottle_ratio", (1.0,) * len(depths))
    groups = config.get("group_width", (1,) * len(depths))
    return setting.network([StageRow(*row) for row in zip(depths, widths, ratios, groups, strict=True)])


def _regnet(setting: Setting, config: Config) -> AnyNet:
    line = _line(config)
    ratio, group_width = config.get("bottle_ratio", 1.0), config.get("group_width", 1)
    rows = [StageRow(d, w, ratio, group_width) for d, w in zip(line.depths, line.widths, strict=True)]
    return setting.network(rows)


def _line(config: Config) -> Line:
    return quantised_line(config["depth"], config["w0"], config.get("wa", config["w0"]), config["wm"])


def _has_whole_line(stages: tuple[int, int], config: Config) -> bool:
    line = _line(config)
    return not line.has_gap and stages[0] <= len(line.widths) <= stages[1]


def _limits(values: Mapping[str, float]) -> Budget:
    return Budget(tuple(Bound(Quantity.parse(name), False, float(value)) for name, value in values.items()))
