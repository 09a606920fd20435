"""Identity mappings (He et al. 2016, arXiv 1603.05027): what trains when 81 units are stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.core.spec import Json
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build
from sartor.models.vision.preact_resnet import (
    PREACTIVATED,
    Dropped,
    Gating,
    Order,
    Projected,
    Scaling,
    Shortcut,
    Unit,
)
from sartor.reproduce.cifar import SIDE
from sartor.reproduce.pictures import learning_curves
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result
from sartor.reproduce.trials import Trials, run_trials, small
from sartor.training.recipe import Recipe

UNITS = 27  # of each stage
EXACT = 1e-12  # relative
APART = 0.2  # by which the last epoch's losses must differ
FACTORS = (0.5, 0.9, 1.0, 1.1)
WARM_STEPS, STEPS = 40, 78  # steps at a tenth of the learning rate, and steps of an epoch of the full subset
FULL, ORIGINAL = "full_preact", "original"
SCALED, DROPPED = "original, scaling (0.5, 0.5)", "original, dropout shortcut"


def deep(order: Order = "full_preact", shortcut: Shortcut | None = None, units: int = UNITS) -> AnyNet:
    """Three stages of basic units 8, 16 and 32 wide for 16x16 images; zeros where the shape changes (option A)."""
    unit = Unit(order=order, shortcut=shortcut or Shortcut(), change="A")
    stages = tuple(Stage(unit, units, 8 * 2**n, 1 if n == 0 else 2) for n in range(3))
    return AnyNet(
        Stem(8), stages, classes=10, size=(SIDE, SIDE), final_norm=order in PREACTIVATED, names="preact"
    )  # fmt: skip


def exact(conditions: Conditions) -> Result:
    """The gradient through m scaled shortcuts is lambda^m (equation 7); what units add is the sum of their branches."""
    gains = {factor: _gain(factor) for factor in FACTORS}
    wrong = max(abs(gain / factor ** (UNITS - 1) - 1) for factor, values in gains.items() for gain in values)
    missed = _additivity()
    rows = [
        {"factor": f"{factor:g}", f"factor^{UNITS - 1}": f"{factor ** (UNITS - 1):.6e}",
         "output / input": f"{forward:.6e}", "gradient": f"{backward:.6e}"}
        for factor, (forward, backward) in gains.items()
    ]  # fmt: skip
    return Result(
        f"Over {UNITS - 1} units whose branches are zero, output and gradient are factor^{UNITS - 1} to {wrong:.0e} "
        f"(relative); with random branches, what {UNITS - 1} full_preact units add to their input is the sum of their "
        f"branches to {missed:.0e}. Both must be within {EXACT:.0e}.",
        passed=wrong <= EXACT and missed <= EXACT,
        tables={"Scaled shortcuts, float64": rows},
        data={"gains": {str(k): v for k, v in gains.items()}, "additivity": missed},
    )


def _gain(factor: float) -> tuple[float, float]:
    """Output over input and the gradient of a stage of units that only scale; of all values, the one furthest off."""
    network = _network(deep(shortcut=Scaling(factor)))
    for block in _units(network):
        block.zero_branch()
    x = (torch.rand(2, 8, SIDE, SIDE, dtype=torch.float64) + 0.5).requires_grad_()
    y = network.run(x, start="stage1.1", stop=f"stage1.{UNITS}")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    expected = factor ** (UNITS - 1)
    return _furthest((y / x).detach(), expected), _furthest(gradient, expected)


def _furthest(values: Tensor, expected: float) -> float:
    flat = values.flatten()
    return float(flat[(flat - expected).abs().argmax()])


@torch.no_grad()
def _additivity() -> float:
    """How far a stage's change is from the sum of its branches, relative to the largest value (equation 4)."""
    network = _network(deep())
    names = [f"stage1.{number}.branch" for number in range(2, UNITS + 1)]
    seen = network.features(_noise(), ["stage1.1", f"stage1.{UNITS}", *names])
    missed = seen[f"stage1.{UNITS}"] - seen["stage1.1"] - sum(seen[name] for name in names)
    return float(missed.abs().max() / seen[f"stage1.{UNITS}"].abs().max())


def _network(spec: Any) -> Any:
    torch.manual_seed(0)
    return build(spec).double().eval()


def _units(network: Any) -> list[Any]:
    return [network.get_submodule(network.spec.block_path(s, b)) for s, b, _, _ in network.spec.blocks()]


def _noise() -> Tensor:
    return torch.randn(16, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def recipe() -> Recipe:
    """Three epochs; the first 40 steps at a tenth of the learning rate, which the original unit needs."""
    chosen = small("preact-cifar", 3.0)
    return chosen.replace(warmup=WARM_STEPS / STEPS, warmup_from=0.1, warmup_constant=True)


def training(conditions: Conditions) -> Result:
    """Full pre-activation against the original unit and two of its shortcuts."""
    specs = {
        FULL: deep(),
        ORIGINAL: deep("original"),
        SCALED: deep("original", Scaling(0.5, 0.5)),
        DROPPED: deep("original", Dropped(0.5)),
    }
    trials = run_trials(specs, recipe(), conditions)
    losses = {name: sum(trials.losses(name)) / len(trials.losses(name)) for name in specs}
    leads = {name: losses[name] - losses[FULL] for name in specs if name != FULL}
    said = "; ".join(f"{name}, {_shown(lead)}" for name, lead in leads.items())
    return _told(
        trials,
        f"The mean training loss of the last epoch is {losses[FULL]:.3f} for full_preact; the others' is higher by: "
        f"{said}. "
        f"The rule is at least {APART:g} for the original unit and more than that for both other shortcuts.",
        passed=leads[ORIGINAL] >= APART and min(leads[SCALED], leads[DROPPED]) > APART,
        more={"leads": {name: _shown(lead) for name, lead in leads.items()}},
    )


def _shown(lead: float) -> str:
    """A difference of losses, which diverged and exploding trainings make large or infinite."""
    return "infinite (diverged)" if lead == float("inf") else f"{lead:.3g}"


def orders(conditions: Conditions) -> Result:
    """The five orders of activation of table 2."""
    names: tuple[Order, ...] = ("original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact")
    return _told(
        run_trials({name: deep(name) for name in names}, recipe(), conditions),
        "There is no rule: the paper compares the five after 64,000 steps, not 234.",
    )


def shortcuts(conditions: Conditions) -> Result:
    """The other shortcuts of table 1, of the original unit."""
    kinds: Mapping[str, Shortcut] = {
        ORIGINAL: Shortcut(),
        "plain, scaling (0, 1)": Scaling(0.0, 1.0),
        "scaling (0.5, 1)": Scaling(0.5, 1.0),
        "exclusive gate, bias -6": Gating(exclusive=True, bias=-6.0),
        "shortcut gate, bias 0": Gating(bias=0.0),
        "shortcut gate, bias -6": Gating(bias=-6.0),
        "1x1 convolution": Projected(),
    }
    specs = {name: deep("original", kind) for name, kind in kinds.items()}
    return _told(
        run_trials(specs, recipe(), conditions),
        "There is no rule: after 234 steps most of these have not left chance, whatever their rank after 64,000.",
    )


def _told(trials: Trials, verdict: str, passed: bool | None = None, more: Json | None = None) -> Result:
    return Result(
        verdict,
        passed,
        tables={"Test error and training loss": trials.rows()},
        pictures={"learning": learning_curves(trials)},
        data={**trials.to_json(), **(more or {})},
    )


REPRODUCTION = Reproduction(
    "preact-resnet",
    "Pre-activation ResNet",
    {
        "exact": Part("Signals through shortcuts", exact, exact=True),
        "training": Part("Which of 81 stacked units train", training),
        "orders": Part("The five orders of activation", orders, optional=True),
        "shortcuts": Part("Other shortcuts of the original unit", shortcuts, optional=True),
    },
)
