"""Successive halving over the spaces of several families (Jamieson and Talwalkar 2016).

Networks of every family are drawn near the budget and timed, some of them twice with different recipes; all that are
fast enough train briefly, the better third trains on, and so forth; the winner gets most of the time. Competing
networks get equal time rather than equal epochs, because time is what the final training has. Some of the drawn are
smaller by choice, so that the front has one: they learn faster at first and are overtaken later, so they compete among
themselves, and the best of them gets a little of the time at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Parent, Proposal
from sartor.core.cost import Amount, Cost
from sartor.core.protocols import Servable, Task, Tools
from sartor.core.spec import Json, digest, spec_id
from sartor.models.network import build, count
from sartor.runtime.classifier import ImageClassifier
from sartor.runtime.networks import counted
from sartor.search.drawing import MOST_DRAWS, SHRINK, Drawing, turns
from sartor.search.sharing import TimeShare
from sartor.search.train import train_network
from sartor.training.devices import default_device
from sartor.training.pace import choose_numerics, pace
from sartor.training.recipe import Recipe, read_recipe
from sartor.training.schedules import StableDecay

MOST_EPOCHS = 300.0  # beyond this a small data set teaches a network nothing more
FEWEST_EPOCHS = 15.0  # a network too slow for so many in the final training is not trained
TOO_SLOW = 0.6  # but one that gets this share of the epochs of the one in the middle is
MOST_FINALISTS = 4
LEAST_FINAL = 0.1  # share of the final time that is worth another training
LEAST_HELD = 0.15  # share of the steps of a final training that its first part has at least
FINAL_JUDGING = 4.0  # seconds for each of the parts of final trainings to start and to be judged


@dataclass(frozen=True)
class SuccessiveHalving:
    """The method ``halving`` for image classification.

    ``recipe`` is what candidates' recipes begin from; ``speeds`` has for each family the multiply-adds per second
    that training does on one core (counting those of the forward pass); ``mirror`` says that mirror images keep their
    class, so that flips may augment and answers may be averaged over both views. ``left`` are the seconds that were
    left when the search had ended, where that was recorded: it may have taken longer than the share had planned.
    """

    families: tuple[str, ...]
    recipe: Recipe
    share: TimeShare
    speeds: Mapping[str, float]
    mirror: bool = False
    left: float | None = None
    name: ClassVar[str] = "halving"

    def applies(self, task: Task, parents: Sequence[Candidate]) -> str | None:
        """Image classification only."""
        return None if task.kind == "image-classification" else f"halving trains image classifiers, not {task.kind}"

    def propose(self, task: Task, budget: Budget, seen: Sequence[Candidate], seed: int) -> list[Proposal]:
        """The next wave: draws, rungs, timings on all cores, two parts of final trainings, mirrored views."""
        wave = _Wave(self, task, budget, [c for c in seen if c.proposal.method == self.name], seed)
        if not wave.of("draw"):
            return list(wave.draws(0))
        if not wave.of("rung"):
            return wave.first_rung() or list(wave.draws(wave.next_attempt()))
        if len(wave.rungs()) < len(self.share.rungs):
            return wave.next_rung()
        if not wave.of("time"):
            return wave.timings()
        if not wave.of("held") and not wave.of("final") and (held := wave.held()):
            return held
        if not wave.of("final"):
            return wave.finals()
        return wave.views() if self.mirror and not wave.of("views") else []

    def searched(self, seen: Sequence[Candidate]) -> bool:
        """Whether the last rung has been trained."""
        last = len(self.share.rungs) - 1
        return any(c.proposal.recipe["phase"] == "rung" and c.proposal.rung == last for c in seen)

    def evaluate(self, proposal: Proposal, task: Any, tools: Tools) -> tuple[Servable | None, Cost]:
        """Time, train or re-serve one network."""
        phase, recipe = proposal.recipe["phase"], read_recipe(proposal.recipe["recipe"])
        if phase in ("draw", "time"):
            return None, self._timed(proposal, recipe, task, tools)
        if phase == "views":
            servable = ImageClassifier.open(tools.parents["init"]).with_views(2)
            servable.write(tools.artifact)
            return servable.faster(), Cost()
        return train_network(proposal, task, tools)

    def _timed(self, proposal: Proposal, recipe: Recipe, task: Any, tools: Tools) -> Cost:
        """Seconds of a training step; where a bound must be measured, the untrained network is left to measure."""
        device = default_device()
        numerics = choose_numerics(recipe, proposal.spec, task.preprocess, device=device, threads=1)
        seconds = pace(recipe, proposal.spec, task.preprocess, numerics, device=device, threads=proposal.threads)
        if proposal.recipe.get("serve"):
            ImageClassifier.of(build(proposal.spec), task.preprocess, task.classes).write(tools.artifact)
        return Cost({"step_seconds": Amount(seconds, "s", "measured")})


@dataclass(frozen=True)
class _Wave:
    """The candidates of the method so far, and what follows from them."""

    method: SuccessiveHalving
    task: Any
    budget: Budget
    seen: Sequence[Candidate]
    seed: int

    @property
    def share(self) -> TimeShare:
        return self.method.share

    def of(self, phase: str) -> list[Candidate]:
        return [c for c in self.seen if c.proposal.recipe["phase"] == phase]

    def rungs(self) -> list[list[Candidate]]:
        """The candidates of each rung that was run."""
        numbers = sorted({c.proposal.rung for c in self.of("rung")})
        return [[c for c in self.of("rung") if c.proposal.rung == number] for number in numbers]

    def ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that were judged, best first."""
        metric = self.task.metric
        judged = [c for c in candidates if c.state == "done" and c.quality is not None]
        sign = -1.0 if metric.higher_is_better else 1.0
        return sorted(judged, key=lambda c: (sign * c.quality.values[metric.name], c.id))  # type: ignore[union-attr]

    # Draws

    def draws(self, attempt: int) -> Iterator[Proposal]:
        """Networks near the counted bounds: of each family, small ones, further ones, and drawn ones a second time."""
        if attempt >= MOST_DRAWS:
            return
        measured = bool(self.budget.of("measured").bounds)
        drawing = Drawing(
            self.task.inputs.fields["image"].shape, len(self.task.classes), self.budget,
            {family: self.most_macs(speed) for family, speed in self.method.speeds.items()}, self.method.recipe,
            self.seed,
        )  # fmt: skip
        known = set[tuple[str, str]]()
        for turn in turns(self.share.drawn(self.budget), self.method.families):
            spec = drawing.drawn(turn, attempt)
            if spec is None:
                continue
            recipe, ingredients = drawing.recipe_of(turn, spec)
            if (name := (spec_id(spec), digest(recipe.lineage()))) in known:
                continue
            serve = measured and spec_id(spec) not in {other for other, _ in known}
            known.add(name)
            values = {
                "phase": "draw", "family": turn.family, "small": turn.kind == "small", "serve": serve,
                "ingredients": list(ingredients), "recipe": recipe.to_json(),
            }  # fmt: skip
            yield Proposal(
                self.method.name, spec, values, self.task.fingerprint, self.seed, attempt, kind="estimate",
                counted=count(spec), seconds=1.0,
            )  # fmt: skip

    def next_attempt(self) -> int:
        """The next draw's number; some are left out where the nearest network is far outside a measured bound."""
        draws = self.of("draw")
        least = min((d for c in draws if (d := self.budget.of("measured").distance(c.cost))), default=1.0)
        last = max(c.proposal.rung for c in draws)
        further = max(1, int(math.log(max(1.0, least), SHRINK)))
        return min(last + further, MOST_DRAWS - 1) if last < MOST_DRAWS - 1 else MOST_DRAWS

    def most_macs(self, speed: float) -> float:
        """Multiply-adds with which the final training has the fewest epochs that are worth it, at a family's speed."""
        examples = len(self.task.split("train"))
        return speed * self.share.slots * self.share.finals[0] / (FEWEST_EPOCHS * examples)

    # Rungs

    def first_rung(self) -> list[Proposal]:
        """Every drawn network that is inside the budget and fast enough, up to the rung's number.

        All that are fast enough if nothing could be measured.
        """
        drawn = [c for c in self.of("draw") if c.state == "done"]
        known = {spec_id(c.proposal.spec): c.cost for c in drawn if self.budget.verdict(c.cost) != "unknown"}
        inside = []
        for c in drawn:
            cost = known.get(spec_id(c.proposal.spec), c.cost)
            if self.budget.verdict(cost) == ("in" if known else "unknown"):
                inside.append(c)
        inside = self.fast_enough(inside)[: self.share.rungs[0][0]]
        seconds = self.share.brief(len(inside))
        return [self.trained(c, [], 0, seconds, c.cost.value("step_seconds")) for c in inside]

    def fast_enough(self, drawn: Sequence[Candidate]) -> list[Candidate]:
        """Those whose final training would have enough epochs, or nearly as many as that of the one in the middle."""
        steps = self.share.slots * self.share.finals[0] / self.steps_per_epoch()
        epochs = {c.id: steps / c.cost.value("step_seconds") for c in drawn}
        middle = median([epochs[c.id] for c in drawn if not is_small(c)] or [0.0])
        least = min(FEWEST_EPOCHS, TOO_SLOW * middle)
        return [c for c in drawn if epochs[c.id] >= least]

    def next_rung(self) -> list[Proposal]:
        """The better third trains on, of those that are not small."""
        last = [c for c in self.rungs()[-1] if not is_small(c)]
        number, seconds = self.share.rungs[len(self.rungs())]
        return [self.trained(c, [c], c.proposal.rung + 1, seconds, self.step(c)) for c in self.ranked(last)[:number]]

    def trained(self, c: Candidate, parents: Sequence[Candidate], rung: int, seconds: float, step: float) -> Proposal:
        """A training of ``seconds`` more, at a learning rate that stays where it is."""
        steps = min(self.steps(parents) + max(1, round(seconds / step)), self.most_steps())
        return self.proposal(c, "rung", rung, steps, [Parent(p.id, "rung") for p in parents], seconds)

    def step(self, candidate: Candidate) -> float:
        """Seconds of a step of a candidate's network by its recipe on one core."""
        return next(c.cost.value("step_seconds") for c in self.of("draw") if training_of(c) == training_of(candidate))

    def steps(self, parents: Sequence[Candidate]) -> int:
        return int(parents[0].proposal.recipe["steps"]) if parents else 0

    # The end

    def finalists(self) -> list[Candidate]:
        """The judged networks as far as each was trained, those of the last rung first; at the end the best small."""
        rungs = self.rungs()
        continued = {p.id for rung in rungs for c in rung for p in c.proposal.parents}
        leaves = [c for rung in reversed(rungs) for c in self.ranked(rung) if c.id not in continued]
        return [c for c in leaves if not is_small(c)][:MOST_FINALISTS] + [c for c in leaves if is_small(c)][:1]

    def timings(self) -> list[Proposal]:
        """A step of each possible finalist, timed on all cores."""
        proposals = [self.proposal(c, "time", c.proposal.rung, 1, (), 1.0) for c in self.finalists()]
        return [replace(p, threads=self.share.slots, kind="estimate") for p in proposals]

    def held(self) -> list[Proposal]:
        """The winner's final training up to where its learning rate begins to fall, on all cores.

        That is where it shows how long its steps take, so that the rest can fill the time that is left. Nothing where
        the data, not the time, end the training.
        """
        for final in self.finals():
            steps, before = final.recipe["steps"], self.steps([self.parent_of(final)])
            whole = read_recipe(final.recipe["recipe"])
            fall = whole.schedule.decay if isinstance(whole.schedule, StableDecay) else 1.0
            until = max(round((1.0 - fall) * steps), before + round(LEAST_HELD * (steps - before)))
            if final.recipe["small"] or not before < until < steps or steps >= self.most_steps():
                return []
            seconds = final.seconds * (until - before) / (steps - before)
            c, rung = self.parent_of(final), len(self.share.rungs)
            return [replace(self.proposal(c, "held", rung, until, final.parents, seconds), threads=self.share.slots)]
        return []

    def finals(self) -> list[Proposal]:
        """The winner trains on in most of the time; what it cannot use goes to the next; the small one has its own."""
        paces = {training_of(c): c.cost.value("step_seconds") for c in self.of("time") if c.state == "done"}
        held = {c.parent("rung"): c for c in self.of("held") if c.state == "done"}
        left, own = self.final_seconds()
        proposals: list[Proposal] = []
        for c in self.finalists():
            step, before = paces.get(training_of(c)), self.steps([c])
            parent = held.get(c.id, c)
            if parent is not c:
                seconds = parent.cost.value("train_seconds")
                left, step = left - seconds, seconds / (self.steps([parent]) - before)
                before = self.steps([parent])
            seconds = own if is_small(c) else left
            least = LEAST_FINAL * self.share.finals[0] if proposals and not is_small(c) else step
            if step is None or least is None or (seconds < least and parent is c):
                continue
            steps = max(1, min(round(seconds / step), self.most_steps() - before))
            left -= 0.0 if is_small(c) else steps * step
            number = len(self.share.rungs) + bool(held)
            proposal = self.proposal(c, "final", number, before + steps, [Parent(parent.id, "rung")], steps * step)
            proposals.append(replace(proposal, threads=self.share.slots))
        return proposals

    def final_seconds(self) -> tuple[float, float]:
        """Seconds for the winner with those after it, and for the small one: as planned, or of what is left."""
        if self.method.left is None:
            return self.share.finals
        small = self.share.finals[1] / sum(self.share.finals)
        left = max(0.5 * self.method.left, self.method.left - 3.0 * FINAL_JUDGING)
        return (1.0 - small) * left, small * left

    def parent_of(self, proposal: Proposal) -> Candidate:
        """The candidate that a proposal continues."""
        return next(c for c in self.seen if c.id == proposal.parents[0].id)

    def views(self) -> list[Proposal]:
        """The final networks, answering with the mean over the image and its mirror image."""
        proposals = []
        for c in self.ranked(self.of("final")):
            both = counted(c.proposal.spec, None, views=2)
            if self.budget.of("counted").verdict(both) != "out":
                proposal = self.proposal(c, "views", c.proposal.rung, 0, [Parent(c.id, "init")], 1.0)
                proposals.append(replace(proposal, counted=both, threads=self.share.slots))
        return proposals

    def proposal(
        self, c: Candidate, phase: str, rung: int, steps: int, parents: Sequence[Parent], seconds: float
    ) -> Proposal:
        """A proposal for a candidate's network."""
        epochs = steps / self.steps_per_epoch() if steps else 1.0
        recipe = read_recipe(c.proposal.recipe["recipe"]).replace(schedule=self.method.recipe.schedule)
        values: Json = {
            "phase": phase,
            "family": c.proposal.recipe["family"],
            "small": is_small(c),
            "ingredients": c.proposal.recipe["ingredients"],
            "recipe": recipe.rung(epochs, last=phase == "final").to_json(),
            "steps": steps,
        }
        return Proposal(
            self.method.name, c.proposal.spec, values, self.task.fingerprint, self.seed, rung, tuple(parents),
            counted=count(c.proposal.spec), seconds=seconds,
        )  # fmt: skip

    def most_steps(self) -> int:
        """Steps beyond which no network is trained."""
        return round(MOST_EPOCHS * self.steps_per_epoch())

    def steps_per_epoch(self) -> int:
        return max(1, len(self.task.split("train")) // self.method.recipe.batch)


def is_small(candidate: Candidate) -> bool:
    """Whether a network was drawn to be a good deal smaller than the budget allows."""
    return bool(candidate.proposal.recipe["small"])


def training_of(candidate: Candidate) -> tuple[str, str]:
    """What tells one training from another whatever its length: the network and the recipe."""
    recipe = read_recipe(candidate.proposal.recipe["recipe"])
    return spec_id(candidate.proposal.spec), digest(recipe.lineage())
