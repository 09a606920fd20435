"""pycls's layout, against networks written here with pycls's names; torchvision's is in tests/parity."""

import pytest
import torch
from torch import nn

from sartor.models.network import build, spec_of
from sartor.weights.create import create_model
from sartor.weights.keymaps import find_map


def conv(w_in, w_out, kernel, stride=1, groups=1, bias=False):
    return nn.Conv2d(w_in, w_out, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Transform(nn.Module):
    def __init__(self, layers, gate):
        super().__init__()
        self.names = [name for name in "abc" if name in layers]
        for name in self.names:
            self.add_module(name, layers[name])
            self.add_module(f"{name}_bn", nn.BatchNorm2d(layers[name].out_channels))
        self.se = gate

    def forward(self, x):
        for name in self.names:
            x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
            x = x.relu() if name != self.names[-1] else x
            if name == "b" and self.se is not None:
                x = x * self.se.f_ex(x.mean((2, 3), keepdim=True))
        return x


class ResBlock(nn.Module):
    def __init__(self, w_in, w_out, stride, transform):
        super().__init__()
        if stride != 1 or w_in != w_out:
            self.proj, self.bn = conv(w_in, w_out, 1, stride), nn.BatchNorm2d(w_out)
        self.f = transform

    def forward(self, x):
        return ((self.bn(self.proj(x)) if hasattr(self, "proj") else x) + self.f(x)).relu()


class Pycls(nn.Module):
    """stem, s1.b1 …, head, as pycls names them."""

    def __init__(self, spec):
        super().__init__()
        self.pool = spec.stem.pool
        self.stem, self.head = nn.Module(), nn.Module()
        self.stem.conv = conv(3, spec.stem.width, spec.stem.kernel, spec.stem.stride)
        self.stem.bn = nn.BatchNorm2d(spec.stem.width)
        self.blocks = []
        for s, b, kind, site in spec.blocks():
            if b == 0:
                self.add_module(f"s{s + 1}", nn.Module())
            block = ResBlock(site.w_in, site.w_out, site.stride, self.transform(kind, site))
            self.get_submodule(f"s{s + 1}").add_module(f"b{b + 1}", block)
            self.blocks.append(f"s{s + 1}.b{b + 1}")
        self.head.fc = nn.Linear(spec.stages[-1].width, spec.classes)

    @staticmethod
    def transform(kind, site):
        if not hasattr(kind, "inner"):
            first, second = conv(site.w_in, site.w_out, 3, site.stride), conv(site.w_out, site.w_out, 3)
            return Transform({"a": first, "b": second}, None)
        gate, width = None, round(getattr(kind, "se", 0.0) * site.w_in)
        if width:
            gate = nn.Module()
            squeeze, expand = conv(kind.inner, width, 1, bias=True), conv(width, kind.inner, 1, bias=True)
            gate.f_ex = nn.Sequential(squeeze, nn.ReLU(), expand, nn.Sigmoid())
        first = conv(site.w_in, kind.inner, 1)
        second = conv(kind.inner, kind.inner, 3, site.stride, kind.groups)
        return Transform({"a": first, "b": second, "c": conv(kind.inner, site.w_out, 1)}, gate)

    def forward(self, x):
        x = self.stem.bn(self.stem.conv(x)).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1) if self.pool else x
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.head.fc(x.mean((2, 3)))


def randomise(network):
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "bgr"),
    [("regnetx_002", True), ("regnety_004", True), ("resnet18", True), ("resnet50", True), ("resnet20_cifar", False)],
)
def test_pycls_checkpoints(tmp_path, name, bgr, caplog):
    spec = spec_of(name)
    if name == "resnet20_cifar":  # pycls projects where the paper pads
        stages = tuple(type(s)(type(s.block)("B"), s.depth, s.width, s.stride) for s in spec.stages)
        spec = spec.replace(stages=stages)
    theirs = randomise(Pycls(spec))
    file = tmp_path / "RegNet.pyth"
    torch.save({"epoch": 99, "model_state": theirs.state_dict(), "cfg": "MODEL: {}"}, file)
    ours = create_model(spec, weights=file).double().eval()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.double()(x.flip(1) if bgr else x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-9)
    assert ("blue-green-red" in caplog.text) == bgr


def test_our_own_names_need_no_map():
    for name in ("resnet18", "regnety_004"):
        state = build(spec_of(name), device="meta").state_dict()
        assert find_map(state, spec_of(name).names) is None


def test_a_layer_unknown_to_a_map_keeps_its_name_and_is_reported():
    layout = find_map({"s1.b1.f.a.weight": torch.zeros(1)}, "regnet")
    assert layout is not None
    assert layout.rename("s2.b3.f.odd.weight") == "s2.b3.f.odd.weight"
    assert layout.rename("s99999.b1.f.a.weight") == "s99999.b1.f.a.weight"
    assert layout.rename("bare") == "bare"
