"""How the time of a run is shared between looking at many networks briefly and training few long."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from sartor.core.budget import Budget
from sartor.core.spec import Json

SEARCH = 0.22  # share of the training time in which candidates compete
SMALL = 0.08  # share of the final training time given to a small network, so that the front has a choice
KEEP = 3  # of so many candidates one goes on to the next rung (eta of successive halving)
MOST_BRIEF = 2.0  # times its planned seconds a candidate gets where others are left out
FINALISTS = 3  # full trainings a run needs at most; time beyond goes to more candidates
RECIPES = 0.2  # networks drawn a second time, with another recipe, beside so many
SMALL_DRAWS = 0.1  # share of the draws that are small by choice
BRIEF = 0.05  # of a full training is what a candidate of the first of many gets
RUNGS_FOR_MANY = 4
MOST_DRAWING = 0.2  # share of the training time that drawing and judging many may take
SLACK = 0.95  # machines are noisy: what is planned fills this share of the time
START, PER_DRAW, END = 15.0, 4.0, 22.0  # seconds: data, workers and plan; timing and judging a network; export


@dataclass(frozen=True, slots=True)
class TimeShare:
    """The plan of a run's time: plain values, a function of the time and the number of cores alone.

    ``draws`` networks are drawn. ``rungs`` say how many compete in each and for how many seconds on one core; the
    rungs' and ``finals``' times are wall-clock seconds, the latter on all ``slots`` cores.
    """

    seconds: float
    slots: int
    draws: int
    rungs: tuple[tuple[int, float], ...]
    finals: tuple[float, float]

    @classmethod
    def of(cls, seconds: float, slots: int, useful: float = math.inf, families: int = 1) -> TimeShare:
        """Share ``seconds`` of wall-clock time on ``slots`` cores; one network learns in ``useful`` all it can learn.

        Successive halving (Jamieson and Talwalkar 2016): every rung gets equal time for a third of the candidates
        of the one before; the winner then trains on in what is left, and a small network beside it. As many networks
        are drawn as all ``families`` need, and ``RECIPES`` of others for the choice of recipes and a small one, if the
        time allows. Where the data are so few that all this is more than ``FINALISTS`` trainings can use, more
        networks compete instead. Rungs after the first are multiples of the cores, so that none waits.
        """
        work = max(0.35 * seconds, SLACK * seconds - START - END)
        draws = max(4, round((2.0 + math.sqrt(work) / 5.0) * math.sqrt(slots / 2)))
        most = int(MOST_DRAWING * work * slots / PER_DRAW)
        draws = max(draws, min(most, math.ceil(families * (1.0 + RECIPES) / (1.0 - SMALL_DRAWS))))
        search = max(SEARCH * work, work - FINALISTS * useful)
        if search > SEARCH * work:
            draws = max(draws, min(most, int(search / (RUNGS_FOR_MANY * BRIEF * useful))))
        work = max(0.3 * seconds, work - PER_DRAW * draws / slots)
        search = min(search, 0.9 * work)
        counts = [draws]
        while counts[-1] > KEEP:
            fewer = math.ceil(counts[-1] / KEEP)
            counts.append(round(fewer / slots) * slots if fewer > slots else fewer)
        each = search / len(counts)
        rungs = tuple((count, each * min(slots, count) / count) for count in counts)
        return cls(seconds, slots, draws, rungs, ((1.0 - SMALL) * (work - search), SMALL * (work - search)))

    def drawn(self, budget: Budget) -> int:
        """How many networks are drawn: twice as many where bounds must be measured, for many will be outside."""
        return self.draws * (2 if budget.of("measured").bounds else 1)

    def brief(self, number: int) -> float:
        """Seconds for each candidate of the first rung if only ``number`` are left to train."""
        planned, each = self.rungs[0]
        shared = planned * each / min(self.slots, planned) * min(self.slots, max(1, number)) / max(1, number)
        return min(shared, MOST_BRIEF * each)

    def to_json(self) -> Json:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Json) -> TimeShare:
        """The inverse of ``to_json``."""
        rungs = tuple((int(number), float(each)) for number, each in data["rungs"])
        return cls(**{**data, "rungs": rungs, "finals": tuple(data["finals"])})
