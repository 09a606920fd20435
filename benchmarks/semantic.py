"""The loss over a tree of 11,221 classes in one pass, against loops over its levels."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Ratio, race
from benchmarks.table import Table
from sartor.core.rng import generator
from sartor.data.label_tree import LabelTree, Levels
from sartor.training.losses.semantic import SemanticCrossEntropy

DEPTHS = (296, 1275, 2095, 2609, 2190, 1289, 694, 337, 214, 156, 60, 6)  # classes of ImageNet-21K-P by depth
BATCHES, SMOOTHING = (16, 64, 256), 0.2


def bench(options: Any, limits: dict[str, float]) -> Table:
    """The definition finds each example's targets along its chain; the loop with tables has looked them up before."""
    table = Table("semantic", "Semantic softmax in one pass against loops over the levels, forward and backward", "")
    tree = _tree()
    levels = tree.levels()
    ours, loop = SemanticCrossEntropy(levels, SMOOTHING), _Loop(tree, levels)
    for batch in BATCHES:
        torch.manual_seed(0)
        logits = torch.randn(batch, len(tree.classes), requires_grad=True)
        label = torch.randint(len(tree.classes), (batch,))
        contestants = {
            "definition": lambda z=logits, y=label: loop.definition(z, y),
            "with tables": lambda z=logits, y=label: loop.with_tables(z, y),
            "one pass": lambda z=logits, y=label: ours(z, {"label": y}),
        }
        times = race({name: lambda f=f, z=logits: _step(f, z) for name, f in contestants.items()}, options.rounds)
        values = [_step(f, logits) for f in contestants.values()]
        table.rows.append(
            {
                "batch": batch,
                "one pass ms": 1e3 * min(times["one pass"]),
                "definition / one pass": Ratio.of(times["definition"], times["one pass"]),
                "loop with tables / one pass": Ratio.of(times["with tables"], times["one pass"]),
                "largest difference of gradients": max((g - values[-1]).abs().max().item() for g in values),
            }
        )
    return table


def _step(loss: Any, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss(), logits)[0]


def _tree() -> LabelTree:
    """A tree with as many classes at each depth as that of ImageNet-21K-P, parents and order by chance."""
    rng = generator("semantic benchmark")
    starts = np.concatenate([[0], np.cumsum(DEPTHS)])
    parents = [np.full(DEPTHS[0], -1)]
    parents += [rng.integers(*starts[depth - 1 : depth + 1], DEPTHS[depth]) for depth in range(1, len(DEPTHS))]
    place = rng.permutation(starts[-1])
    mixed = np.empty(starts[-1], np.int64)
    flat = np.concatenate(parents)
    mixed[place] = np.where(flat < 0, -1, place[flat])
    return LabelTree(tuple(map(str, range(len(mixed)))), tuple(mixed.tolist()), len(mixed))


class _Loop:
    """Losses that loop over the levels, vectorised over the batch."""

    def __init__(self, tree: LabelTree, levels: Levels) -> None:
        self.weights = levels.weights.tolist()
        self.chains = [tree.chain(c) for c in range(len(tree.classes))]
        self.members = [torch.from_numpy(levels.members(i)) for i in range(len(levels.sizes))]
        place = torch.zeros(len(tree.classes), dtype=torch.long)
        for members in self.members:
            place[members] = torch.arange(len(members))
        self.place, path = place.tolist(), torch.from_numpy(levels.path)
        self.targets = torch.where(path >= 0, place[path.clamp_min(0)], -1)

    def definition(self, logits: Tensor, label: Tensor) -> Tensor:
        targets = torch.full((len(label), len(self.members)), -1)
        for row, own in enumerate(label.tolist()):
            for depth, c in enumerate(reversed(self.chains[own])):
                if depth < len(self.members):
                    targets[row, depth] = self.place[c]
        total = logits.new_zeros(())
        for members, target, weight in zip(self.members, targets.T, self.weights, strict=True):
            log_p = logits[:, members].log_softmax(1)
            wanted = torch.zeros_like(log_p).scatter_(1, target.clamp_min(0)[:, None], 1.0)
            wanted = wanted * (1.0 - SMOOTHING) + SMOOTHING / len(members)
            total = total - weight * ((wanted * log_p).sum(1) * (target >= 0)).mean()
        return total

    def with_tables(self, logits: Tensor, label: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for members, target, weight in zip(self.members, self.targets[label].T, self.weights, strict=True):
            inside = logits.index_select(1, members)
            loss = F.cross_entropy(inside, target, ignore_index=-1, label_smoothing=SMOOTHING, reduction="sum")
            total = total + weight * loss / len(label)
        return total
