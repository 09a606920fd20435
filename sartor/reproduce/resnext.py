"""ResNeXt (Xie et al. 2017, arXiv 1611.05431): equal forms, the price of groups, cardinality against width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build, spec_of
from sartor.models.vision.resnext import Aggregated, Form, map_form, path_width, to_form
from sartor.reproduce.cifar import PREPROCESS, SIDE
from sartor.reproduce.pictures import learning_curves
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result, Rows
from sartor.reproduce.statistics import difference
from sartor.reproduce.timing import ratio_text, step_times, threads_text, time_rows
from sartor.reproduce.trials import run_trials, small
from sartor.training.augment.pipeline import Augmenter
from sartor.training.loop import run
from sartor.training.optimisers import SGD
from sartor.training.orders import Shuffled
from sartor.training.plan import Batch, Context, Group, Hooks, Member, Modules, Plan, Stream, Turn, Until
from sartor.training.schedules import Constant, Scaled

FORMS: tuple[Form, ...] = ("A", "B")  # compared with C
STEPS, TOLERANCE = 20, 1e-8  # of the exact part
RATE = 0.01  # its learning rate: at 0.1 the first steps are chaotic, and even rounding grows tenfold in each
BATCH = 8  # of the speed part
ALLOWED = 0.03  # more test error that more cardinality may have, as a share
# Parameters and multiply-adds (convolutions and classifier, 224 pixels, CIFAR 32): table 1 and table 7 of the paper to
# their digits, exact counts as in other public implementations.
PUBLISHED: Mapping[str, tuple[int, int]] = {
    "resnet50": (25_557_032, 4_089_184_256),
    "resnext50_2x40d": (25_425_000, 4_124_508_160),
    "resnext50_4x24d": (25_292_968, 4_159_832_064),
    "resnext50_8x14d": (25_603_016, 4_267_409_408),
    "resnext50_32x4d": (25_028_904, 4_230_479_872),
    "resnext101_32x4d": (44_177_704, 7_969_996_800),
    "resnext101_64x4d": (83_455_272, 15_460_270_080),
    "resnext101_1x100d": (85_611_336, 15_272_862_720),
    "resnext101_2x64d": (84_198_184, 15_123_087_360),
    "resnext29_8x64d_cifar": (34_426_698, 5_387_266_048),
    "resnext29_16x64d_cifar": (68_155_210, 10_688_866_304),
}


def template(groups: int, width: int, depth: int = 11) -> AnyNet:
    """The CIFAR template at a quarter of its widths, for 16x16 images: stages that end 64, 128 and 256 wide.

    ``width`` is that of a path in the first stage, where a plain ResNet's is 16.
    """
    stages = tuple(
        Stage(
            Aggregated(path_width(16 * 2**n, 4 * width, groups), groups),
            (depth - 2) // 9,
            64 * 2**n,
            1 if n == 0 else 2,
        )
        for n in range(3)
    )
    return AnyNet(Stem(16), stages, classes=10, size=(SIDE, SIDE))


def exact(conditions: Conditions) -> Result:
    """Forms A, B and C trained side by side from equal weights, in float64; and the counts of the named networks."""
    gaps = forms_apart(conditions)
    counted = {name: spec_of(name).tally() for name in PUBLISHED}
    wrong = [name for name, tally in counted.items() if (tally.params, tally.macs) != PUBLISHED[name]]
    worst = max(value for gap in gaps.values() for value in gap.values())
    rows = [
        {"form": form, "largest difference of outputs": f"{gap['outputs']:.1e}",
         "of weights and statistics": f"{gap['state']:.1e}"}
        for form, gap in gaps.items()
    ]  # fmt: skip
    return Result(
        f"After each of {STEPS} SGD steps on real images forms A and B differ from C by at most {worst:.1e} in outputs "
        f"and mapped weights (allowed {TOLERANCE:.0e}); {len(counted) - len(wrong)} of {len(counted)} networks have "
        "exactly the published parameters and multiply-adds.",
        passed=worst <= TOLERANCE and not wrong,
        tables={"Largest difference from form C over all steps": rows, "Counts": _count_rows(counted)},
        data={"gaps": gaps, "wrong": wrong},
    )


def _count_rows(counted: Mapping[str, Any]) -> Rows:
    return [
        {"network": name, "parameters": f"{tally.params:,}", "multiply-adds": f"{tally.macs:,}",
         "as published": "yes" if (tally.params, tally.macs) == PUBLISHED[name] else "no"}
        for name, tally in counted.items()
    ]  # fmt: skip


def forms_apart(conditions: Conditions) -> dict[Form, dict[str, float]]:
    """For forms A and B, how far outputs and mapped state dict are from form C's at most, over all steps."""
    torch.manual_seed(0)
    spec: Any = template(4, 8)
    first = build(spec).double()
    networks = {"model": first, "A": to_form(first, "A"), "B": to_form(first, "B")}
    task = conditions.data()
    shown = task.split("test").batch(torch.arange(32).numpy())["image"].double() / 255.0
    gaps: dict[Form, dict[str, float]] = {form: {"outputs": 0.0, "state": 0.0} for form in FORMS}

    def compare(modules: Modules, context: Context) -> None:
        answers = {name: _answers(module, shown) for name, module in modules.items()}
        for form, gap in gaps.items():
            mapped = map_form(modules["model"].state_dict(), spec, form)
            apart = (_apart(value, mapped[name]) for name, value in modules[form].state_dict().items())
            gap["state"] = max(gap["state"], *apart)
            gap["outputs"] = max(gap["outputs"], _apart(answers[form], answers["model"]))

    augment = Augmenter(small("resnext-cifar", 1).augment, PREPROCESS, SIDE)

    def transform(batch: Batch, context: Context) -> Batch:
        batch = augment(batch, context)
        return {**batch, "image": batch["image"].double()}

    run(
        Plan(
            modules={name: Member(module) for name, module in networks.items()},
            streams={"train": Stream(task.split("train"), Shuffled(), 32)},
            turns=[_turn(name) for name in networks],
            schedules={"lr": Scaled(Constant(), RATE)},
            until=Until(steps=STEPS),
            hooks=Hooks(transform=transform, after_step=compare),
        )
    )
    return gaps


def _turn(name: str) -> Turn:
    """The update of one of the networks."""

    def loss(modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        return {"loss": F.cross_entropy(modules[name](batch["image"]), batch["label"])}

    def groups(modules: Modules) -> list[Group]:
        return [Group(list(modules[name].parameters()), weight_decay=5e-4)]

    return Turn(loss, groups, SGD())


@torch.no_grad()
def _answers(network: nn.Module, images: Tensor) -> Tensor:
    network.eval()
    answers: Tensor = network(images)
    network.train()
    return answers


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def speed(conditions: Conditions) -> Result:
    """The time of a training step at preserved multiply-adds, for growing cardinality."""
    if conditions.quick:
        specs = {"1x16d": template(1, 16), "4x6d": template(4, 6)}
    else:
        names = ("resnet50", "resnext50_2x40d", "resnext50_4x24d", "resnext50_8x14d", "resnext50_32x4d")
        specs = {name.removeprefix("resnext50_").replace("resnet50", "1x64d"): spec_of(name) for name in names}
    times = step_times(specs, BATCH, 2 if conditions.quick else 7)
    first, *_, last = specs
    said = ", ".join(f"{ratio_text(by[last], by[first])} times on {threads_text(n)}" for n, by in times.items())
    return Result(
        f"A training step of {last} takes, of the time of one of {first} with about as many multiply-adds, {said} "
        f"(batch {BATCH}, steps taken in turn; median and quartiles over rounds). There is no rule: grouped "
        "convolutions are expected to be slower than their multiply-adds say. The paper reports 0.95 s against 0.70 s.",
        passed=None,
        tables={f"Training step on {threads_text(n)}": time_rows(specs, by) for n, by in times.items()},
        data={"seconds": {str(n): by for n, by in times.items()}},
    )


def accuracy(conditions: Conditions) -> Result:
    """More cardinality against more width at equal parameters, as in figure 7, on the small template."""
    specs = {"1x37d (width)": template(1, 37), "4x16d (cardinality)": template(4, 16)}
    trials = run_trials(specs, small("resnext-cifar", 6), conditions)
    wide, many = (trials.errors(name) for name in specs)
    gap = difference(many, wide)
    shown = "does" if gap.high < 0 else "does not"
    return Result(
        f"The test error of 4x16d less that of 1x37d is {gap.text(1, 100)} points (n = {gap.n}: mean ± deviation and "
        f"95 % interval); the rule is that it must not be more than {100 * ALLOWED:g}. At this size the advantage of "
        f"cardinality over width {shown} show.",
        passed=gap.mean <= ALLOWED,
        tables={"Test error and training loss": trials.rows()},
        pictures={"learning": learning_curves(trials)},
        data={**trials.to_json(), "difference": gap.to_json()},
    )


REPRODUCTION = Reproduction(
    "resnext",
    "ResNeXt",
    {
        "exact": Part("Three equal forms, and the published counts", exact, exact=True),
        "accuracy": Part("Cardinality against width at equal parameters", accuracy),
        "speed": Part("Time beside multiply-adds", speed),
    },
)
