"""fx traces and torch.export takes every family in eval mode: engines and ONNX export need it."""

import pytest
import torch

from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build, spec_of
from sartor.models.vision.preact_resnet import Dropped, Gating, Scaling, Unit
from sartor.models.vision.resnext import Aggregated
from sartor.testing.backbones import draw_inputs, randomise_norms

NAMES = [
    "resnet18",
    "resnet50",
    "resnet110_cifar",
    "resnext50_32x4d",
    "resnext50_32x4d_no_shortcut",
    "preact_resnext50_32x4d",
    "wide_resnet18_1_5",
    "wrn16_2_cifar",
    "wrn16_4_dropout_cifar",
    "preact_resnet50",
    "resnetv2_18",
    "resnetv2_50",
    "resnet110_bn_after_add_cifar",
    "resnet110_relu_before_add_cifar",
    "resnet110_relu_preact_cifar",
    "regnetx_002",
    "regnety_002",
    "resnetrs50",
    "hardnet39ds",
    "hardnet68",
    "hardnet85",
    "res2net50_26w_4s",
    "res2net50d",
    "seres2net50_26w_4s",
    "simplenet_cifar_310k",
    "dla60_res2net",
    "simplenet_caffe_310k",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "levit_128s",
    "vit_resnas_tiny",
]
UNITS = {
    "scaled": Unit(shortcut=Scaling(0.5, 0.5)),
    "plain": Unit(shortcut=Scaling(0.0)),
    "gated": Unit(order="original", shortcut=Gating(True)),
    "dropped": Unit(shortcut=Dropped(), dropout=0.3),
}


@pytest.fixture(scope="module")
def specs(thin):
    units = {key: AnyNet(Stem(8), (Stage(unit, 2, 8),), size=(16, 16)) for key, unit in UNITS.items()}
    shallow = {name: thin(spec_of(name)) for name in NAMES}
    forms = {form: AnyNet(Stem(8), (Stage(Aggregated(12, 4, form), 2, 16),), size=(16, 16)) for form in "AB"}
    head = units["plain"].replace(head_width=16, final_norm=True, drop_path=0.2)
    return {**shallow, **units, **forms, "head": head}


@pytest.mark.parametrize("name", [*NAMES, *UNITS, "A", "B", "head"])
def test_traced_and_exported_answers_are_equal(specs, name):
    spec = specs[name]
    torch.manual_seed(0)
    net, x = build(spec), draw_inputs(spec)
    randomise_norms(net, x)
    traced = torch.fx.symbolic_trace(net)
    exported = torch.export.export(net, (x,)).module()
    with torch.no_grad():
        answers = net(x)
        assert torch.equal(traced(x), answers)
        torch.testing.assert_close(exported(x), answers)
