"""Batches of a stream by step number: nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sartor.core.errors import TrainingError
from sartor.training.plan import Batch, Keys, Stream

Prepare = Callable[[Batch, int, int], Batch]  # batch, step, epoch


class Feed:
    """A stream's batches for one rank, each in ``parts`` equal parts.

    A batch holds what the examples give, and ``key`` (n,) int64 from the order. With workers, coming batches are
    prepared in threads; which thread prepares what changes nothing.
    """

    def __init__(self, stream: Stream, prepare: Prepare, seed: int, place: tuple[int, int], parts: int = 1) -> None:
        self.stream, self.prepare, self.seed, self.parts = stream, prepare, seed, parts
        self.rank, self.world = place
        length = len(stream.order.keys(len(stream.examples), seed, 0, self.world))
        self.steps_per_epoch = length // stream.batch
        if self.steps_per_epoch < 1:
            raise TrainingError(f"a batch of {stream.batch} is more than the {length} examples of an epoch; use less")
        if stream.batch % (self.world * parts):
            raise TrainingError(
                f"a batch of {stream.batch} does not divide into {self.world} process(es) times {parts} part(s)"
            )
        self._epoch: tuple[int, Keys] | None = None
        self._ahead: dict[int, Future[list[Batch]]] = {}
        self._prefetch = getattr(stream.examples, "prefetch", None)  # where examples are decoded on demand
        self._pool = ThreadPoolExecutor(stream.workers, "batches") if stream.workers else None

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def keys(self, step: int) -> Keys:
        """This rank's keys in a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        cached = self._epoch
        if cached is None or cached[0] != epoch:
            cached = epoch, self.stream.order.keys(len(self.stream.examples), self.seed, epoch, self.world)
            self._epoch = cached
        start = position * self.stream.batch
        return cached[1][start : start + self.stream.batch][self.rank :: self.world]

    def batches(self, step: int, last: int | None = None) -> list[Batch]:
        """The parts of a step's batch; up to ``last`` (not included) further ones are begun."""
        if self._pool is None:
            made = self._make(step, self.keys(step))
            if self._prefetch and step + 1 != last:
                self._prefetch(self.keys(step + 1) % len(self.stream.examples))
            return made
        ahead = step + self.stream.workers + 1
        for coming in range(step, ahead if last is None else min(ahead, last)):
            if coming not in self._ahead:
                self._ahead[coming] = self._pool.submit(self._make, coming, self.keys(coming))
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Stop preparing."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, step: int, keys: Keys) -> list[Batch]:
        made = []
        for part in range(self.parts):
            mine = keys[part * len(keys) // self.parts : (part + 1) * len(keys) // self.parts]
            batch = dict(self.stream.examples.batch(mine % len(self.stream.examples)))
            batch["key"] = torch.from_numpy(mine)
            made.append(self.prepare(batch, step, self.epoch(step)))
        return made
