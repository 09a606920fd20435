"""The spaces the main job samples: small ones of strong networks, one per family, suited to an image size.

A configuration is a structure and a ``width`` that scales it, so that any structure can be brought as near to a
budget as whole multiples of channels allow (``near``). Families of convolutional nets are here, those of
transformers in ``spaces_attention``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from sartor.core.errors import SpecError, unknown
from sartor.core.genes import Choice, Gene, Int, Real
from sartor.core.space import Config, Space
from sartor.cost.counters import out_size
from sartor.models.anynet import AnyNet, BlockKind, Stage, Stem
from sartor.models.network import count
from sartor.models.vision.hardnet import Harmonic
from sartor.models.vision.preact_resnet import Unit
from sartor.models.vision.regnet import Line, XBlock, fit_groups, quantised_line
from sartor.models.vision.res2net import MultiScale
from sartor.models.vision.resnet import Basic, Bottleneck
from sartor.models.vision.simplenet import PlainUnit, SimpleNet
from sartor.search.spaces_attention import ATTENTION, attention_space, unsuited
from sartor.search.spaces_attention import Image as Image

Net = AnyNet | SimpleNet
Fitted = tuple[int, BlockKind]  # a stage's width, made to fit its block, and the block
MOST_STAGES = 4
_UNIT = 8000  # a width from which the shape of a line is read, whatever its scale


class StemKind(NamedTuple):
    """How a network begins: kernel, stride and pooling of the stem, and the stride of the first stage."""

    kernel: int
    stride: int
    pool: bool = False
    then: int = 1


STEMS: Mapping[str, StemKind] = {
    "3x3/1": StemKind(3, 1),
    "3x3/2": StemKind(3, 2),
    "4x4/2": StemKind(4, 2),
    "4x4/4": StemKind(4, 4),
    "7x7/4": StemKind(7, 4),
    "7x7/2 pool": StemKind(7, 2, pool=True),
    "3x3/2 stage/2": StemKind(3, 2, then=2),
}


@dataclass(frozen=True)
class Family:
    """What tells one family from another: its genes beside the common ones, its block, and what its nets have.

    ``block`` makes a wanted width fit; families without one are plain nets, whose stages end in poolings. ``line``
    families take stage depths and widths from a quantised line. ``deep_stem`` makes a stem that pools three
    convolutions and its pooling another.
    """

    block: Callable[[int, Config], Fitted] | None
    genes: tuple[Gene, ...] = ()
    line: bool = False
    stem_norm: bool = True
    most_stem: int = 64
    deep_stem: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def _basic(width: int, config: Config) -> Fitted:
    return width, Basic()


def _wide(width: int, config: Config) -> Fitted:
    return width, Unit((3, 3))


def _preact(width: int, config: Config) -> Fitted:
    return width, Unit((1, 3, 1), rounded(width * config["bottle_ratio"]), stride_at=1)


def _grouped(width: int, config: Config) -> Fitted:
    width, group_width = fit_groups(width, config["group_width"], config["bottle_ratio"])
    inner = round(width * config["bottle_ratio"])
    return width, Bottleneck(inner, inner // group_width)


def _split(width: int, config: Config) -> Fitted:
    return width, MultiScale(max(1, round(width * config["bottle_ratio"] / config["scale"])), config["scale"])


def _x(se: float, width: int, config: Config) -> Fitted:
    width, group_width = fit_groups(width, config["group_width"])
    return width, XBlock(width, width // group_width, se)


def _dense(width: int, config: Config) -> Fitted:
    growth = max(2, 2 * round(width * config["growth"] / 2))
    return width, Harmonic(config["layers"], growth, config["multiplier"])


def _gated(width: int, config: Config) -> Fitted:
    return width, Bottleneck(rounded(width * config["bottle_ratio"]), shortcut="D", se=0.25)


_GROUP_WIDTH = Int("group_width", 8, 32, 1, "power2_uniform")  # narrower groups take more time than wider ones
_PREACT = {"names": "preact", "final_norm": True}
_REGNET = {"names": "regnet", "fc_std": 0.01}
FAMILIES: Mapping[str, Family] = {  # in the order of their turns, where not all get equally many
    "wide_resnet": Family(_wide, stem_norm=False, options={**_PREACT, "init": "fan_in"}),
    "resnet": Family(_basic),
    "regnety": Family(partial(_x, 0.25), (_GROUP_WIDTH,), line=True, most_stem=32, options=_REGNET),
    "preact_resnet": Family(_preact, (Choice("bottle_ratio", (0.25, 0.5)),), options=_PREACT),
    "regnetx": Family(partial(_x, 0.0), (_GROUP_WIDTH,), line=True, most_stem=32, options=_REGNET),
    "resnext": Family(_grouped, (_GROUP_WIDTH, Choice("bottle_ratio", (0.5, 1.0)))),
    "simplenet": Family(None),
    "resnet_rs": Family(
        _gated, (Choice("bottle_ratio", (0.25, 0.5)),), deep_stem=True, options={"fc_std": 0.01, "zero_gamma": True}
    ),
    "hardnet": Family(
        _dense,
        (
            Choice("layers", (4, 8, 16), (3.0, 2.0, 1.0)),
            Choice("multiplier", (1.6, 1.7)),
            Real("growth", 0.1, 0.4, 0.05),
        ),
        options={"names": "hardnet", "act": "relu6"},
    ),
    "res2net": Family(_split, (Choice("scale", (2, 3, 4, 6)), Choice("bottle_ratio", (0.5, 1.0)))),
}  # fmt: skip


def families() -> tuple[str, ...]:
    """The names ``family_space`` takes, in the order of their turns."""
    return (*FAMILIES, *ATTENTION)


def check_families(names: Sequence[str]) -> tuple[str, ...]:
    """The names as given, each once; raises SpecError for one that is no family."""
    for name in names:
        if name not in families():
            raise SpecError(unknown("family", name, families()))
    return tuple(dict.fromkeys(names))


def why_unsuited(name: str, image: Image) -> str:
    """Why a family has no network for images of (channels, height, width), or nothing."""
    return unsuited(name, image) if name in ATTENTION else ""


def family_space(name: str, image: Image, classes: int) -> Space:
    """The space of a family for images of (channels, height, width).

    Stems and numbers of stages are those that leave maps of 4 to 8 pixels a side (2 to 8 for images below 24) to the
    last stage; transformers keep up to 14. Raises SpecError for an unknown family, or images that do not suit one.
    """
    check_families((name,))
    if name in ATTENTION:
        return attention_space(name, image, classes)
    family, side = FAMILIES[name], min(image[1:])
    layouts = _layouts(side, family.line)
    genes = (Choice("stem", tuple(layouts)), *(_line_genes(side) if family.line else _stage_genes(side, layouts)))
    width = Int("width", 4, 1024, 1, "log_uniform")
    if family.line:
        return Space(
            name, (*genes, *family.genes, width), partial(_line_net, family, image, classes), count,
            valid=partial(_line_fits, layouts),
        )  # fmt: skip
    later = {f"{kind}{n}": partial(_has_stage, n) for n in range(2, MOST_STAGES + 1) for kind in ("depth", "growth")}
    names = [gene.name for gene in genes]
    return Space(
        name, (*genes, *family.genes, width), partial(_staged_net, family, image, classes), count,
        active={gene: rule for gene, rule in later.items() if gene in names}, repair=partial(_with_stages, layouts),
    )  # fmt: skip


def rounded(width: float) -> int:
    """The nearest multiple of 8, or of 4 below 32, and at least 4."""
    return max(4, round(width / 4) * 4) if width < 32 else round(width / 8) * 8


def _layouts(side: int, line: bool) -> dict[str, tuple[int, ...]]:
    """The stems that suit an image side, each with its numbers of stages."""
    if side < 20:
        names: tuple[str, ...] = ("3x3/1",)
    elif side < 48:
        names = ("3x3/1", "3x3/2", "4x4/2")
    elif side < 96:
        names = ("3x3/2", "4x4/2", "4x4/4")
    else:
        names = ("3x3/2", "3x3/2 stage/2") if line else ("3x3/2", "7x7/4", "7x7/2 pool")
    least, most, fewest = (4, 8, 3) if side >= 24 else (2, 8, 2)
    layouts, last = {}, {}
    for name in names:
        maps = {n: _last_map(STEMS[name], side, n) for n in range(1, MOST_STAGES + 1)}
        fitting = tuple(n for n, size in maps.items() if least <= size <= most and n >= fewest)
        layouts[name] = fitting or (min(maps, key=lambda n: (max(maps[n] / most, least / maps[n]), n)),)
        last[name] = maps[layouts[name][-1]]
    deep = max(counts[-1] for counts in layouts.values())
    small = max(most, min(last.values()))
    return {n: counts for n, counts in layouts.items() if last[n] <= small and counts[-1] >= min(fewest, deep)}


def _last_map(stem: StemKind, side: int, stages: int) -> int:
    size, _ = out_size((side, side), stem.kernel, stem.stride, (stem.kernel - 1) // 2)
    for halving in [stem.pool, stem.then == 2] + [True] * (stages - 1):
        size = -(-size // 2) if halving else size
    return size


def _stage_genes(side: int, layouts: Mapping[str, tuple[int, ...]]) -> tuple[Gene, ...]:
    """Depths and growths of widths stage by stage. Few blocks are likely: short trainings favour width."""
    numbers = tuple(sorted({n for counts in layouts.values() for n in counts}))
    depths: tuple[int, ...] = (1, 2, 3)
    weights: tuple[float, ...] = (5.0, 3.0, 1.0)
    if side >= 48:
        depths, weights = (1, 2, 3, 4, 6), (2.0, 3.0, 2.0, 1.0, 1.0)
    genes: list[Gene] = [Choice("stages", numbers)]
    genes += [Choice(f"depth{n}", depths, weights) for n in range(1, numbers[-1] + 1)]
    genes += [Real(f"growth{n}", 1.0, 2.0, 0.1) for n in range(2, numbers[-1] + 1)]
    return tuple(genes)


def _line_genes(side: int) -> tuple[Gene, ...]:
    """The line of a RegNet with its slope in units of w0, so that the width alone scales it."""
    low, high = (3, 12) if side < 48 else (5, 16) if side < 96 else (10, 24)
    return (
        Int("depth", low, high, 1, "log_uniform"),
        Real("slope", 0.2, 2.0, 0.05, "log_uniform"),
        Real("wm", 1.5, 3.0, 0.05, "log_uniform"),
    )


def _has_stage(number: int, values: Mapping[str, Any]) -> bool:
    return bool(values["stages"] >= number)


def _with_stages(layouts: Mapping[str, tuple[int, ...]], values: dict[str, Any]) -> dict[str, Any]:
    """As many stages as the stem allows, the nearest number to the one wanted."""
    return {**values, "stages": min(layouts[values["stem"]], key=lambda n: abs(n - values["stages"]))}


def _line(config: Config) -> Line:
    return quantised_line(config["depth"], _UNIT, _UNIT * config["slope"], config["wm"])


def _line_fits(layouts: Mapping[str, tuple[int, ...]], config: Config) -> bool:
    line = _line(config)
    return not line.has_gap and line.levels in layouts[config["stem"]]


def _staged_net(family: Family, image: Image, classes: int, config: Config) -> Net:
    width, shape = float(config["width"]), []
    for n in range(1, config["stages"] + 1):
        width *= config.get(f"growth{n}", 1.0)
        shape.append((config[f"depth{n}"], rounded(width)))
    return _net(family, image, classes, config, shape)


def _line_net(family: Family, image: Image, classes: int, config: Config) -> Net:
    line = _line(config)
    widths = [rounded(config["width"] * width / _UNIT) for width in line.widths]
    return _net(family, image, classes, config, list(zip(line.depths, widths, strict=True)))


def _net(family: Family, image: Image, classes: int, config: Config, shape: list[tuple[int, int]]) -> Net:
    """The network of stage depths and wanted widths."""
    if family.block is None:
        return _plain_net(family, image, classes, STEMS[config["stem"]], shape)
    kernel, stride, pool, then = STEMS[config["stem"]]
    stages = []
    for number, (depth, wanted) in enumerate(shape):
        width, block = family.block(wanted, config)
        stages.append(Stage(block, depth, width, then if number == 0 else 2))
    width = min(stages[0].width, family.most_stem)
    stem = Stem(width, kernel, stride, pool, family.stem_norm)
    if family.deep_stem and pool:
        stem = Stem(width, 3, stride, "conv", before=(max(4, width // 2),) * 2)
    return AnyNet(stem, tuple(stages), classes, image[0], image[1:], **family.options)


def _plain_net(family: Family, image: Image, classes: int, stem: StemKind, shape: list[tuple[int, int]]) -> SimpleNet:
    """A plain net: the stem's convolution as a unit, then units of 3x3; a pooling ends all stages but the last."""
    kernel, stride, pool, then = stem
    pooled = pool or then == 2
    units = [PlainUnit(min(shape[0][1], family.most_stem), kernel, stride, pool="end" if pooled else "none")]
    for number, (depth, width) in enumerate(shape):
        units += [PlainUnit(width)] * (depth - 1)
        units.append(PlainUnit(width, pool="none" if number == len(shape) - 1 else "end"))
    return SimpleNet(tuple(units), classes, image[0], image[1:], ceil=True)
