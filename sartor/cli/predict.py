"""``sartor predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sartor.runtime.classifier import ImageClassifier
    from sartor.runtime.segmenter import ImageSegmenter

_AT_ONCE, _MASKS_AT_ONCE = 64, 4


def predict(run: Path, files: list[Path], /, *, top: int = 1, json: bool = False, to: Path = Path("masks")) -> None:
    """Classify pictures with a run's best model; of a segmentation run, write their masks.

    Parameters
    ----------
    run
        A run directory, or a folder that `sartor export` wrote.
    files
        Pictures, or folders whose pictures are taken.
    top
        How many classes to show of each, the most probable first.
    json
        Write one JSON object per line: file, label, probability, probabilities by class; or file, mask, shares.
    to
        Of segmentation, the folder for the masks: PNG files of class numbers with a palette, named as the pictures.
    """
    from sartor.core.errors import DataError
    from sartor.runtime.classifier import ImageClassifier
    from sartor.runtime.opening import open_servable

    best = run / "best"
    model = open_servable(best if best.is_dir() else run)
    if isinstance(model, ImageClassifier):
        answer, at_once = partial(_answer, model, top=top, as_json=json), _AT_ONCE
    else:
        answer, at_once = partial(_write_masks, model, MaskFiles(to), as_json=json), _MASKS_AT_ONCE
    failed = 0
    pending: list[Path] = []
    for path in _pictures(files):
        pending.append(path)
        if len(pending) == at_once:
            failed += answer(pending)
            pending.clear()
    failed += answer(pending)
    if failed:
        raise DataError(f"{failed} file{'s' if failed > 1 else ''} could not be read as pictures; see above")


def _pictures(files: list[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        else:
            yield path


def _decoded(paths: list[Path]) -> list[tuple[Path, Any]]:
    """The pictures that can be read; the others are named on standard error."""
    from sartor.core.errors import DataError
    from sartor.data.decode import decode

    named = []
    for path in paths:
        try:
            named.append((path, decode(path)))
        except DataError as error:
            print(f"sartor: {str(path)!r}: {error}", file=sys.stderr)
    return named


class MaskFiles:
    """A folder for masks, each named as its picture; one of a second picture of that name gets a number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: set[str] = set()

    def write(self, picture: Path, mask: Any) -> Path:
        """Write a mask as a PNG file with a palette; returns where. Raises DataError if that cannot be."""
        from PIL import Image

        from sartor.core.errors import DataError
        from sartor.core.files import replacing

        name, number = picture.stem, 2
        while name in self.taken:
            name, number = f"{picture.stem}-{number}", number + 1
        self.taken.add(name)
        image = Image.fromarray(mask)
        image.putpalette(palette())
        path = self.folder / f"{name}.png"
        try:
            with replacing(path) as temporary:
                image.save(temporary, format="PNG")
        except OSError as error:
            raise DataError(f"{path} cannot be written ({error.strerror}); name another folder with --to") from None
        return path


def palette() -> list[int]:
    """Red, green and blue of 256 class numbers, by the bits of the number, as for Pascal VOC's masks."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = (number >> 3 * place + channel & 1 for place in range(3))
            colours.append(sum(bit << 7 - place for place, bit in enumerate(bits)))
    return colours


def _write_masks(segmenter: ImageSegmenter, files: MaskFiles, paths: list[Path], as_json: bool) -> int:
    """Write the masks of some files and print what is in them; returns how many files could not be read."""
    named = _decoded(paths)
    for (path, _), answer in zip(named, segmenter.predict([picture for _, picture in named]), strict=True):
        where, ranked = files.write(path, answer["mask"]), sorted(answer["shares"].items(), key=lambda pair: -pair[1])
        if as_json:
            print(dumps({"file": str(path), "mask": str(where), "shares": dict(ranked)}, ensure_ascii=False))
        else:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in ranked)
            print(f"{one_line(str(path))}: {one_line(str(where))}: {one_line(shares)}")
    return len(paths) - len(named)


def _answer(classifier: ImageClassifier, paths: list[Path], top: int, as_json: bool) -> int:
    """Print the answers of some files; returns how many could not be read."""
    named = _decoded(paths)
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
