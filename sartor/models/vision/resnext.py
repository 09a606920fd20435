"""ResNeXt (Xie et al. 2017, arXiv 1611.05431): bottlenecks that sum ``groups`` transformations of equal shape.

The block has three forms that compute the same function (figure 3); ``to_form`` carries weights between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sartor.core.errors import SpecError, unknown
from sartor.core.spec import spec_kind
from sartor.models.anynet import AnyNet, AnyNetBackbone, Block, BlockKind, Site, Stage, Stem
from sartor.models.layers import Conv, Layer, Norm, Path
from sartor.models.vision.preact_resnet import Unit
from sartor.models.vision.resnet import Bottleneck, Shortcut, shortcut_of, shortcut_path

Form = Literal["A", "B", "C"]
SPLIT: Mapping[str, tuple[str, ...]] = {  # the layers that each path has for itself
    "A": ("conv1", "bn1", "conv2", "bn2", "conv3"),
    "B": ("conv1", "bn1", "conv2", "bn2"),
    "C": (),
}
_LAYER = re.compile(r"(?P<block>.+\.)(?P<layer>conv[123]|bn[12])(\.(?P<path>\d+))?\.(?P<leaf>\w+)")


@spec_kind
@dataclass(frozen=True, slots=True)
class Aggregated:
    """``groups`` paths of 1x1, 3x3 (with the stride) and 1x1 convolutions, ``inner`` wide together.

    Form A sums the paths' outputs, B concatenates them before one dense 1x1, C is a bottleneck with a grouped 3x3.
    State-dict names of path i append ``.i`` to those of form C, which are timm's.
    """

    kind: ClassVar[str] = "aggregated"
    inner: int
    groups: int = 32
    form: Form = "C"
    shortcut: Shortcut = "B"

    def __post_init__(self) -> None:
        if self.inner % self.groups:
            raise SpecError(f"aggregated: inner width {self.inner} is not a multiple of {self.groups} groups")

    def paths(self, site: Site) -> tuple[Path, ...]:
        """The branch of path 0 with what all share, the other paths, the projection where there is one."""
        if self.form == "C":
            return self.grouped().paths(site)
        width = self.inner // self.groups
        paths = []
        for i in range(self.groups):
            layers: dict[str, Layer] = {
                f"conv1.{i}": Conv(site.w_in, width, 1),
                f"bn1.{i}": Norm(width),
                f"conv2.{i}": Conv(width, width, 3, site.stride),
                f"bn2.{i}": Norm(width),
            }
            if self.form == "A":
                layers[f"conv3.{i}"] = Conv(width, site.w_out, 1)
            elif i == 0:
                layers["conv3"] = Conv(self.inner, site.w_out, 1)
            if i == 0:
                layers["bn3"] = Norm(site.w_out)
            paths.append(Path(layers))
        return *paths, *shortcut_path(self.shortcut, site)

    def grouped(self) -> Bottleneck:
        """The block of form C."""
        return Bottleneck(self.inner, self.groups, self.shortcut)

    def build(self, site: Site, act: str) -> Block:
        """The module."""
        return self.grouped().build(site, act) if self.form == "C" else AggregatedBlock(self, site, act)


class AggregatedBlock(Block):
    """Forms A and B: a sum or a concatenation over paths."""

    kind: Aggregated

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.kind.shortcut != "none"

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut and the branch."""
        paths = [self._path(str(i), x) for i in range(self.kind.groups)]
        if self.kind.form == "B":
            branch = self.conv3(torch.cat(paths, 1))
        else:
            ends = [self.conv3.get_submodule(str(i))(path) for i, path in enumerate(paths)]
            branch = sum(ends[1:], ends[0])
        return shortcut_of(self, self.kind.shortcut, x), self.bn3(branch)

    def _path(self, i: str, x: Tensor) -> Tensor:
        x = self.act(self.bn1.get_submodule(i)(self.conv1.get_submodule(i)(x)))
        return self.act(self.bn2.get_submodule(i)(self.conv2.get_submodule(i)(x)))  # type: ignore[no-any-return]


def with_form(spec: AnyNet, form: Form) -> AnyNet:
    """The spec with all its aggregated blocks in another form; raises SpecError if it has none."""
    if form not in SPLIT:
        raise SpecError(unknown("form of block", form, SPLIT))
    if not any(isinstance(stage.block, Aggregated) for stage in spec.stages):
        raise SpecError(f"only networks with aggregated blocks have a form {form}; these have none")
    stages = tuple(
        replace(stage, block=replace(stage.block, form=form)) if isinstance(stage.block, Aggregated) else stage
        for stage in spec.stages
    )
    return spec.replace(stages=stages)


def map_form(tensors: Mapping[str, Tensor], spec: AnyNet, form: Form) -> dict[str, Tensor]:
    """Tensors by state-dict name of ``spec`` (weights, gradients, moments) under the names of another form.

    Nothing is lost: paths are rows of the first two convolutions and norms, columns of the third convolution.
    """
    groups = {f"{spec.block_path(s, b)}.": k.groups for s, b, k, _ in spec.blocks() if isinstance(k, Aggregated)}
    mapped: dict[str, Tensor] = {}
    for name, tensor in _joined(tensors).items():
        match = _LAYER.fullmatch(name)
        if match is None or match["block"] not in groups or match["layer"] not in SPLIT[form]:
            mapped[name] = tensor
            continue
        count = groups[match["block"]]
        parts = tensor.chunk(count, _axis(match["layer"])) if tensor.ndim else [tensor] * count
        mapped.update({f"{match['block']}{match['layer']}.{i}.{match['leaf']}": part for i, part in enumerate(parts)})
    return mapped


def to_form(network: AnyNetBackbone, form: Form) -> AnyNetBackbone:
    """A copy of the network whose aggregated blocks have another form; outputs, statistics and gradients agree."""
    other = with_form(network.spec, form).build().to(next(network.parameters()))
    other.load_state_dict(map_form(network.state_dict(), network.spec, form))
    return other.train(network.training)


def _axis(layer: str) -> int:
    return 1 if layer == "conv3" else 0


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of form C; what has no axis, a count of batches, is taken from the first path."""
    whole: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None or match["path"] is None:
            whole[name] = tensor
        else:
            key = f"{match['block']}{match['layer']}.{match['leaf']}", match["layer"]
            parts.setdefault(key, {})[int(match["path"])] = tensor
    for (name, layer), numbered in parts.items():
        ordered = [numbered[i] for i in sorted(numbered)]
        whole[name] = torch.cat(ordered, _axis(layer)) if ordered[0].ndim else ordered[0]
    return whole


def path_width(base: int, width: int, groups: int) -> int:
    """Inner width of the stage whose first-stage ResNet base is ``base``: floor(base * width / 64) in each group."""
    return base * width // 64 * groups


def resnext(
    depths: Sequence[int], groups: int, width: int, form: Form = "C", shortcut: Shortcut = "B", preact: bool = False
) -> AnyNet:
    """The ImageNet form of ``groups`` x ``width`` d: as ResNet's, the stride on the 3x3.

    ``preact`` takes pre-activated blocks, as the paper's first version did (form C with shortcut B alone).
    """
    stages = _stages(depths, groups, width, form, shortcut, preact)
    return _net(Stem(64, 7, 2, pool=True), stages, preact)


def resnext_cifar(
    depth: int,
    groups: int,
    width: int,
    form: Form = "C",
    shortcut: Shortcut = "B",
    preact: bool = False,
    classes: int = 10,
) -> AnyNet:
    """The CIFAR form of 9n+2 layers: 3x3 stem of width 64, three stages that end 256, 512 and 1024 wide.

    Raises SpecError for another depth.
    """
    count, rest = divmod(depth - 2, 9)
    if count < 1 or rest:
        raise SpecError(f"resnext_cifar: depth is 9n+2, not {depth}")
    stages = _stages([count] * 3, groups, width, form, shortcut, preact)
    return _net(Stem(64), stages, preact).replace(classes=classes, size=(32, 32))


def _stages(
    depths: Sequence[int], groups: int, width: int, form: Form, shortcut: Shortcut, preact: bool
) -> tuple[Stage, ...]:
    if preact and (form, shortcut) != ("C", "B"):
        raise SpecError(f"resnext: pre-activated blocks have form C and shortcut B, not {form} and {shortcut}")
    stages = []
    for number, depth in enumerate(depths):
        base = 64 * 2**number
        inner = path_width(base, width, groups)
        block: BlockKind = Aggregated(inner, groups, form, shortcut)
        if preact:
            block = Unit((1, 3, 1), inner, groups, stride_at=1)
        stages.append(Stage(block, depth, 4 * base, 1 if number == 0 else 2))
    return tuple(stages)


def _net(stem: Stem, stages: tuple[Stage, ...], preact: bool) -> AnyNet:
    return AnyNet(stem, stages, final_norm=preact, names="preact" if preact else "resnet")
