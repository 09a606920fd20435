"""Losses over a tree of classes (Ridnik et al. 2021, "ImageNet-21K Pretraining for the Masses", section 3).

The network has an output for each class of the tree (``LabelTree``), first those of the classes that examples are
labelled with. The single-label baseline of the paper is ``cross-entropy`` with a smoothing of 0.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import DataError
from sartor.core.spec import spec_kind
from sartor.data.hierarchy import Hierarchy, read_hierarchy
from sartor.data.label_tree import LabelTree, Levels, label_tree
from sartor.training.losses.classification import LogitLoss
from sartor.training.plan import Batch, Context, Modules

_BLOCK = 32  # places of a level's logits that are reduced together
_CONFIDENT = 0.05  # share of a level's classes whose probabilities are the teacher's confidence


@runtime_checkable
class TreeLoss(Protocol):
    """A loss of a recipe that needs the tree of the task's classes."""

    def check(self) -> None:
        """Raises DataError if the hierarchy's file cannot be read."""

    def tree(self, classes: Sequence[str]) -> LabelTree:
        """The tree; raises DataError if the hierarchy cannot be read or lacks a class."""

    def on(self, tree: LabelTree) -> LogitLoss:
        """The loss of logits with an output for each class of the tree."""


@spec_kind
@dataclass(frozen=True)
class SemanticSoftmax:
    """A softmax over each level of a tree, and cross-entropy where a label has an ancestor there.

    ``hierarchy`` is a file for ``read_hierarchy``, ``ancestors`` as for ``label_tree``, ``include_last`` as for
    ``LabelTree.levels``; ImageNet-21K-P is trained with both False.
    """

    hierarchy: str
    smoothing: float = 0.2
    ancestors: bool = True
    include_last: bool = True
    kind: ClassVar[str] = "semantic-softmax"

    def check(self) -> None:
        """Read the hierarchy, so that what is wrong with its file is said early."""
        _hierarchy(self.hierarchy)

    def tree(self, classes: Sequence[str]) -> LabelTree:
        """The tree of the task's classes."""
        return label_tree(_hierarchy(self.hierarchy), classes, ancestors=self.ancestors)

    def on(self, tree: LabelTree) -> SemanticCrossEntropy:
        """The loss for a tree."""
        return SemanticCrossEntropy(tree.levels(include_last=self.include_last), self.smoothing)


@spec_kind
@dataclass(frozen=True)
class MultiLabel:
    """The multi-label baseline: a class and all its ancestors are positive, each output a sigmoid.

    The asymmetric loss (Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification"), summed over
    classes and averaged over the batch; with both gammas and ``margin`` 0 it is binary cross-entropy.
    """

    hierarchy: str
    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    margin: float = 0.05
    ancestors: bool = True
    kind: ClassVar[str] = "multi-label"

    def check(self) -> None:
        """Read the hierarchy, so that what is wrong with its file is said early."""
        _hierarchy(self.hierarchy)

    def tree(self, classes: Sequence[str]) -> LabelTree:
        """The tree of the task's classes."""
        return label_tree(_hierarchy(self.hierarchy), classes, ancestors=self.ancestors)

    def on(self, tree: LabelTree) -> LogitLoss:
        """The loss for a tree."""
        paths = _Placed(path=torch.from_numpy(tree.paths))

        def loss(logits: Tensor, batch: Batch) -> Tensor:
            path = paths.on(logits.device)["path"]
            target = logits.new_zeros(logits.shape, dtype=_full(logits).dtype)
            for label, share in _labels(batch):
                target += _positives(path[label], logits.shape[1]) * share
            return _asymmetric(_full(logits), target, self).sum() / len(logits)

        return loss


class SemanticCrossEntropy:
    """Semantic softmax: the sum over levels of their weight times label-smoothed cross-entropy within the level.

    The mean is over the batch with the examples that have no target at a level, which add nothing. All levels are
    computed in one pass, in float32 or better. Logits are (n, C) for the C classes of the levels' tree.
    """

    def __init__(self, levels: Levels, smoothing: float = 0.2) -> None:
        self.smoothing = smoothing
        layout = _layout(levels)
        path = torch.from_numpy(levels.path)
        path = torch.where(path >= 0, layout["place"][path.clamp_min(0)], -1)
        weights, sizes = torch.from_numpy(levels.weights), torch.from_numpy(levels.sizes)
        self._tables = _Placed(**layout, path=path, weights=weights, sizes=sizes)

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch, mixed examples by the shares of their two labels."""
        tables = self._tables.on(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            z = _full(logits)
            path = torch.stack([tables["path"][label] for label, _ in _labels(batch)], 1)
            shares = torch.stack([(path[:, i] >= 0) * share for i, (_, share) in enumerate(_labels(batch))], 1)
            shares = (shares * (tables["weights"] / len(z))).to(z.dtype)
            even = self.smoothing / tables["sizes"].to(z.dtype)
            loss: Tensor = _LevelCrossEntropy.apply(  # type: ignore[no-untyped-call]
                z, path.clamp_min(0), shares, tables, even, 1.0 - self.smoothing
            )
        return loss


@dataclass(frozen=True)
class SemanticDistillation:
    """The loss of a plan: ``loss`` of the module ``model``, and its distance to the frozen module ``teacher``.

    Both have an output for each class of the levels' tree; ``alpha`` weighs the distance.
    """

    loss: LogitLoss
    levels: Levels
    alpha: float = 1.0

    def __call__(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The terms ``loss`` and ``distillation``."""
        student, teacher = (modules[name](batch["image"]) for name in ("model", "teacher"))
        distance = semantic_distance(student, teacher, self.levels)
        return {"loss": self.loss(student, batch), "distillation": self.alpha * distance}


def semantic_distance(student: Tensor, teacher: Tensor, levels: Levels) -> Tensor:
    """Semantic distillation: squared differences of the probabilities within levels, summed over all (section 3).

    Each example counts at a level by the teacher's confidence there, the sum of its highest 5 % of probabilities.
    Logits are (n, C); the gradient reaches the student only.
    """
    total = _full(student).new_zeros(())
    for level in range(len(levels.sizes)):
        members = torch.from_numpy(levels.members(level)).to(student.device)
        own, wanted = (_full(z).index_select(1, members).softmax(1) for z in (student, teacher.detach()))
        confidence = wanted.topk(math.ceil(_CONFIDENT * len(members)), dim=1).values.sum(1)
        total = total + (confidence * (own - wanted).square().sum(1)).sum()
    return total


def _layout(levels: Levels) -> dict[str, Tensor]:
    """Where columns go so that levels can be reduced fast: blocks of ``_BLOCK`` places, all of one level.

    ``order`` is the column of each place; a level's last block repeats one of its columns, at the places ``repeats``.
    ``place`` is the place of each column, ``level`` the level of each block, ``member`` (blocks, levels + 1) the same
    as ones. Columns of no level make a last one.
    """
    order, repeats = [], []
    level: list[int] = []
    for number in range(len(levels.sizes) + 1):
        members = levels.members(number)
        blocks = -(-len(members) // _BLOCK)
        start = _BLOCK * len(level)
        repeats.append(np.arange(start + len(members), start + _BLOCK * blocks))
        order.append(np.resize(members, _BLOCK * blocks))
        level += [number] * blocks
    columns, again = np.concatenate(order), np.concatenate(repeats)
    place = np.empty(len(levels.level), np.int64)
    first = np.setdiff1d(np.arange(len(columns)), again)
    place[columns[first]] = first
    tensors = {"order": columns, "repeats": again, "place": place, "level": np.array(level)}
    member = F.one_hot(torch.tensor(level), len(levels.sizes) + 1).float()
    return {name: torch.from_numpy(array) for name, array in tensors.items()} | {"member": member}


class _LevelCrossEntropy(torch.autograd.Function):
    """Weighted cross-entropies within the levels of (n, C) logits, summed, with the gradient taken on the way.

    ``path`` and ``shares`` (n, k, levels) are the places of k labels' targets and their weights in the sum; ``tables``
    come from ``_layout``. Of each target's weight a part ``rest`` lies on its class, and ``even`` (levels,) on each of
    its level. Passes over the logits are few and in place, because they are what takes the time.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, path: Tensor, shares: Tensor, tables: Mapping[str, Tensor], even: Tensor, rest: float
    ) -> Tensor:
        level, repeats = tables["level"], tables["repeats"]
        reached, path, shares = F.pad(shares.sum(1), (0, 1)), path.flatten(1), rest * shares.flatten(1)
        spread = (reached * F.pad(even, (0, 1))).index_select(1, level)
        flat = z.index_select(1, tables["order"])
        blocks = flat.view(len(z), -1, _BLOCK)
        highest = blocks.amax(2)
        top = torch.full_like(reached, -math.inf).scatter_reduce_(1, level.expand_as(highest), highest, "amax")
        blocks -= top.index_select(1, level)[:, :, None]  # it cancels out
        flat.index_fill_(1, repeats, 0.0)
        loss = -(spread * blocks.sum(2)).sum() - (shares * flat.gather(1, path)).sum()
        flat.exp_().index_fill_(1, repeats, 0.0)
        sums = blocks.sum(2) @ tables["member"].to(z.dtype)
        loss += (reached * sums.log())[:, :-1].sum()
        if ctx.needs_input_grad[0]:
            blocks *= (reached / sums).index_select(1, level)[:, :, None]
            blocks -= spread[:, :, None]
            flat.scatter_add_(1, path, -shares)
            ctx.save_for_backward(flat, tables["place"])
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, place = ctx.saved_tensors
        return flat.index_select(1, place).mul_(gradients[0]), *[None] * 5


class _Placed:
    """Constant tensors, copied once to each device they are needed on."""

    def __init__(self, **tensors: Tensor) -> None:
        self._on = {torch.device("cpu"): tensors}

    def on(self, device: torch.device) -> Mapping[str, Tensor]:
        """The tensors by name."""
        if device not in self._on:
            self._on[device] = {name: tensor.to(device) for name, tensor in self._on[torch.device("cpu")].items()}
        return self._on[device]


def _labels(batch: Batch) -> list[tuple[Tensor, Tensor | float]]:
    """The labels of a batch (n,), each with its share (n, 1)."""
    if "share" not in batch:
        return [(batch["label"], 1.0)]
    share = batch["share"][:, None]
    return [(batch["label"], share), (batch["other"], 1.0 - share)]


def _positives(path: Tensor, classes: int) -> Tensor:
    """(n, classes) with a 1 for each class of the paths (n, depths), where -1 is none."""
    found = torch.zeros(len(path), classes + 1, device=path.device)
    return found.scatter_(1, path.where(path >= 0, classes), 1.0)[:, :-1]


def _asymmetric(z: Tensor, target: Tensor, of: MultiLabel) -> Tensor:
    """The asymmetric loss of each logit."""
    p = z.sigmoid()
    if of.margin:
        lowered = (p - of.margin).clamp_min(0.0)
        log_not = torch.log1p(-lowered)
    else:
        lowered, log_not = p, F.logsigmoid(-z)
    positive = target * (1.0 - p) ** of.gamma_positive * F.logsigmoid(z)
    return -(positive + (1.0 - target) * lowered**of.gamma_negative * log_not)


def _full(logits: Tensor) -> Tensor:
    """The logits in float32 or better."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _hierarchy(path: str) -> Hierarchy:
    """The hierarchy of a file, read once as long as it stays as it is."""
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError:
        raise DataError(f"hierarchy {path}: no such file; name one with --set loss.hierarchy=FILE") from None
    return _read(path, changed)


@lru_cache(maxsize=2)
def _read(path: str, changed: int) -> Hierarchy:
    return read_hierarchy(path)
