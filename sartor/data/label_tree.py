"""Trees of classes for hierarchical losses (Ridnik et al. 2021, "ImageNet-21K Pretraining for the Masses", section 3).

A class at depth d has d ancestors among the classes; the classes of one depth form a level, whatever they are below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sartor.core.errors import DataError
from sartor.core.files import replacing, write_json
from sartor.data.hierarchy import Hierarchy

Numbers = NDArray[np.int64]
MOST_WEIGHT = 20.0  # of a level, however few classes reach it


class Labelled(Protocol):
    """Labels of examples by class: an ``ImageDataset``, or the ``Source`` that ``open_images`` gives undecoded."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def labels(self) -> Numbers:
        """The class index of each example; below 0 if it has none."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of a tree over which a softmax is taken each, as arrays for C classes and L levels.

    ``level`` (C,) is the level of each class, L for a class of none of them. ``path`` (C, L) is the class of each level
    that a class is or lies below, -1 where there is none. ``sizes`` (L,) count the classes of the levels, ``weights``
    (L,) their parts in the loss: min(20, classes in the tree / classes at this depth or deeper).
    """

    level: Numbers
    path: Numbers
    sizes: Numbers
    weights: NDArray[np.float64]

    def members(self, level: int) -> Numbers:
        """The classes of a level, ascending."""
        return np.flatnonzero(self.level == level)


@dataclass(frozen=True)
class LabelTree:
    """Classes by index, those examples are labelled with first, and the index of each one's parent (-1: a root)."""

    classes: tuple[str, ...]
    parents: tuple[int, ...]
    labelled: int

    @cached_property
    def depths(self) -> Numbers:
        """The number of ancestors of each class."""
        depths: Numbers = (self.paths >= 0).sum(axis=1) - 1
        return depths

    @cached_property
    def paths(self) -> Numbers:
        """The class of each depth that a class is or lies below, (classes, depths), -1 where there is none."""
        chains = [self.chain(c) for c in range(len(self.classes))]
        table = np.full((len(chains), max(map(len, chains))), -1, np.int64)
        for row, chain in zip(table, chains, strict=True):
            row[: len(chain)] = chain[::-1]
        return table

    def chain(self, index: int) -> list[int]:
        """A class, its parent, and so on up to a root."""
        chain = [index]
        while self.parents[chain[-1]] >= 0:
            chain.append(self.parents[chain[-1]])
        return chain

    def levels(self, *, include_last: bool = False) -> Levels:
        """The levels that have more than one class.

        The authors' loop stops before the deepest, which holds 6 of ImageNet-21K-P's 11,221 classes; it is taken with
        ``include_last``. Raises DataError if no level is left.
        """
        sizes = np.bincount(self.depths)
        reaching = sizes[::-1].cumsum()[::-1]
        used = np.flatnonzero((sizes > 1) & (np.arange(len(sizes)) < len(sizes) - (not include_last)))
        if not len(used):
            last = "" if include_last else ", the last left out"
            raise DataError(f"a tree of {len(self.classes)} classes has no level with more than one{last}")
        number = np.full(len(sizes), len(used))
        number[used] = np.arange(len(used))
        weights = np.minimum(MOST_WEIGHT, len(self.classes) / reaching[used])
        return Levels(number[self.depths], self.paths[:, used], sizes[used], weights)


def label_tree(hierarchy: Hierarchy, labels: Sequence[str], *, ancestors: bool = False) -> LabelTree:
    """The tree of some class labels, ids or words of a hierarchy: they are the first classes, in their order.

    Of several parents the first is followed. Without ``ancestors`` the labels are all classes there are, and concepts
    between them are skipped, as in ImageNet-21K-P. With ``ancestors`` the concepts where branches meet become classes
    too, but for one above all; and a leaf above the deepest level gets copies of itself as ancestors, so that all
    leaves share the last level. Raises DataError for a label that the hierarchy lacks, or two of one concept.
    """
    if not labels:
        raise DataError(f"{hierarchy.name}: no classes are given to make a tree of")
    concepts = [hierarchy.find(label) for label in labels]
    twice = next((c for c, times in Counter(concepts).items() if times > 1), None)
    if twice is not None:
        same = " and ".join(repr(label) for label, c in zip(labels, concepts, strict=True) if c == twice)
        raise DataError(f"{hierarchy.name}: the classes {same} are one concept, {twice}; merge them")
    chains = [[c, *hierarchy.above(c)] for c in concepts]
    inner = _meetings(chains) if ancestors else []
    above = _nearest([*chains, *([c, *hierarchy.above(c)] for c in inner)])
    if ancestors:
        above = _levelled(above)
    names, index = dict(zip(concepts, labels, strict=True)), {concept: number for number, concept in enumerate(above)}
    parents = (-1 if parent is None else index[parent] for parent in above.values())
    return LabelTree(tuple(names.get(c, c) for c in above), tuple(parents), len(concepts))


def frequent(data: Labelled, more_than: int = 500) -> list[str]:
    """The classes with more than so many examples, sorted: how ImageNet-21K-P was cut from ImageNet-21K.

    Raises DataError if fewer than two are left.
    """
    counts = np.bincount(data.labels[data.labels >= 0], minlength=len(data.classes))
    kept = sorted(name for name, count in zip(data.classes, counts, strict=True) if count > more_than)
    if len(kept) < 2:
        raise DataError(f"{len(kept)} of {len(data.classes)} classes have over {more_than} images; lower the bound")
    return kept


def write_tree(tree: LabelTree, path: str | Path, texts: Mapping[str, str] | None = None) -> None:
    """Store a tree in the layout of ImageNet-21K-P's authors: ``class_tree_list`` and ``class_description``.

    ``texts`` describe some classes; the others are described by their names. A path that ends in ``.json`` gets JSON,
    which needs no torch and can hold nothing else; others what the authors' code loads.
    """
    texts = texts or {}
    content = {
        "class_tree_list": [tree.chain(c) for c in range(len(tree.classes))],
        "class_description": {name: texts.get(name, name) for name in tree.classes},
    }
    if Path(path).suffix == ".json":
        write_json(Path(path), content)
        return
    import torch

    with replacing(Path(path)) as temporary:
        torch.save(content, temporary)


def _meetings(chains: Sequence[Sequence[str]]) -> list[str]:
    """Concepts above several branches and not labelled themselves, sorted; not the one above all labels."""
    below: dict[str, set[str]] = {}
    for chain in chains:
        for child, parent in pairwise(chain):
            below.setdefault(parent, set()).add(child)
    found = {concept for concept, children in below.items() if len(children) > 1}
    return sorted(found - {chain[0] for chain in chains} - set(chains[0]).intersection(*chains[1:]))


def _nearest(chains: Sequence[Sequence[str]]) -> dict[str, str | None]:
    """For the first concept of each chain, the next in its chain that is the first of one; None if none is."""
    kept = {chain[0] for chain in chains}
    return {chain[0]: next((c for c in chain[1:] if c in kept), None) for chain in chains}


def _levelled(above: Mapping[str, str | None]) -> dict[str, str | None]:
    """The same parents, with copies of a leaf between it and its parent until it is as deep as the deepest."""
    result = dict(above)
    depths = {leaf: _depth(leaf, above) for leaf in above.keys() - set(above.values())}
    deepest = max(depths.values())
    for leaf in [concept for concept in above if concept in depths]:
        for depth in range(depths[leaf], deepest):
            copy = f"{leaf} (level {depth})"
            result[copy], result[leaf] = result[leaf], copy
    return result


def _depth(concept: str, above: Mapping[str, str | None]) -> int:
    depth, parent = 0, above[concept]
    while parent is not None:
        depth, parent = depth + 1, above[parent]
    return depth
