"""``sartor predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sartor.runtime.classifier import ImageClassifier

_AT_ONCE = 64


def predict(run: Path, files: list[Path], /, *, top: int = 1, json: bool = False) -> None:
    """Classify pictures with a run's best model.

    Parameters
    ----------
    run
        A run directory, or a folder that `sartor export` wrote.
    files
        Pictures, or folders whose pictures are taken.
    top
        How many classes to show of each, the most probable first.
    json
        Write one JSON object per line: file, label, probability, probabilities by class.
    """
    from sartor.core.errors import DataError
    from sartor.runtime.classifier import ImageClassifier

    best = run / "best"
    classifier = ImageClassifier.open(best if best.is_dir() else run)
    failed = 0
    pending: list[Path] = []
    for path in _pictures(files):
        pending.append(path)
        if len(pending) == _AT_ONCE:
            failed += _answer(classifier, pending, top, json)
            pending.clear()
    failed += _answer(classifier, pending, top, json)
    if failed:
        raise DataError(f"{failed} file{'s' if failed > 1 else ''} could not be read as pictures; see above")


def _pictures(files: list[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        else:
            yield path


def _answer(classifier: ImageClassifier, paths: list[Path], top: int, as_json: bool) -> int:
    """Print the answers of some files; returns how many could not be read."""
    from sartor.core.errors import DataError
    from sartor.data.decode import decode

    named = []
    for path in paths:
        try:
            named.append((path, decode(path)))
        except DataError as error:
            print(f"sartor: {str(path)!r}: {error}", file=sys.stderr)
    for (path, _), answer in zip(named, classifier.predict([picture for _, picture in named]), strict=True):
        ranked = sorted(zip(classifier.classes, answer["probabilities"], strict=True), key=lambda pair: -pair[1])
        if as_json:
            shown = {"file": str(path), "label": answer["label"], "probability": answer["probability"]}
            print(dumps({**shown, "probabilities": dict(ranked)}, ensure_ascii=False))
        else:
            best = ", ".join(f"{label} {probability:.3f}" for label, probability in ranked[: max(1, top)])
            print(f"{one_line(str(path))}: {one_line(best)}")
    return len(paths) - len(named)


def one_line(text: str) -> str:
    """Text whose control characters, newlines among them, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
