"""Stratified, seeded splits: functions of the seed, the labels and the groups alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sartor.core.errors import DataError
from sartor.core.rng import seed_of, uniforms
from sartor.data.source import Indices

TEST_SHARE, TEST_MOST = 0.2, 10_000
VALID_SHARE, VALID_MOST = 0.1, 5_000


def carve(
    labels: Indices, fraction: float, seed: int, groups: Indices | None = None, least: int = 2
) -> tuple[Indices, Indices]:
    """Positions (rest, part), both ascending, where ``part`` has about ``fraction`` of the examples of every class.

    A class of at least ``least`` examples (or groups, if given) gives one or more and keeps ``least - 1`` or more; a
    smaller class gives none. No group is in both. The part may be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"a fraction to carve off must be between 0 and 1, not {fraction}")
    _, codes = np.unique(labels, return_inverse=True)
    if groups is None:
        chosen = _draw(codes, _quotas(np.bincount(codes), fraction, least), seed)
    else:
        chosen = _draw_groups(codes, groups, fraction, seed, least)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _quotas(counts: Indices, fraction: float, least: int) -> Indices:
    """How many of each class are wanted: largest remainders of the exact shares, within each class's bounds."""
    exact = counts * fraction
    quotas = np.floor(exact).astype(np.int64)
    missing = round(float(exact.sum())) - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    return np.where(counts < least, 0, np.clip(quotas, 1, np.maximum(counts - least + 1, 1)))


def _draw(codes: Indices, quotas: Indices, seed: int) -> NDArray[np.bool_]:
    """Of each class the examples with the smallest random keys, as many as its quota."""
    keys = uniforms(seed_of(seed, "carve"), np.arange(len(codes)), 1)[:, 0]
    order = np.lexsort((keys, codes))
    counts = np.bincount(codes, minlength=len(quotas))
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(codes), bool)
    chosen[order[rank < np.repeat(quotas, counts)]] = True
    return chosen


def _draw_groups(codes: Indices, groups: Indices, fraction: float, seed: int, least: int) -> NDArray[np.bool_]:
    """Whole groups in random order, each taken if that brings the class counts nearer to the quotas.

    Afterwards every class still without an example gets its smallest group that leaves others behind.
    """
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    pairs, weights = np.unique(np.stack([members, codes]), axis=1, return_counts=True)
    begin = np.searchsorted(pairs[0], np.arange(len(sizes) + 1))
    groups_of = np.bincount(pairs[1])
    quotas = np.where(groups_of < least, 0.0, np.bincount(codes) * fraction)
    left, taken = groups_of - least + 1, np.zeros(len(quotas))  # groups a class can still give; examples it gave
    chosen = np.zeros(len(sizes), bool)

    def content(group: int) -> tuple[Indices, Indices]:
        span = slice(begin[group], begin[group + 1])
        return pairs[1, span], weights[span]

    def take(group: int) -> None:
        classes, counts = content(group)
        taken[classes] += counts
        left[classes] -= 1
        chosen[group] = True

    keys = uniforms(seed_of(seed, "carve groups"), np.arange(len(sizes)), 1)[:, 0]
    for group in np.argsort(keys, kind="stable"):
        classes, counts = content(group)
        if (left[classes] > 0).all() and (counts * (2 * (taken[classes] - quotas[classes]) + counts)).sum() < 0:
            take(group)
    for wanting in np.flatnonzero((taken == 0) & (quotas > 0)):
        able = [g for g in pairs[0, pairs[1] == wanting] if (left[content(g)[0]] > 0).all()]
        if able and taken[wanting] == 0:
            take(min(able, key=lambda g: (sizes[g], keys[g])))
    return chosen[members]


def complete(
    labels: Indices, given: Mapping[str, Indices], groups: Indices | None, seed: int, name: str
) -> dict[str, Indices]:
    """``train``, ``valid`` and ``test`` as ascending rows: the given ones as they are, missing ones cut from train.

    If one split alone is given, whatever its name, all three are cut from it. Test takes a fifth, at most 10,000;
    valid a tenth of what is left, at most 5,000. A class gives an example to a cut split only if at least one stays
    in train for every split. Raises DataError, naming the data set, if a split cannot be had.
    """
    given = {"train": next(iter(given.values()))} if len(given) == 1 else dict(given)
    if "train" not in given:
        raise DataError(
            f"{name}: there are {' and '.join(sorted(given))} images but none to train on; add a train split"
        )
    splits = dict(given)
    wanted = [part for part in ("test", "valid") if part not in given]
    for position, part in enumerate(wanted):
        share, most = (TEST_SHARE, TEST_MOST) if part == "test" else (VALID_SHARE, VALID_MOST)
        rows = splits["train"]
        fraction = min(share, most / max(len(rows), 1))
        inside = None if groups is None else groups[rows]
        rest, cut = carve(labels[rows], fraction, seed_of(seed, part), inside, least=1 + len(wanted) - position)
        if 2 * len(np.unique(labels[rows[cut]])) < len(np.unique(labels[rows])):
            raise DataError(_too_few(name, part, 1 + len(wanted), groups is not None))
        splits["train"], splits[part] = rows[rest], rows[cut]
    return {part: splits[part] for part in ("train", "valid", "test")}


def _too_few(name: str, part: str, least: int, grouped: bool) -> str:
    what = "groups" if grouped else "images"
    return (
        f"{name}: too few {what} to cut off a {part} split (most classes have fewer than {least}); "
        f"add images or give a {part} split of your own"
    )
