"""The time a run has used: what was recorded before, and what has gone by since."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """Counts from ``before``, the seconds earlier processes recorded; what a killed one lost is not charged."""

    total: float
    before: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    def restart(self) -> None:
        """Charge nothing of what this process has used so far."""
        self.begun = time.monotonic()

    def used(self) -> float:
        """Seconds used so far."""
        return self.before + time.monotonic() - self.begun

    def left(self) -> float:
        """Seconds left of the total; negative when it is overdrawn."""
        return self.total - self.used()

    def deadline(self, reserve: float = 0.0) -> float:
        """The wall-clock moment (seconds since the epoch) when all but ``reserve`` seconds are used."""
        return time.time() + self.left() - reserve
