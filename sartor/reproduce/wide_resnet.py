"""Wide ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146): wide and shallow against thin and deep."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sartor.models.anynet import AnyNet
from sartor.models.vision.wide_resnet import wrn_cifar
from sartor.reproduce.cifar import SIDE
from sartor.reproduce.pictures import learning_curves
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result
from sartor.reproduce.statistics import Estimate, difference
from sartor.reproduce.timing import ratio_text, step_times, threads_text, time_ratio, time_rows
from sartor.reproduce.trials import run_trials, small

THIN, MIDDLE, WIDE = "WRN-40-1", "WRN-16-2", "WRN-10-3"  # of about equal size, 0.56 to 0.69 million parameters
BATCH = 64
EPOCHS = 6
DROPOUT = 0.3
_BLOCKS = {"B(3,3)": (28, (3, 3)), "B(1,3,1)": (40, (1, 3, 1)), "B(3,1)": (40, (3, 1)), "B(1,3)": (40, (1, 3)),
           "B(3,1,1)": (40, (3, 1, 1)), "B(3,1,3)": (22, (3, 1, 3))}  # fmt: skip


def wrn(depth: int, widen: float, **options: Any) -> AnyNet:
    """A Wide ResNet for 16x16 images."""
    return wrn_cifar(depth, widen, **options).replace(size=(SIDE, SIDE))


def networks() -> Mapping[str, AnyNet]:
    """The three nets, from thin and deep to wide and shallow."""
    return {THIN: wrn(40, 1), MIDDLE: wrn(16, 2), WIDE: wrn(10, 3)}


def accuracy(conditions: Conditions) -> Result:
    """The test error of the three nets."""
    specs = networks()
    trials = run_trials(specs, small("wrn-cifar", EPOCHS, BATCH), conditions)
    means = {name: Estimate.of(trials.errors(name)) for name in specs}
    gaps = {name: difference(trials.errors(name), trials.errors(THIN)) for name in (MIDDLE, WIDE)}
    said = " and ".join(f"{name} {gap.text(1, 100)}" for name, gap in gaps.items())
    falls = all(b.mean < a.mean for a, b in pairwise(means.values()))
    return Result(
        f"Test error less that of {THIN}, in points (n = {gaps[WIDE].n}: mean ± deviation and 95 % interval): {said}; "
        f"the rule is that neither mean is above 0. From thin and deep to wide and shallow the error "
        f"{'falls at every step' if falls else 'does not fall at every step'}.",
        passed=all(gap.mean <= 0 for gap in gaps.values()),
        tables={"Test error and training loss": trials.rows()},
        pictures={"learning": learning_curves(trials)},
        data={**trials.to_json(), "differences": {name: gap.to_json() for name, gap in gaps.items()}},
    )


def speed(conditions: Conditions) -> Result:
    """The time of a training step of the three nets."""
    specs = networks()
    times = step_times(specs, BATCH, 2 if conditions.quick else 15)
    most = max(times)
    said = "; ".join(
        f"{name} {', '.join(f'{ratio_text(by[THIN], by[name])} on {threads_text(n)}' for n, by in times.items())}"
        for name in (MIDDLE, WIDE)
    )
    return Result(
        f"How many times as fast as {THIN}, in steps of {BATCH} images taken in turn (median and quartiles over "
        f"rounds): {said}. The rule is that both train faster with all threads; 1.2 and 2 times were expected.",
        passed=all(time_ratio(times[most][THIN], times[most][name])[0] > 1 for name in (MIDDLE, WIDE)),
        tables={f"Training step on {threads_text(n)}": time_rows(specs, by) for n, by in times.items()},
        data={"seconds": {str(n): by for n, by in times.items()}},
    )


def dropout(conditions: Conditions) -> Result:
    """Dropout between the convolutions of a unit, on and off."""
    specs = {MIDDLE: wrn(16, 2), f"{MIDDLE}, dropout {DROPOUT}": wrn(16, 2, dropout=DROPOUT)}
    trials = run_trials(specs, small("wrn-cifar", EPOCHS, BATCH), conditions)
    without, within = (trials.errors(name) for name in specs)
    gap = difference(within, without)
    return Result(
        f"With dropout the test error of {MIDDLE} changes by {gap.text(1, 100)} points (n = {gap.n}: mean ± deviation "
        f"and 95 % interval). There is no rule: {EPOCHS} epochs do not overfit, which is what dropout is against; the "
        "paper's gain is after 200.",
        passed=None,
        tables={"Test error and training loss": trials.rows()},
        pictures={"learning": learning_curves(trials)},
        data={**trials.to_json(), "difference": gap.to_json()},
    )


def blocks(conditions: Conditions) -> Result:
    """The block types B(M) of table 2, with k = 1 in place of its 2."""
    specs = {f"WRN-{depth}-1-{name}": wrn(depth, 1, kernels=kernels) for name, (depth, kernels) in _BLOCKS.items()}
    trials = run_trials(specs, small("wrn-cifar", EPOCHS, BATCH), conditions)
    means = sorted((Estimate.of(trials.errors(name)).mean, name) for name in specs)
    return Result(
        f"The mean test error is between {100 * means[0][0]:.1f} % ({means[0][1]}) and {100 * means[-1][0]:.1f} % "
        f"({means[-1][1]}). There is no rule: the paper finds these within a point of one another after 200 "
        "epochs, and few epochs on small images favour what learns fast.",
        passed=None,
        tables={"Test error and training loss": trials.rows()},
        pictures={"learning": learning_curves(trials)},
        data=trials.to_json(),
    )


REPRODUCTION = Reproduction(
    "wide-resnet",
    "Wide ResNet",
    {
        "accuracy": Part("Error from thin and deep to wide and shallow", accuracy),
        "speed": Part("Time from thin and deep to wide and shallow", speed),
        "dropout": Part("Dropout inside the units", dropout, optional=True),
        "blocks": Part("Block types", blocks, optional=True),
    },
)
