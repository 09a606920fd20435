"""Depth-muP (Yang, Yu, Zhu and Hayou 2023, arXiv 2310.02244): learning rates of shallow nets, used on deep ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build
from sartor.models.vision.deit import ViT
from sartor.models.vision.preact_resnet import Unit
from sartor.models.vision.residual_mlp import Nonlinearity, ResidualMLP
from sartor.report.design_space import COLOURS, panels, svg
from sartor.reproduce.cifar import SIDE
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result, Rows
from sartor.reproduce.statistics import Estimate
from sartor.reproduce.trials import Trials, run_trials, small
from sartor.training.optimisers import AdamW
from sartor.training.parametrization import DepthMup, Standard
from sartor.training.recipe import Recipe
from sartor.training.schedules import Constant

BLOCKS = (4, 16, 64)
UNITS = (1, 4, 16)  # of each of three stages
PAIRS = (2, 8, 32)  # of attention and perceptron
STEP = 1.0  # factors of two by which the best learning rate may move
RISE = 0.03  # by which the best loss may rise with depth
NEAR = 0.05  # relative
SHOWN = 3.0  # losses above it are drawn there
DIVERGED = 10.0  # losses above it say no more than that
# act, whether the mean is subtracted, and what a block of unit constant adds to |x|^2 / |x_0|^2, over L
GROWTHS: tuple[tuple[Nonlinearity, bool, float], ...] = (
    ("identity", False, 1.0),
    ("relu", True, 1 / 2 - 1 / (2 * math.pi)),
    ("abs", True, 1 - 2 / math.pi),
)


@dataclass(frozen=True)
class Sweep:
    """The same networks of growing depth, trained at learning rates of powers of two, in two parametrizations."""

    networks: Mapping[int, Any]  # by number of residual branches
    recipe: Recipe
    powers: Sequence[int]
    constant: float
    unit: str = "blocks"  # what the branches are called

    def run(self, conditions: Conditions) -> Result:
        """Train all, and judge how far the best learning rate moves."""
        shallow = min(self.networks)
        rules = {"standard": Standard(), "depth-muP": DepthMup(base_depth=shallow, constant=self.constant)}
        specs, recipes = dict[str, Any](), dict[str, Recipe]()
        for rule, parametrization in rules.items():
            for depth, network in self.networks.items():
                for power in self.powers:
                    name = self._name(rule, depth, power)
                    specs[name] = network.replace(branch_scale=self.constant / shallow**0.5)
                    recipes[name] = self.recipe.replace(lr=2.0**power, parametrization=parametrization)
        trials = run_trials(specs, recipes, conditions)
        return self._judged(rules, trials)

    def _judged(self, rules: Mapping[str, Any], trials: Trials) -> Result:
        curves = {
            (rule, depth): [trials.losses(self._name(rule, depth, power)) for power in self.powers]
            for rule in rules
            for depth in self.networks
        }
        best = {
            key: optimum(self.powers, [float(np.mean(losses)) for losses in curve]) for key, curve in curves.items()
        }
        shallow, deep = min(self.networks), max(self.networks)
        moved = {rule: abs(best[rule, deep][0] - best[rule, shallow][0]) for rule in rules}
        rose = best["depth-muP", deep][1] - best["depth-muP", shallow][1]
        return Result(
            f"From {shallow} to {deep} {self.unit} the best learning rate moves by {moved['depth-muP']:.2f} factors of "
            f"two under Depth-muP and by {moved['standard']:.2f} under the standard parametrization; Depth-muP's best "
            f"loss changes by {rose:+.3f}. The rule is less than {STEP:g}, more than {STEP:g}, and at most {RISE:+g}.",
            passed=bool(moved["depth-muP"] < STEP < moved["standard"] and rose <= RISE),
            tables={"Training loss of the last epoch": _rows(curves, best, self.powers, self.unit)},
            pictures={"rates": _picture(curves, self.powers, self.unit)},
            data={**trials.to_json(), "moved": moved, "rose": rose},
        )

    def _name(self, rule: str, depth: int, power: int) -> str:
        return f"{rule}, {depth} {self.unit}, 2^{power}"


def optimum(powers: Sequence[int], losses: Sequence[float]) -> tuple[float, float]:
    """Where a parabola through the least loss and its neighbours is least, and its value; at an end, that end."""
    at = int(np.argmin(losses))
    near = [losses[i] for i in (at - 1, at, at + 1) if 0 <= i < len(losses)]
    if len(near) < 3 or not np.isfinite(near).all() or near[0] + near[2] == 2 * near[1]:
        return float(powers[at]), float(losses[at])
    left, middle, right = near
    shift = (left - right) / (2 * (left + right - 2 * middle))
    return float(powers[at] + shift), float(middle - (left - right) * shift / 4)


def _rows(curves: Mapping[Any, Any], best: Mapping[Any, Any], powers: Sequence[int], unit: str) -> Rows:
    rows = []
    for (rule, depth), curve in curves.items():
        cells = {f"2^{power}": _cell(losses) for power, losses in zip(powers, curve, strict=True)}
        power, loss = best[rule, depth]
        rows.append({"parametrization": rule, unit: str(depth), **cells, "best": f"{loss:.3f} at 2^{power:.2f}"})
    return rows


def _cell(losses: Sequence[float]) -> str:
    found = Estimate.of(losses)
    if not found.mean < DIVERGED:
        return "diverged"
    return f"{found.mean:.3f}" + (f" ± {found.deviation:.3f}" if found.n > 1 else "")


def _picture(curves: Mapping[tuple[str, int], Any], powers: Sequence[int], unit: str) -> str:
    """Loss by learning rate: a panel for each parametrization, a line for each depth, a band over the seeds."""
    rules = list(dict.fromkeys(rule for rule, _ in curves))
    depths = list(dict.fromkeys(depth for _, depth in curves))
    with panels(1, len(rules), (3.6, 3.0), sharey=True) as (figure, (axes,)):
        for ax, rule in zip(axes, rules, strict=True):
            for colour, depth in zip(COLOURS, depths, strict=False):
                values = np.minimum(np.array(curves[rule, depth]), SHOWN)
                ax.fill_between(powers, values.min(1), values.max(1), color=colour, alpha=0.15, lw=0)
                ax.plot(powers, values.mean(1), "-", marker="o", ms=3, color=colour, label=f"{depth} {unit}")
            ax.set_title(rule, loc="left")
            ax.set_xlabel("learning rate, power of two")
        axes[0].set_ylabel("training loss")
        axes[0].legend(fontsize=8.5)
    return svg(figure)


def growth(conditions: Conditions) -> Result:
    """How activations grow with depth at initialisation, against theory for infinite width."""
    rows, worst = [], 0.0
    for act, center, share in GROWTHS:
        for depth in BLOCKS:
            predicted, seen = (1 + share / depth) ** depth, _growth(act, center, depth)
            worst = max(worst, abs(seen / predicted - 1))
            rows.append(
                {"nonlinearity": act, "blocks": str(depth), "theory": f"{predicted:.3f}", "seen": f"{seen:.3f}"}
            )
    return Result(
        f"The mean square grows as theory says to {100 * worst:.1f} % at most, 512 wide; it must be within "
        f"{100 * NEAR:.0f} %.",
        passed=worst <= NEAR,
        tables={"|x_L|^2 / |x_0|^2 with branches of 1 / sqrt(L)": rows},
        data={"worst": worst},
    )


@torch.no_grad()
def _growth(act: Nonlinearity, center: bool, depth: int) -> float:
    torch.manual_seed(0)
    spec = ResidualMLP(512, depth, act=act, center=center, channels=1, size=(SIDE, SIDE))
    network = build(DepthMup(base_depth=depth, constant=1.0).spec_for(spec))
    states = network.features(torch.randn(64, 1, SIDE, SIDE), ["stem", f"block{depth}"])
    first, last = (state.square().sum().item() for state in states.values())
    return float(last / first)


def adam() -> Recipe:
    """Four epochs of AdamW at a constant rate, without decay and augmentation."""
    return Recipe(epochs=4, batch=128, optimiser=AdamW(), lr_scaling="none", schedule=Constant())


def perceptrons(act: Nonlinearity) -> Sweep:
    """Residual perceptrons of one-layer blocks, 64 wide, whose classifier starts at zero."""
    base = ResidualMLP(64, 1, act=act, zero_readout=True, size=(SIDE, SIDE))
    return Sweep({depth: base.replace(depth=depth) for depth in BLOCKS}, adam(), range(-13, -4), 1.0)


def resnets() -> Sweep:
    """Pre-activation nets of units of one convolution, 8, 16 and 32 wide, by SGD."""
    networks = {}
    for units in UNITS:
        unit = Unit((3,), change="A")
        stages = tuple(Stage(unit, units, 8 * 2**n, 1 if n == 0 else 2) for n in range(3))
        network = AnyNet(Stem(8), stages, classes=10, size=(SIDE, SIDE), final_norm=True, names="preact")
        networks[3 * units] = network
    recipe = small("preact-cifar", 2.0).replace(schedule=Constant(), lr_scaling="none")
    return Sweep(networks, recipe, range(-7, 1), math.sqrt(3))


def transformers() -> Sweep:
    """Vision transformers 32 wide on four tokens and a class token, whose branches have two layers, by AdamW.

    Matrices start from N(0, 1 / width). As many steps are taken as by the perceptrons.
    """
    base = ViT(32, 1, 4, patch=SIDE // 2, mlp=2.0, classes=10, size=(SIDE, SIDE), fc_std=32**-0.5)
    networks = {2 * pairs: base.replace(depth=pairs) for pairs in PAIRS}
    return Sweep(networks, adam().replace(epochs=2.0, batch=64), range(-12, -4), 1.0, "branches")


REPRODUCTION = Reproduction(
    "depth-mup",
    "Depth-muP",
    {
        "growth": Part("Activations at initialisation", growth, exact=True),
        "relu": Part("Best learning rate by depth, ReLU", perceptrons("relu").run),
        "abs": Part("Best learning rate by depth, |x|", perceptrons("abs").run),
        "resnet": Part(
            "Best learning rate by depth, residual networks",
            resnets().run,
            optional=True,
        ),
        "transformer": Part(
            "Best learning rate by depth, transformers",
            transformers().run,
            optional=True,
        ),
    },
)
