"""Lowered networks give the answers of the plain ones, and leave them alone."""

import pytest
import torch
from serving import randomise
from torch import nn

from sartor.models.network import build, spec_of
from sartor.runtime.engines import lowering
from sartor.runtime.engines.lowering import fold_norms, lower

BLOCKS = (
    "resnet20_cifar", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnetv2_50", "preact_resnet110_cifar",
    "wrn16_4_cifar", "regnetx_002", "regnety_002", "resnetrs50", "hardnet39ds", "hardnet68",
    "wrn16_4_cifar", "regnetx_002", "regnety_002", "res2net50d", "seres2next29_6c_24w_4s_cifar",
    "simplenet_cifar_310k", "simplenet_caffe_310k", "dla60_res2next",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    lowering.unavailable(torch.float32) is not None, reason=str(lowering.unavailable(torch.float32))
)
needs_bf16 = pytest.mark.skipif(
    lowering.unavailable(torch.bfloat16) is not None, reason=str(lowering.unavailable(torch.bfloat16))
)


class Branches(nn.Module):
    """Sums whose terms are read again later, and layers that fuse with nothing."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm, self.act, self.silu = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.SiLU()
        self.reflect = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.scale, self.fc = nn.Parameter(torch.rand(8, 1, 1)), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.a(self.c(x)) + x  # x is read again below: the sum may not be written over it
        z = self.act(self.b(y) + x)
        y = self.act(self.grouped(z) + y) + self.grouped(y)  # sums of grouped convolutions, over what is read again
        z = self.silu(self.c(z)) + y.mean((2, 3), keepdim=True)  # a broadcast sum stays a sum
        z = self.reflect(self.norm(z)) * self.scale
        z = torch.cat([z, z.relu()], 1)[:, ::2] + z  # a sum of what are no convolutions
        return self.fc(z.mean((2, 3)))


def plain_and_input(name, images=2):
    spec = spec_of(name)
    size = spec.size[0] if spec.size[0] <= 32 else 65
    torch.manual_seed(1)
    return randomise(build(spec)), torch.randn(images, spec.channels, size, size)


def outputs(network, lowered, x, dtype):
    with torch.inference_mode():
        return network(x), lowered(x.to(dtype, memory_format=torch.channels_last))


@pytest.mark.parametrize("name", BLOCKS)
def test_equal_to_the_plain_network(name):
    network, x = plain_and_input(name)
    plain, lowered = outputs(network, lower(network, x[:1], torch.float32), x, torch.float32)
    assert (plain - lowered).abs().max() <= 1e-5 * plain.abs().max()


@needs_bf16
@pytest.mark.parametrize("name", ["resnet20_cifar", "resnext50_32x4d", "regnety_002"])
def test_bfloat16_is_near_and_its_logits_are_float32(name):
    network, x = plain_and_input(name)
    plain, lowered = outputs(network, lower(network, x[:1], torch.bfloat16), x, torch.bfloat16)
    assert lowered.dtype == torch.float32
    assert (plain - lowered).abs().max() <= 0.05 * plain.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
def test_values_read_again_are_not_written_over(dtype):
    torch.manual_seed(0)
    network, x = randomise(Branches()), torch.randn(3, 3, 9, 9)
    plain, lowered = outputs(network, lower(network, x[:1], dtype), x, dtype)
    torch.testing.assert_close(lowered, plain, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05)


def test_neither_network_nor_input_changes_and_calls_repeat():
    network, x = plain_and_input("resnet20_cifar")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    lowered = lower(network, x[:1], torch.float32)
    given = x.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        first, second = lowered(given), lowered(given)
    assert torch.equal(first, second)
    assert torch.equal(given, x)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) > 0


def test_one_channel_stays_channels_last():
    spec = spec_of("resnet20_cifar", channels=1)
    network = randomise(build(spec))
    x = torch.randn(2, 32, 32, 1)
    with torch.inference_mode():
        plain = network(x.permute(0, 3, 1, 2).contiguous())
        lowered = lower(network, torch.zeros(1, 1, 32, 32), torch.float32)(x.permute(0, 3, 1, 2))
    assert (plain - lowered).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize("name", ["resnet50", "resnetv2_50"])
def test_folding_norms_changes_nothing_else(name):
    network, x = plain_and_input(name)
    folded = fold_norms(network)
    with torch.inference_mode():
        plain, got = network(x), folded(x)
    assert (plain - got).abs().max() <= 1e-5 * plain.abs().max()
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == (0 if name == "resnet50" else 17)  # a pre-activation net's first norm of each block, and its last


def test_a_build_without_the_operators_says_so(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert lowering.unavailable(torch.float32) == "this build of PyTorch has no oneDNN"


def test_everything_in_a_residual_network_is_fused():
    network, x = plain_and_input("resnet50")
    calls = [str(node.target) for node in lower(network, x[:1], torch.float32).graph.nodes if node.op != "get_attr"]
    assert sum("_convolution_pointwise_.binary" in call for call in calls) == 16  # one sum in place for each block
    assert sum("_convolution_pointwise.default" in call for call in calls) == 53 - 16
    rest = [call for call in calls if "_convolution" not in call]
    assert len(rest) == 7  # input, max-pooling, average pooling, flatten, float, linear, output
