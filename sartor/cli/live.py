"""The terminal's view of a run: what is going on, how far it is, how much time is left."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sartor.core.candidate import Candidate
from sartor.core.units import format_duration
from sartor.runs.clock import Clock
from sartor.runs.listener import Listener

if TYPE_CHECKING:
    from sartor.runs.results import Result


class LiveDisplay(Listener):
    """Live lines on a terminal; elsewhere one plain line for each stage and each candidate that ended."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False)
        self.live = Live(self, console=self.console, refresh_per_second=4, transient=True)
        self.doing = ""
        self.time: Clock | None = None
        self.bars: dict[str, tuple[str, float, str]] = {}
        self.waiting: dict[str, Candidate] = {}
        self.done, self.held = 0, ""

    def __enter__(self) -> LiveDisplay:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()
        if kind is KeyboardInterrupt:
            self.console.print("stopped; nothing is lost: the same command goes on from here")

    def clock(self, clock: Clock) -> None:
        """Keep the clock, for the time left."""
        self.time = clock

    def stage(self, text: str) -> None:
        """Name what is going on."""
        first = not self.doing
        self.doing = text
        self.bars.clear()
        if first:
            self.held = text  # until something follows: what is wrong with the input is answered by one line alone
        else:
            self.say(text)

    def wave(self, candidates: Sequence[Candidate]) -> None:
        """Say what is evaluated next."""
        self.waiting = {c.id: c for c in candidates}
        self.doing = f"{_phase(candidates[0])} {len(candidates)} network{'s' if len(candidates) > 1 else ''}"
        self.bars.clear()
        self.say(self.doing)

    def progress(self, id: str, share: float, text: str) -> None:
        """Move a bar."""
        self.release()
        self.bars[id] = (_name(self.waiting[id]) if id in self.waiting else id, share, text)

    def ended(self, candidate: Candidate) -> None:
        """Say how good a candidate is, or why it failed."""
        self.bars.pop(candidate.id, None)
        self.done += 1
        if candidate.quality is not None:
            value = next(iter(candidate.quality.values.values()))
            self.say(f"  {_name(candidate)}: {value:.4f} on {candidate.quality.n} validation examples")
        elif candidate.state == "failed":
            self.say(f"  {_name(candidate)} failed: {candidate.why}")

    def say(self, text: str) -> None:
        """Print a line above the live ones."""
        self.release()
        left = f"{format_duration(max(0.0, self.time.left()))} left" if self.time else ""
        self.console.print(f"[dim]{left:>12}[/dim]  {text}" if left else text, markup=True)

    def release(self) -> None:
        """Print the line that was held back."""
        text, self.held = self.held, ""
        if text:
            self.say(text)

    def __rich__(self) -> Group:
        """What the live area shows now."""
        rows = Table.grid(padding=(0, 1))
        for name, share, text in self.bars.values():
            rows.add_row(
                Text(name), ProgressBar(total=1.0, completed=min(1.0, share), width=30), Text(text, style="dim")
            )
        left = format_duration(max(0.0, self.time.left())) if self.time else "?"
        return Group(Text(f"{self.doing} · {self.done} done · {left} left", style="bold"), rows)

    def summarise(self, result: Result) -> None:
        """What was found and where it is, in a few lines on standard output."""
        from sartor.report.findings import gather
        from sartor.report.headline import verdict

        out = Console(highlight=False)
        out.print(verdict(gather(result.folder)), soft_wrap=True, markup=False)
        out.print(f"model   {result.folder / 'best'}", soft_wrap=True, markup=False)
        out.print(f"report  {result.report}", soft_wrap=True, markup=False)


def _phase(candidate: Candidate) -> str:
    return _PHASES.get(candidate.proposal.recipe.get("phase", ""), "evaluating")


def _name(candidate: Candidate) -> str:
    return f"{candidate.proposal.recipe.get('family', candidate.proposal.method)} {candidate.id[:6]}"


_PHASES = {
    "draw": "drawing and timing",
    "rung": "training briefly",
    "time": "timing on all cores",
    "final": "training",
    "views": "judging with mirror images",
    "train": "training",
}
