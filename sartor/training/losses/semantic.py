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

import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.core.errors import DataError
from sartor.core.spec import spec_kind
from sartor.data.hierarchy import Hierarchy, read_hierarchy
from sartor.data.label_tree import LabelTree, Levels, label_tree
from sartor.training.losses.classification import LogitLoss
from sartor.training.plan import Batch, Context, Modules

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

    The asymmetric loss (Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", equation 7), summed over
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
        level, sizes = torch.from_numpy(levels.level), torch.from_numpy(levels.sizes)
        member = F.one_hot(level, len(sizes) + 1).float().t().contiguous()
        weights = torch.from_numpy(levels.weights)
        path = torch.from_numpy(levels.path)
        self._tables = _Placed(level=level, sizes=sizes, member=member, weights=weights, path=path)

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch, mixed examples by the shares of their two labels."""
        tables = self._tables.on(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            z = _full(logits)
            path = torch.stack([tables["path"][label] for label, _ in _labels(batch)], 1)
            shares = torch.stack([(path[:, i] >= 0) * share for i, (_, share) in enumerate(_labels(batch))], 1)
            shares = (shares * (tables["weights"] / len(z))).to(z.dtype)
            loss: Tensor = _LevelCrossEntropy.apply(  # type: ignore[no-untyped-call]
                z, path.clamp_min(0), shares, tables["level"], tables["member"].to(z.dtype),
                self.smoothing / tables["sizes"].to(z.dtype), 1.0 - self.smoothing,
            )  # fmt: skip
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


class _LevelCrossEntropy(torch.autograd.Function):
    """Weighted cross-entropies within the levels of (n, C) logits, summed, with the gradient taken on the way.

    ``path`` and ``shares`` (n, k, levels) are the target columns of k labels and their weights in the sum; ``level``
    (C,) is the level of each column, and ``member`` (levels + 1, C) has a 1 where a column is in a level, those in
    none in the last. Of each target's weight a part ``rest`` lies on its column, and ``even`` (levels,) on each of its
    level. Passes over the logits are few, because they are what takes the time.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, path: Tensor, shares: Tensor, level: Tensor, member: Tensor, even: Tensor, rest: float
    ) -> Tensor:
        top = z.new_full((len(z), len(member)), -math.inf)
        top.scatter_reduce_(1, level.expand_as(z), z, "amax")
        shifted = top.index_select(1, level).neg_().add_(z)  # by the highest of the level, which cancels out
        reached, path, shares = shares.sum(1), path.flatten(1), rest * shares.flatten(1)
        spread = F.pad(reached * even, (0, 1))
        reached = F.pad(reached, (0, 1))
        loss = -(spread.t() * (member @ shifted.t())).sum() - (shares * shifted.gather(1, path)).sum()
        powers = shifted.exp_()
        sums = (member @ powers.t()).t()
        loss += (reached * sums.log())[:, :-1].sum()
        if ctx.needs_input_grad[0]:
            powers.mul_((reached / sums).index_select(1, level))
            powers.addmm_(spread, member, alpha=-1.0).scatter_add_(1, path, -shares)
            ctx.save_for_backward(powers)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], *[None] * 6


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
