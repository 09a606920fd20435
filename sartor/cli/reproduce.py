"""``sartor reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console

    from sartor.core.spec import Json


def reproduce(
    name: str | None = None,
    /,
    *,
    part: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    seeds: int = 3,
    out: Path | None = None,
    quick: bool = False,
    workers: int | None = None,
    card: Path | None = None,
) -> None:
    """Repeat, at a size a CPU can train, what a paper claims; without NAME, list what can be reproduced.

    Results lie in the folder as JSON, Markdown and SVG. Each training is kept as it ends, so after a kill the same
    command goes on where it was. Ends with exit code 1 if a part fails its rule. CIFAR-10 is read from images/cifar10
    below the folder that the environment variable SARTOR_DATA names.

    Parameters
    ----------
    name
        resnext, wide-resnet, preact-resnet, depth-mup, resnet-strikes-back, imagenet21k, hardnet-segmentation,
        pathology-pretraining or regnet.
    part
        Only these parts (default: all that are not optional).
    seeds
        How many seeds each network is trained with.
    out
        The folder (default: runs/reproduce-NAME).
    quick
        Make everything tiny, to see that it works; the results are no evidence.
    workers
        How many one-thread processes train (default: one for each core).
    card
        Write what lies in the folder into this card, between its marks; alone, run nothing.
    """
    from sartor.core.errors import SartorError

    if seeds < 1 or (workers is not None and workers < 1):
        raise SartorError("--seeds and --workers must be at least 1")
    _reproduce(name, part or [], seeds, out, quick, workers, card)


def _reproduce(
    name: str | None, part: list[str], seeds: int, out: Path | None, quick: bool, workers: int | None, card: Path | None
) -> None:
    from rich.console import Console

    from sartor.core.machine import cores
    from sartor.reproduce.reproduction import Conditions, fill_card
    from sartor.reproduce.reproduction import reproduce as run
    from sartor.reproduce.table import REPRODUCTIONS

    results, progress = (Console(stderr=err, highlight=False, soft_wrap=True, markup=False) for err in (False, True))
    if name is None:
        _list(results)
        return
    reproduction = REPRODUCTIONS[name]
    chosen = reproduction.chosen(part) if part or not card else []
    folder, failed = out or Path("runs", f"reproduce-{name}"), []
    conditions = Conditions(folder, seeds, quick, workers or cores(), lambda text: progress.print(f"  {text}"))
    for one in chosen:
        progress.print(f"{one}: {reproduction.parts[one].title}", style="bold")
        content = run(reproduction, one, conditions)
        _show(results, content)
        failed += [one] * (content["passed"] is False)
    if card is not None:
        fill_card(card, reproduction, folder)
    progress.print(f"written to {card or folder / 'result.md'}")
    if failed:
        progress.print(f"against the rule: {', '.join(failed)}", style="bold")
        raise SystemExit(1)


def _list(console: Console) -> None:
    from sartor.reproduce.table import REPRODUCTIONS

    for name, reproduction in REPRODUCTIONS.items():
        console.print(name, style="bold")
        for part, what in reproduction.parts.items():
            console.print(f"  {part:<11} {what.title}{' (optional)' if what.optional else ''}")


def _show(console: Console, content: Json) -> None:
    """A part's tables and verdict."""
    from rich.table import Table

    for title, rows in content["tables"].items():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for number, key in enumerate(rows[0]):
            table.add_column(key, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
    outcome = {True: "passed: ", False: "failed: ", None: ""}[content["passed"]]
    console.print(f"{outcome}{content['verdict']}\n")
