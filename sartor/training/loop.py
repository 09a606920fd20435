"""The one training loop: it runs a ``Plan`` to its end and can be stopped and resumed at any step.

What outlives a step is in modules, optimisers, ``memory``, a schedule's state or the counters below, and all of it
is in the checkpoint. Orders, augmentation and torch's generators are functions of the seed and the step. So on one
CPU a run that was stopped anywhere, killed included, ends with the same bytes as one that was not.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.rng import seed_of
from sartor.core.spec import Json
from sartor.training.averaging import Average
from sartor.training.checkpoint import Contents, prepare, read_facts, read_tensors, write_checkpoint
from sartor.training.clipping import clip_gradients
from sartor.training.devices import Place, find_place, to_device
from sartor.training.feed import Feed
from sartor.training.history import History
from sartor.training.plan import Batch, Context, ObservingSchedule, Plan, Stepper, Turn

Progress = Callable[[float, str], None]
_REPORT = 0.5  # seconds between calls of progress


@dataclass(frozen=True)
class Trained:
    """What became of a plan: ``seconds`` are this plan's own, ``network`` carries the weights ``Plan.keep`` names."""

    finished: bool
    steps: int
    seconds: float
    history: Sequence[Json]
    network: nn.Module


def run(
    plan: Plan,
    folder: Path | None = None,
    *,
    start: Path | None = None,
    place: Place | None = None,
    deadline: float | None = None,
    progress: Progress | None = None,
    save_every: float = 30.0,
) -> Trained:
    """Train until the plan's end, or until ``deadline`` (seconds since the epoch), whichever comes first.

    A checkpoint in ``folder`` is resumed, and one is written there every ``save_every`` seconds and at the end.
    ``start`` is the folder of a plan of equal lineage that ended earlier: training goes on from its end.
    ``progress(share, text)`` is called between steps; if it raises, a checkpoint is written first.
    Raises TrainingError for a loss that is not finite, or a checkpoint of another plan.
    """
    training = _Training(plan, folder, place or find_place())
    try:
        training.restore(start)
        while not training.finished and not training.late(deadline):
            training.advance()
            training.report(progress)
            training.save(save_every)
        training.save(0.0)
        training.place.agreed(0.0)  # no process goes on before the checkpoint is there
    finally:
        training.close()
    return Trained(training.finished, training.step, training.seconds(), training.history.lines, training.kept())


class _Training:
    """A plan while it runs."""

    def __init__(self, plan: Plan, folder: Path | None, place: Place) -> None:
        self.plan, self.folder, self.place = plan, folder, place
        self.raw = {name: place.put(member.module, plan.numerics) for name, member in plan.modules.items()}
        self.set_modes()
        self.modules = {
            name: place.wrap(module) if any(p.requires_grad for p in module.parameters()) else module
            for name, module in self.raw.items()
        }
        self.wrapped = [module for name, module in self.modules.items() if module is not self.raw[name]]
        self.trained = [p for module in self.raw.values() for p in module.parameters() if p.requires_grad]
        followers = {name: member for name, member in plan.modules.items() if member.mode == "follow"}
        self.averages = [Average(self.raw[name], self.raw[m.of], float(m.decay)) for name, m in followers.items()]
        self.targets = [
            (Average(self.raw[name], self.raw[m.of], buffers=False), m.decay)
            for name, m in plan.modules.items()
            if m.mode == "target"
        ]
        self.averaged = self.raw[next((name for name, m in followers.items() if m.of == "model"), "model")]
        self.contents = Contents(
            {name: self.raw[name] for name, member in plan.modules.items() if member.mode != "frozen"},
            [_optimiser(turn, self.raw) for turn in plan.turns],
        )
        self.scaler = place.scaler(plan.numerics)
        first, ranks = plan.turns[0], (place.rank, place.world)
        self.feeds = {
            (t.stream, t.accumulate): Feed(plan.streams[t.stream], self.prepare, plan.seed, ranks, t.accumulate)
            for t in plan.turns
        }
        self.batch = plan.streams[first.stream].batch
        self.steps_per_epoch = self.feeds[first.stream, first.accumulate].steps_per_epoch
        self.planned = plan.until.total(self.steps_per_epoch, self.batch)
        self.history = History(folder, place)
        self.best = float("-inf")
        self.share, self.step, self.first, self.saved_step = 0.0, 0, 0, -1  # first: where this process began
        self.before, self.spent = 0.0, 0.0  # seconds of the plans before, and of this one's earlier processes
        self.began = self.saved = self.reported = time.perf_counter()

    def set_modes(self) -> None:
        for name, member in self.plan.modules.items():
            self.raw[name].train(member.mode in ("train", "target"))
            if member.mode != "train":
                self.raw[name].requires_grad_(False)

    def advance(self) -> None:
        """One step of training and what is due after it."""
        plan, step = self.plan, self.step
        self.place.seed(seed_of(plan.seed, "torch", step, self.place.rank))
        context = self.context(step, step // self.steps_per_epoch)
        plan.hooks.configure(self.modules, context)
        terms: dict[str, Tensor] = {}
        for number, turn in enumerate(plan.turns):
            prefix = f"turn{number}." if len(plan.turns) > 1 else ""
            terms.update({prefix + name: value for name, value in self.turn(number, turn, context).items()})
        self.scaler.update()
        for average in self.averages:
            average.update(step)
        for average, decay in self.targets:
            average.move(1.0 - (context.value(decay) if isinstance(decay, str) else decay))
        plan.hooks.after_step(self.modules, context)
        self.step += 1
        self.tick()
        self.history.add(step, terms)
        metrics = self.end_epoch(context) if self.step % self.steps_per_epoch == 0 else {}
        if metrics or self.step % plan.log_every == 0 or self.finished:
            values = {"epoch": round(self.step / self.steps_per_epoch, 4), "lr": context.value(plan.turns[0].lr)}
            self.history.write(self.step, self.batch, **values, **metrics)

    def turn(self, number: int, turn: Turn, context: Context) -> dict[str, Tensor]:
        """Gradients of all parts of a batch and one update; returns the named terms, averaged over the parts."""
        optimiser: Any = self.contents.optimisers[number]  # the scaler knows only PyTorch's class
        parts = self.feeds[turn.stream, turn.accumulate].batches(context.step, self.planned)
        totals: dict[str, Tensor] = {}
        for index, batch in enumerate(parts):
            with self.place.unsynchronised(self.wrapped if index + 1 < len(parts) else ()):
                with self.place.autocast(self.plan.numerics):
                    terms = turn.loss(self.modules, batch, context)
                loss = torch.stack(list(terms.values())).sum() / len(parts)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                totals[name] = totals.get(name, 0.0) + term.detach() / len(parts)
        self.plan.hooks.after_backward(self.modules, context)
        if turn.clip:
            self.scaler.unscale_(optimiser)
            clip_gradients(optimiser.param_groups, turn.clip, turn.clip_by)
        rate = context.value(turn.lr)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["lr_factor"]
        self.scaler.step(optimiser)
        for parameter in self.trained:  # all: a loss may reach parameters of other turns
            parameter.grad = None
        return totals

    def prepare(self, batch: Batch, step: int, epoch: int) -> Batch:
        """The plan's transform, then onto the device."""
        return to_device(self.plan.hooks.transform(batch, self.context(step, epoch)), self.place.device)

    def context(self, step: int, epoch: int) -> Context:
        """What the plan's code may know of a step."""
        total, place = self.total(), self.place
        return Context(
            step, total, epoch, self.plan.seed, place.device, place.rank, place.world, self.contents.memory,
            lambda name: self.plan.schedules[name].value(step, total),
        )  # fmt: skip

    def end_epoch(self, context: Context) -> Mapping[str, float]:
        """Let the plan measure, tell what steers by it, and keep the best weights."""
        metrics = self.plan.hooks.at_epoch(self.modules, context)
        self.set_modes()
        for schedule in self.plan.schedules.values():
            if isinstance(schedule, ObservingSchedule):
                schedule.observe(metrics)
        keep = self.plan.keep
        if keep.weights == "best" and keep.metric in metrics:
            value = metrics[keep.metric] if keep.higher_is_better else -metrics[keep.metric]
            if value > self.best:
                self.best = value
                self.contents.best.update({name: t.clone() for name, t in self.averaged.state_dict().items()})
        return metrics

    def total(self) -> int:
        """The number of steps in all; by the clock, what the pace so far promises."""
        if self.planned is not None:
            return self.planned
        return max(self.step + 1, round(self.step / self.share)) if self.step and self.share else 1 << 31

    def tick(self) -> None:
        """Take the share of the training that is done, once a step."""
        if self.planned is not None:
            self.share = self.step / self.planned
        else:
            self.share = self.place.agreed(self.before + self.seconds()) / (self.plan.until.seconds or 1.0)

    @property
    def finished(self) -> bool:
        return self.share >= 1.0

    def late(self, deadline: float | None) -> bool:
        """Whether a step of average length would end after the deadline."""
        if deadline is None:
            return False
        pace = (time.perf_counter() - self.began) / max(1, self.step - self.first)
        return self.place.agreed(deadline - time.time() - pace) < 0.0

    def seconds(self) -> float:
        """How long this plan has trained, over all its processes so far."""
        return self.spent + time.perf_counter() - self.began

    def report(self, progress: Progress | None) -> None:
        """Tell the share done, at most every ``_REPORT`` seconds; an exception from there stops in good order."""
        now = time.perf_counter()
        if progress is None or now - self.reported < _REPORT:
            return
        self.reported = now
        loss = f", loss {self.history.lines[-1]['loss']:.3f}" if self.history.lines else ""
        try:
            progress(min(1.0, self.share), f"step {self.step}{loss}")
        except BaseException:
            self.save(0.0)
            raise

    def kept(self) -> nn.Module:
        """The module with the weights to keep, in eval mode."""
        module = self.raw["model"] if self.plan.keep.weights == "last" else self.averaged
        if self.contents.best:
            module = copy.deepcopy(module)
            module.load_state_dict(self.contents.best)
        return module.eval()

    def close(self) -> None:
        for feed in self.feeds.values():
            feed.close()

    def save(self, every: float) -> None:
        """Write a checkpoint if the last one is ``every`` seconds old and another step is done."""
        now = time.perf_counter()
        if self.folder is None or self.saved_step == self.step or now - self.saved < every:
            return
        self.history.read()
        epoch, position = divmod(self.step, self.steps_per_epoch)
        facts = {
            "plan": self.plan.digest(), "lineage": self.plan.lineage(), "numerics": asdict(self.plan.numerics),
            "step": self.step, "epoch": epoch, "position": position, "seconds": self.seconds(), "before": self.before,
            "scaler": self.scaler.state_dict(), "best": self.best if self.contents.best else None,
            "schedules": {n: s.state for n, s in self.plan.schedules.items() if isinstance(s, ObservingSchedule)},
            "logged": self.history.logged, "sums": self.history.sums,
        }  # fmt: skip
        if self.place.rank == 0:
            write_checkpoint(self.folder, self.contents.tensors(), facts)
        self.saved_step, self.saved = self.step, time.perf_counter()

    def restore(self, start: Path | None) -> None:
        """Resume from the folder's own checkpoint, or begin with the one of ``start``."""
        if self.folder and self.place.rank == 0:
            prepare(self.folder)
        own = read_facts(self.folder) if self.folder else None
        source = self.folder if own else start
        if source is None:
            return self.history.begin()
        facts = own or read_facts(source)
        if facts is None:
            raise TrainingError(f"{source} holds no checkpoint to continue from")
        if own and facts["plan"] != self.plan.digest():
            raise TrainingError(f"{source}: the checkpoint there is of another plan; use another folder or delete it")
        if facts["lineage"] != self.plan.lineage() or (self.planned is not None and facts["step"] > self.planned):
            raise TrainingError(f"{source}: a checkpoint of another network, recipe, data or seed, or beyond this end")
        self.contents.load(read_tensors(source), self.place.device)
        self.scaler.load_state_dict(facts["scaler"])
        for name, state in facts["schedules"].items():
            self.plan.schedules[name].state = state  # type: ignore[attr-defined]
        self.step = self.first = facts["step"]
        self.best = float("-inf") if facts["best"] is None else facts["best"]
        self.before, self.spent = facts["before"], facts["seconds"]
        if own:
            self.saved_step = self.step
        else:
            self.before, self.spent = self.before + self.spent, 0.0
        self.history.begin(source, self.step, facts["logged"], facts["sums"])
        return self.tick()


def _optimiser(turn: Turn, modules: Mapping[str, nn.Module]) -> Stepper:
    groups = [g for g in turn.groups(modules) if g.parameters]
    return turn.optimiser([g.table() for g in groups])
