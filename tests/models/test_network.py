import json
import subprocess
import sys

import pytest
import torch

from sartor.core.errors import SpecError
from sartor.core.seams import Field, Signature
from sartor.core.spec import to_json
from sartor.models import KINDS
from sartor.models.network import as_spec, build, count, list_models, spec_of
from sartor.weights.create import create_model


def test_models_by_pattern():
    assert list_models("resnext50_*d") == ["resnext50_2x40d", "resnext50_32x4d", "resnext50_4x24d", "resnext50_8x14d"]
    assert list_models("nothing*") == []
    assert {"resnet50", "wide_resnet50_2", "preact_resnet1001_cifar", "resnetv2_101"} <= set(list_models())
    assert all(spec_of(name).size == (32, 32) for name in list_models("*_cifar"))


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(SpecError, match="unknown model 'resnext50_32x4': did you mean resnext50_32x4d"):
        spec_of("resnext50_32x4")


def test_a_model_by_name_spec_or_json():
    spec = spec_of("resnet20_cifar")
    assert as_spec("resnet20_cifar") is not None
    assert as_spec(spec) is spec
    assert as_spec(to_json(spec)) == spec
    assert as_spec(to_json(spec), classes=3).classes == 3


def test_other_ends():
    net = create_model("resnet20_cifar", num_classes=7, in_channels=1)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert net.spec == spec_of("resnet20_cifar", classes=7, channels=1)


def test_counting_at_another_size():
    spec = spec_of("resnet20_cifar")
    assert count(spec).value("macs") == 40_551_040
    assert count(spec, Signature.image(3, 64, 64)).value("macs") == 4 * 40_550_400 + 640
    with pytest.raises(SpecError, match="needs the height and width"):
        count(spec, Signature({"image": Field((3, None, 32))}))


def test_meta_devices_hold_nothing():
    net = build(spec_of("resnext101_32x32d"), device="meta")
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


def test_building_writes_every_value(monkeypatch):
    """Memory is taken unwritten: here it is full of NaN."""
    empty = torch.empty

    def dirty(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", dirty)
    assert build(spec_of("resnet20_cifar"), init=False).conv1.weight.isnan().all()
    for name in ("resnet20_cifar", "resnetv2_18", "resnet110_exclusive_gate_cifar", "regnety_002"):
        assert all(value.isfinite().all() for value in build(spec_of(name)).state_dict().values())


@pytest.mark.parametrize(
    ("name", "layer", "spread"),
    [
        ("resnet50", "layer3.0.conv2.weight", (2 / (9 * 256)) ** 0.5),
        ("resnext50_32x4d", "layer3.0.conv2.weight", (2 / (9 * 512)) ** 0.5),  # fan-out ignores the groups
        ("wide_resnet50_2", "layer3.0.conv1.weight", (2 / 512) ** 0.5),  # fan-in
        ("wrn28_10_cifar", "stages.1.blocks.0.conv1.weight", (2 / (9 * 160)) ** 0.5),
        ("resnet50", "fc.weight", (1 / 2048 / 3) ** 0.5),
        ("resnetv2_50", "head.fc.weight", (1 / 2048 / 3) ** 0.5),  # a classifier stored as a convolution
        ("regnety_002", "head.fc.weight", 0.01),
    ],
)
def test_initial_spread(name, layer, spread):
    torch.manual_seed(0)
    weight = build(spec_of(name)).get_parameter(layer)
    assert weight.std().item() == pytest.approx(spread, rel=0.02)
    assert abs(weight.mean().item()) < 0.05 * spread


def test_a_fresh_process_reads_every_spec():
    """Kinds are imported when a spec names them, and reading needs no other import than the package's."""
    specs = json.dumps([to_json(spec_of(name)) for name in list_models()])
    code = (
        "import json, sys, sartor.models; from sartor.core.spec import from_json, to_json;"
        "assert 'torch' not in sys.modules;"
        "specs = json.load(sys.stdin);"
        "assert json.loads(json.dumps([to_json(from_json(s)) for s in specs])) == specs"
    )
    subprocess.run([sys.executable, "-c", code], input=specs, text=True, check=True)


def test_the_table_of_kinds_is_whole():
    import sartor.core.spec as table

    for name in list_models():
        spec_of(name)
    ours = {kind for kind, cls in table._KINDS.items() if cls.__module__.startswith("sartor.models.")}
    assert ours <= {kind for kinds in KINDS.values() for kind in kinds}
    for module, kinds in KINDS.items():
        assert all(table._KINDS[kind].__module__ == module for kind in kinds if kind in table._KINDS)
