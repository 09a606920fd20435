"""Hierarchies of concepts, each with the broader ones it is a kind of, read from the files people have."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

from sartor.core.errors import DataError, unknown
from sartor.data.source import shown

Pairs = Iterable[tuple[str, str]]  # child, parent

_SYNSET = re.compile(r"^\d{8} \d\d n [0-9a-f]{2} ", re.MULTILINE)
_WORDNET_ID = re.compile(r"n\d{8}")
_FORMS = "WordNet's data.noun, lines of child<TAB>parent, CSV with the columns child and parent, or JSON"
_SHOWN = 4


@dataclass(frozen=True)
class Hierarchy:
    """Concepts with their parents; where there are several parents, the first is the one that is followed.

    ``parents`` has every concept as a key, roots with none; ``words`` are the names of some concepts beside their ids;
    ``name`` is what messages call the hierarchy. Raises DataError for a cycle.
    """

    parents: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]
    name: str = "hierarchy"

    def __post_init__(self) -> None:
        try:
            TopologicalSorter(self.parents).prepare()
        except CycleError as error:
            around = [shown(node) for node in reversed(error.args[1])]
            path = " -> ".join(around[:_SHOWN] + (["…", around[-1]] if len(around) > _SHOWN else []))
            raise DataError(f"{self.name}: no hierarchy, as it runs in a circle: {path}; remove one pair") from None

    @classmethod
    def of(cls, pairs: Pairs, words: Mapping[str, tuple[str, ...]] | None = None, name: str = "hierarchy") -> Hierarchy:
        """The hierarchy of pairs (child, parent); parents keep their order, and what has none is a root."""
        parents: dict[str, dict[str, None]] = {}
        for child, parent in pairs:
            parents.setdefault(child, {})[parent] = None
            parents.setdefault(parent, {})
        return cls({child: tuple(above) for child, above in parents.items()}, words or {}, name)

    def find(self, label: str) -> str:
        """The concept of a class label: its id, or one of its words in any case, with ``_`` as a space.

        Raises DataError for a label that names none or more than one.
        """
        if label in self.parents:
            return label
        found = self._by_word.get(_plain(label), ())
        if len(found) == 1:
            return found[0]
        if not found:
            message = unknown("class", label, {*self.parents, *self._by_word})
            raise DataError(f"{self.name}: {message}; every class must be in the hierarchy")
        some = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise DataError(f"{self.name}: class {label!r} names {len(found)} concepts ({some}); use an id")

    def above(self, concept: str) -> Iterator[str]:
        """The broader concepts up to a root, nearest first, following the first parent."""
        while self.parents[concept]:
            concept = self.parents[concept][0]
            yield concept

    @cached_property
    def _by_word(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {}
        for concept in self.parents:
            for word in (concept, *self.words.get(concept, ())):
                found.setdefault(_plain(word), {})[concept] = None
        return {word: tuple(concepts) for word, concepts in found.items()}


def read_hierarchy(path: str | Path) -> Hierarchy:
    """The hierarchy a file holds, recognised by its content.

    WordNet's ``data.noun`` (ids are ``n`` and the offset; parents the hypernyms, or the instance hypernyms where there
    are none); lines of a child, a tab and its parent; ImageNet's ``is_a`` list, whose lines are two WordNet ids, the
    parent first; CSV or TSV with the columns ``child`` and ``parent``; JSON ``{child: parent or [parents] or null}``
    or ``[[child, parent], …]``; the ``.pth`` or ``.json`` that ``write_tree`` writes. Raises DataError naming the file
    and the line.
    """
    path, name = Path(path), shown(path)
    if path.suffix in (".pth", ".pt"):
        return _read_saved(path, name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"hierarchy {name}: cannot be read ({error.__class__.__name__}); give {_FORMS}") from None
    if _SYNSET.search(text, 0, 1 << 14):
        return _read_wordnet(text, name)
    if path.suffix == ".json":
        found = _read_json(text, name)
    else:
        found = Hierarchy.of(_lines(text, path.suffix, name), name=name)
    if not found.parents:
        raise DataError(f"hierarchy {name}: holds no pairs; give {_FORMS}")
    return found


def _read_wordnet(text: str, name: str) -> Hierarchy:
    """Synsets by the format of the manual page wndb(5WN)."""
    parents: dict[str, tuple[str, ...]] = {}
    words: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("  ") or not line:
            continue
        try:
            fields = line.partition(" | ")[0].split(" ")
            last = 4 + 2 * int(fields[3], 16)
            pointers = [fields[i : i + 3] for i in range(last + 1, last + 1 + 4 * int(fields[last]), 4)]
            above = [tuple(f"n{where}" for symbol, where, _ in pointers if symbol == sign) for sign in ("@", "@i")]
        except (IndexError, ValueError):
            raise DataError(f"hierarchy {name}: line {number} is no WordNet synset; take the file anew") from None
        parents[f"n{fields[0]}"] = above[0] or above[1]
        words[f"n{fields[0]}"] = tuple(fields[4:last:2])
    missing = next((p for above in parents.values() for p in above if p not in parents), None)
    if missing is not None:
        raise DataError(f"hierarchy {name}: the synset {missing} is not in it; the file is cut off, take it anew")
    return Hierarchy(parents, words, name)


def _lines(text: str, suffix: str, name: str) -> Iterator[tuple[str, str]]:
    """Pairs of a table of two columns, or of ImageNet's list."""
    rows = list(csv.reader(text.splitlines(), delimiter="," if suffix == ".csv" else "\t"))
    child, parent = 0, 1
    if rows and {"child", "parent"} <= set(rows[0]):
        child, parent = rows[0].index("child"), rows[0].index("parent")
        rows[0] = []
    for number, row in enumerate(rows, 1):
        if not row or row[0].startswith("#"):
            continue
        ids = row[0].split(" ")
        if len(row) == 1 and len(ids) == 2 and all(map(_WORDNET_ID.fullmatch, ids)):
            yield ids[1], ids[0]
        elif len(row) > max(child, parent) and row[child].strip() and row[parent].strip():
            yield row[child].strip(), row[parent].strip()
        else:
            raise DataError(f"hierarchy {name}: line {number} is no pair of a child and its parent; give {_FORMS}")


def _read_json(text: str, name: str) -> Hierarchy:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"hierarchy {name} is not JSON: {error}") from None
    if isinstance(data, list) and all(_texts(pair) and len(pair) == 2 for pair in data):
        return Hierarchy.of(((child, parent) for child, parent in data), name=name)
    given = data if isinstance(data, dict) else {}
    if "class_tree_list" in given:
        return _of_chains(given, name)
    table: dict[str, Any] = {
        child: [above] if isinstance(above, str) else above or [] for child, above in given.items()
    }
    if not isinstance(data, dict) or not all(map(_texts, table.values())):
        raise DataError(f"hierarchy {name}: must be {{child: parent}} or [[child, parent], …], with text for both")
    alone: dict[str, tuple[str, ...]] = dict.fromkeys((p for above in table.values() for p in above), ())
    return Hierarchy(alone | {child: tuple(above) for child, above in table.items()}, {}, name)


def _read_saved(path: Path, name: str) -> Hierarchy:
    """A tree as ImageNet-21K-P's authors store it: chains of class indices, and the text of each id in index order."""
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"hierarchy {name}: cannot be read ({error.__class__.__name__}); give {_FORMS}") from None
    except Exception:  # whatever a damaged or foreign file makes torch.load raise
        data = None
    return _of_chains(data, name)


def _of_chains(data: Any, name: str) -> Hierarchy:
    """The hierarchy of a tree in the authors' layout."""
    try:
        ids = list(data["class_description"])
        chains = [[ids[i] for i in chain] for chain in data["class_tree_list"]]
        if len(chains) != len(ids) or any(chain[0] != own for chain, own in zip(chains, ids, strict=True)):
            raise ValueError
    except (TypeError, KeyError, IndexError, ValueError):
        raise DataError(f"hierarchy {name}: holds no class_tree_list with class_description; give {_FORMS}") from None
    words = {own: (str(text),) for own, text in data["class_description"].items()}
    pairs = Hierarchy.of((pair for chain in chains for pair in pairwise(chain)), words, name)
    return Hierarchy({own: pairs.parents.get(own, ()) for own in ids}, words, name)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


def _plain(word: str) -> str:
    return word.replace("_", " ").casefold()
