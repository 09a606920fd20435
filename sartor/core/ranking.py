"""The words of retrieval: texts, hits, rankings, and the stages that pipelines are composed of.

Names are the field's: a query has a qid, a document a docno, a hit a score and a rank from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from sartor.core.spec import Json

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Text:
    """A query or a document. ``meta`` is what filters read: dates as ISO strings, numbers, categories."""

    id: str
    text: str
    title: str = ""
    meta: Mapping[str, Value] = field(default_factory=dict)

    @property
    def whole(self) -> str:
        """The title, if any, and the text."""
        return f"{self.title}\n{self.text}" if self.title and self.text else self.title or self.text


@dataclass(frozen=True, slots=True)
class Hit:
    """A document in a ranking; higher scores are better. ``parts`` are the reasons of the score, by name."""

    docno: str
    score: float
    rank: int
    parts: Mapping[str, float] = field(default_factory=dict)


Ranking = Mapping[str, Sequence[Hit]]  # by qid, best first


def ranked(
    scores: Iterable[tuple[str, float]], k: int | None = None, parts: Mapping[str, Mapping[str, float]] | None = None
) -> tuple[Hit, ...]:
    """The best ``k`` (None: all) of documents with scores: ties go by docno, so that every order is reproducible."""
    best = sorted(scores, key=lambda pair: (-pair[1], pair[0]))[:k]
    return tuple(
        Hit(docno, float(score), rank, parts.get(docno, {}) if parts else {})
        for rank, (docno, score) in enumerate(best)
    )


class Corpus(Protocol):
    """Documents by position and by docno, read as needed; ids are unique."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal documents in equal order."""

    def __len__(self) -> int: ...

    def ids(self) -> Sequence[str]:
        """All docnos, in order."""

    def texts(self, start: int, stop: int) -> Sequence[Text]:
        """The documents of a range of positions."""

    def fetch(self, docnos: Sequence[str]) -> Sequence[Text]:
        """Documents by docno, in the order asked."""


@runtime_checkable
class Ready(Protocol):
    """A stage with all that it needs to answer: indexes open, networks loaded."""

    def __call__(self, queries: Sequence[Text], ranking: Ranking | None, k: int) -> Ranking:
        """At most ``k`` hits for each query; a search takes no ``ranking``, a re-ranking re-orders the one it gets."""


class Stage(Protocol):
    """One step of a pipeline, as plain values.

    ``needs`` and ``gives`` are subsets of {"ranking", "answers"}, asked when stages are composed, not when they run.
    """

    @property
    def kind(self) -> str:
        """What it is called in plain values."""

    @property
    def needs(self) -> frozenset[str]:
        """What the stage before must give."""

    @property
    def gives(self) -> frozenset[str]:
        """What it gives."""

    def to_json(self) -> Json:
        """Plain values."""

    def build(self, corpus: Corpus, workspace: Path) -> Ready:
        """Index what must be indexed, into ``workspace``; what is there complete is opened, what was begun goes on."""
