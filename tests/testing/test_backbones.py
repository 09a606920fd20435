"""The suite itself: a sound backbone passes, and each law finds the fault it is for."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from sartor.core.protocols import Role
from sartor.core.spec import spec_kind, to_json
from sartor.models.anynet import AnyNet, AnyNetBackbone, Stage, Stem
from sartor.models.network import build
from sartor.models.tokens import Attend
from sartor.models.vision.deit import ViT, ViTBackbone
from sartor.models.vision.resnet import Basic
from sartor.testing.backbones import LAWS, cases, check_backbone, observed_cost, randomise_norms


@spec_kind
@dataclass(frozen=True)
class Faulty(AnyNet):
    kind: ClassVar[str] = "faulty_anynet"
    fault: str = ""

    def build(self):
        return FAULTS[self.fault](self)

    def tally(self, size=None, convention="sartor"):
        tally = super().tally(size, convention)
        tally.macs += self.fault == "count"
        return tally


class InexactSeam(AnyNetBackbone):
    def run(self, x, *, start=None, stop=None):
        out = super().run(x, start=start, stop=stop)
        return out * (1 + 1e-6) if start == "stage1.2" else out


class WrongPort(AnyNetBackbone):
    wrong: ClassVar = {"width": 5}

    def __init__(self, spec):
        super().__init__(spec)
        port = replace(self.seams[1].ports[0], **self.wrong)
        self.seams = (self.seams[0], replace(self.seams[1], ports=(port,)), *self.seams[2:])


class WrongStride(WrongPort):
    wrong: ClassVar = {"stride": 2}


class WrongLayout(WrongPort):
    wrong: ClassVar = {"layout": "NLC"}


class SpoiltState(AnyNetBackbone):
    def run(self, x, *, start=None, stop=None):
        out = super().run(x, start=start, stop=stop)
        if start == "stage1.1":
            x.zero_()
        return out


class SpoiltInput(AnyNetBackbone):
    def forward(self, x):
        out = super().forward(x)
        x.add_(1.0)
        return out


class Restless(AnyNetBackbone):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.calls


class StaleFeature(AnyNetBackbone):
    def features(self, x, names):
        return {name: value + (name == "stem") for name, value in super().features(x, names).items()}


class UnknownTaken(AnyNetBackbone):
    def run(self, x, *, start=None, stop=None):
        known = {seam.name for seam in self.seams}
        return super().run(x, start=start if start in known else None, stop=stop if stop in known else None)


class MissingRole(AnyNetBackbone):
    def roles(self):
        return dict(list(super().roles().items())[1:])


class WrongFan(AnyNetBackbone):
    def roles(self):
        return super().roles() | {"conv1.weight": Role("input", -1, 1, 3)}


class Unsaved(AnyNetBackbone):
    def __init__(self, spec):
        super().__init__(spec)
        self.shift = None

    def run(self, x, *, start=None, stop=None):
        if self.shift is None:
            self.shift = torch.rand(())
        return super().run(x, start=start, stop=stop) + (self.shift if stop is None else 0.0)


class OtherDeployed(AnyNetBackbone):
    def deploy(self):
        return AnyNetBackbone(self.spec)


FAULTS = {
    "": AnyNetBackbone,
    "count": AnyNetBackbone,
    "inexact seam": InexactSeam,
    "wrong width": WrongPort,
    "wrong stride": WrongStride,
    "wrong layout": WrongLayout,
    "spoilt state": SpoiltState,
    "spoilt input": SpoiltInput,
    "restless": Restless,
    "stale feature": StaleFeature,
    "unknown taken": UnknownTaken,
    "missing role": MissingRole,
    "wrong fan": WrongFan,
    "unsaved": Unsaved,
    "other deployed": OtherDeployed,
}
FOUND = {
    "count": ("count", "macs: counted"),
    "inexact seam": ("seams", r"seam stage1\.2: answers differ"),
    "wrong width": ("seams", r"seam stage1\.1, port x: width 4, stated 5"),
    "wrong stride": ("seams", r"seam stage1\.1, port x: map \(8, 8\), by its stride \(4, 4\)"),
    "wrong layout": ("seams", r"seam stage1\.1, port x: NLC of 4 dimensions"),
    "spoilt state": ("seams", r"seam stage1\.1: running on changes the state"),
    "spoilt input": ("answers", "give different answers|changes its input"),
    "restless": ("answers", "two passes give different answers"),
    "stale feature": ("features", "feature stem is not run's"),
    "unknown taken": ("names", "an unknown seam is taken"),
    "missing role": ("roles", "without a role, or no parameter: {'conv1.weight'}"),
    "wrong fan": ("roles", "conv1.weight: fan_in is 27, not 1"),
    "unsaved": ("restore", "built again with the same weights, it answers otherwise"),
    "other deployed": ("restore", "the deployed network answers otherwise"),
}


def spec(fault=""):
    stages = (Stage(Basic(), 2, 4), Stage(Basic(), 1, 8, 2))
    return Faulty(Stem(4), stages, classes=3, size=(8, 8), fault=fault)


def test_a_sound_backbone_keeps_all_laws():
    check_backbone(spec())


def test_cases_are_named_and_run():
    found = dict(cases({"mine": spec()}))
    assert list(found) == [f"mine-{law}" for law in LAWS]
    for check in found.values():
        check()


@pytest.mark.parametrize("fault", FOUND)
def test_each_law_finds_its_fault(fault):
    law, message = FOUND[fault]
    with pytest.raises(AssertionError, match=message):
        check_backbone(spec(fault), [law])


def test_a_spec_that_loses_a_field_is_found(monkeypatch):
    def forgetful(spec):
        return {name: value for name, value in to_json(spec).items() if name != "fault"}

    monkeypatch.setattr("sartor.testing.backbones.to_json", forgetful)
    with pytest.raises(AssertionError, match="is another spec"):
        check_backbone(spec("count"), ["spec"])


def test_norms_are_random_and_activations_keep_their_size():
    torch.manual_seed(0)
    net = build(Faulty(Stem(8), (Stage(Basic(), 60, 8),), size=(8, 8)))
    x = torch.randn(8, 3, 8, 8)
    randomise_norms(net, x)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not norm.training for norm in norms)
    assert all(len(norm.weight.unique()) == len(norm.running_var.unique()) == 8 for norm in norms)
    assert 0.01 < net.run(x, stop="stage1.60").std() < 1000


def test_observed_cost_is_of_one_example():
    conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
    cost = observed_cost(nn.Sequential(conv, nn.Flatten(), nn.Linear(100, 3)), torch.zeros(7, 2, 5, 5))
    assert cost.value("params") == 2 * 2 * 9 + 4 + 303
    assert cost.value("macs") == 25 * 4 * 9 + 300
    assert cost.value("activations") == 103
    assert cost.value("traffic") == 4 * (50 + 100 + 36 + 100 + 3 + 300)
    assert cost.value("cio") == 50 + 100


def test_observed_cost_of_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = Attend()

        def forward(self, x):
            return self.attend(x[..., :2], x[:, :, :3, :2], x[:, :, :3])

    cost = observed_cost(Net(), torch.randn(7, 5, 4, 6))  # 5 heads, 4 queries, 3 keys of width 2, values of width 6
    assert cost.value("macs") == 5 * 4 * 3 * (2 + 6)
    assert cost.value("activations") == 5 * 4 * (3 + 6)
    assert cost.value("traffic") == 4 * 5 * (4 * 2 + 3 * 2 + 3 * 6 + 4 * 6)


@spec_kind
@dataclass(frozen=True)
class WithoutPrefix(ViT):
    kind: ClassVar[str] = "vit_without_prefix"

    def build(self):
        network = ViTBackbone(self)
        network.seams = tuple(
            replace(seam, ports=tuple(replace(port, prefix=0) for port in seam.ports)) for seam in network.seams
        )
        return network


def test_tokens_must_be_as_many_as_stated():
    spec = WithoutPrefix(8, 1, 2, 4, classes=3, size=(8, 8))
    with pytest.raises(AssertionError, match=r"seam stem, port x: 5 tokens, by its stride 4"):
        check_backbone(spec, ["seams"])
