"""Who watches a run."""

from __future__ import annotations

from collections.abc import Sequence

from sartor.core.candidate import Candidate
from sartor.runs.clock import Clock


class Listener:
    """Told what happens in a run; does nothing. A terminal display overrides what it shows."""

    def stage(self, text: str) -> None:
        """The run turned to something else."""

    def wave(self, candidates: Sequence[Candidate]) -> None:
        """These are about to be evaluated."""

    def progress(self, id: str, share: float, text: str) -> None:
        """A candidate got on."""

    def ended(self, candidate: Candidate) -> None:
        """A candidate ended."""

    def clock(self, clock: Clock) -> None:
        """The run's clock, once it runs."""
