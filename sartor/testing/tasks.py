"""The laws of tasks, for ours and third parties'."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from sartor.core.protocols import Answer, Examples, Raw, Servable, Task

SPLITS = ("train", "valid", "test")


class TaskConformance:
    """Subclass in a test module as ``Test…`` and give ``task`` and ``servable``."""

    fractions = (0.1, 0.3, 0.5)
    seeds = range(3)

    def task(self) -> Task:
        """The task under test, opened anew from its data at every call."""
        raise NotImplementedError

    def servable(self) -> Servable:
        """Anything that answers the task's examples, however badly."""
        raise NotImplementedError

    def test_splits_share_nothing(self) -> None:
        """No example and no group is in two splits; none is empty."""
        check_splits(self.task())

    def test_opening_again_gives_the_same(self) -> None:
        """Fingerprint, order, targets and contents repeat."""
        check_repeats(self.task(), self.task())

    def test_batches_are_the_examples_asked_for(self) -> None:
        """In their order, repeated if repeated, prefetched or not."""
        for name in SPLITS:
            check_batches(self.task().split(name))

    def test_carve_cuts_train_in_two(self) -> None:
        """All of train, nothing twice, near the fraction, the same for a seed, no group in both."""
        for fraction in self.fractions:
            for seed in self.seeds:
                check_carve(self.task(), fraction, seed)

    def test_loss_is_a_finite_scalar(self) -> None:
        """It has a gradient with respect to the output."""
        check_loss(self.task())

    def test_evaluate_sees_only_predict(self) -> None:
        """It repeats, counts every example, and a servable that has nothing but ``predict`` is judged alike."""
        for split in ("valid", "test"):
            check_evaluate(self.task(), self.servable(), split)

    def test_serving_gives_answerable_examples(self) -> None:
        """As many as asked for, the same for a seed."""
        check_serving(self.task(), self.servable())


def check_splits(task: Task) -> None:
    """Splits are disjoint in where their examples come from and in their groups."""
    splits = {name: task.split(name) for name in SPLITS}
    for name, examples in splits.items():
        assert len(examples), f"{name} is empty"
        assert len(_places(examples)) == len(examples), f"an example is in {name} twice"
        assert [examples.label(i) for i in range(len(examples))] == examples.labels.tolist()
    for a, b in combinations(SPLITS, 2):
        assert not _places(splits[a]) & _places(splits[b]), f"{a} and {b} share examples"
        assert not _groups(splits[a]) & _groups(splits[b]), f"{a} and {b} share groups"


def check_repeats(first: Task, second: Task) -> None:
    """Two openings of the same data agree."""
    assert first.fingerprint == second.fingerprint, "the fingerprint changes"
    for name in SPLITS:
        a, b = first.split(name), second.split(name)
        assert a.labels.tolist() == b.labels.tolist(), f"the targets of {name} change"
        assert [a.where(i) for i in range(len(a))] == [b.where(i) for i in range(len(b))], (
            f"the order of {name} changes"
        )
        indices = _some(a)
        for field, values in a.batch(indices).items():
            assert values.equal(b.batch(indices)[field]), f"{field} of {name} changes"


def check_batches(examples: Examples) -> None:
    """A batch holds what its parts hold one by one."""
    indices = _some(examples)
    whole = examples.batch(indices)
    assert whole["label"].tolist() == [examples.label(int(i)) for i in indices]
    examples.prefetch(indices)
    again = examples.batch(indices)
    for field, values in whole.items():
        assert values.equal(again[field]), f"{field} changes when it is prefetched"
        for place, i in enumerate(indices):
            assert values[place].equal(examples.batch(np.array([i]))[field][0]), f"{field} depends on its batch"


def check_carve(task: Task, fraction: float, seed: int) -> None:
    """Both parts together are train."""
    train, (rest, part) = task.split("train"), task.carve(fraction, seed)
    again = task.carve(fraction, seed)
    assert _places(rest) | _places(part) == _places(train), "carving loses or adds examples"
    assert len(rest) + len(part) == len(train), "an example is in both parts"
    assert len(rest), "nothing is left"
    assert not _groups(rest) & _groups(part), "a group is in both parts"
    assert [_places(rest), _places(part)] == [_places(again[0]), _places(again[1])], "carving does not repeat"
    if not _groups(train):  # whole groups can miss the fraction by far
        classes = len(np.unique(train.labels))
        assert abs(len(part) - fraction * len(train)) <= classes, "the part is far from the fraction"


def check_loss(task: Task) -> None:
    """The loss of random outputs on a batch of train."""
    import torch

    train = task.split("train")
    batch = train.batch(_some(train))
    shape = [size or 1 for size in next(iter(task.outputs.fields.values())).shape]
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(len(batch["label"]), *shape, generator=generator, requires_grad=True)
    loss = task.loss(output, batch)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert output.grad.abs().sum() > 0


def check_evaluate(task: Task, servable: Servable, split: str) -> None:
    """Quality from answers alone."""
    quality = task.evaluate(servable, split)
    seen = _OnlyPredict(servable)
    assert task.evaluate(servable, split) == quality, "evaluation does not repeat"
    assert task.evaluate(seen, split) == quality, "evaluation looks at more than predict"
    assert seen.count == len(task.split(split)) == quality.n, "not every example is asked for once"
    assert quality.split == split
    assert quality.how == "measured"
    assert task.metric.name in quality.values
    assert all(np.isfinite(value) for value in quality.values.values())


def check_serving(task: Task, servable: Servable) -> None:
    """Raw examples that ``predict`` takes."""
    raw, again = task.serving(5, 0), task.serving(5, 0)
    assert len(raw) == len(again) == 5
    first, second = servable.predict(list(raw)), servable.predict(list(again))
    assert len(first) == 5
    assert str(first) == str(second), "serving examples change"


class _OnlyPredict:
    """Hides all of a servable but ``predict``, and counts."""

    def __init__(self, servable: Servable) -> None:
        self._servable, self.count = servable, 0

    def predict(self, raw: Sequence[Raw]) -> Sequence[Answer]:
        self.count += len(raw)
        return self._servable.predict(raw)

    def save(self, folder: Path) -> None:
        raise AssertionError("evaluation must not save")


def _some(examples: Examples) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Up to six positions, not in order, one of them twice."""
    drawn = np.random.default_rng(0).integers(0, len(examples), 5)
    return np.append(drawn, drawn[0])


def _places(examples: Examples) -> set[str]:
    return {examples.where(i) for i in range(len(examples))}


def _groups(examples: Examples) -> set[int]:
    return {group for i in range(len(examples)) if (group := examples.group(i)) is not None}
