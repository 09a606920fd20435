import itertools

import pytest
import torch
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.network import build, spec_of
from sartor.models.vision.wide_resnet import wide_resnet, wrn_cifar
from sartor.testing.backbones import randomise_norms


def network(spec, dtype=torch.float64):
    torch.manual_seed(0)
    net = build(spec.replace(size=(16, 16))).to(dtype)
    randomise_norms(net, torch.randn(8, 3, 16, 16, dtype=dtype))
    return net


def functional(state, x, units):
    """The network written down a second time, from the paper's figure 1 and table 1."""

    def norm_relu(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys)))

    x = F.conv2d(x, state["stem.conv.weight"], padding=1)
    for group in range(3):
        for unit in range(units):
            name = f"stages.{group}.blocks.{unit}"
            stride = 2 if group > 0 and unit == 0 else 1
            opened = norm_relu(x, f"{name}.norm1")
            h = F.conv2d(opened, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            h = F.conv2d(norm_relu(h, f"{name}.norm2"), state[f"{name}.conv2.weight"], padding=1)
            if f"{name}.downsample.conv.weight" in state:
                x = F.conv2d(opened, state[f"{name}.downsample.conv.weight"], stride=stride)
            x = x + h
    x = norm_relu(x, "norm").mean((2, 3))
    return x @ state["head.fc.weight"].T + state["head.fc.bias"]


@pytest.mark.parametrize(("depth", "widen", "projections"), [(16, 2, 3), (16, 1, 2), (10, 1.5, 3)])
def test_equal_to_a_functional_network(depth, widen, projections):
    net = network(wrn_cifar(depth, widen))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x), functional(net.state_dict(), x, (depth - 4) // 6), rtol=0, atol=1e-12)
    assert sum("downsample.conv" in name for name in net.state_dict()) == projections


def test_float_widening():
    assert [stage.width for stage in wrn_cifar(16, 1.3).stages] == [20, 41, 83]


def test_parameters_are_quadratic_in_width_and_linear_in_depth():
    def params(depth, widen):
        return wrn_cifar(depth, widen).tally().params

    wide = [params(28, k) for k in (2, 3, 4, 5, 6)]
    steps = [b - a for a, b in itertools.pairwise(wide)]
    assert len({b - a for a, b in itertools.pairwise(steps)}) == 1
    deep = [params(n, 2) for n in (16, 22, 28, 34)]
    assert len({b - a for a, b in itertools.pairwise(deep)}) == 1


def test_depth_counts_convolutions():
    for name, depth in (("wrn28_10_cifar", 28), ("wrn40_4_cifar", 40), ("wrn16_8_cifar", 16)):
        net = build(spec_of(name), device="meta")
        assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) == depth


def test_dropout_is_nothing_in_eval_mode():
    plain, dropped = (wrn_cifar(16, 2, dropout=p) for p in (0.0, 0.3))
    net = network(plain, torch.float32)
    other = build(dropped)
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(x), other.eval()(x))
    zero = build(wrn_cifar(16, 2, dropout=0.0))
    zero.load_state_dict(net.state_dict())
    assert torch.equal(net.train()(x), zero.train()(x))


def test_dropout_is_between_the_convolutions():
    """With all activations above zero, what is zero at a convolution's input was dropped."""
    net = network(wrn_cifar(10, 2, kernels=(3, 3, 3), dropout=0.3), torch.float32)
    zeros = {}
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.bias, 100.0)
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _, args, name=name: zeros.__setitem__(name, (args[0] == 0).double().mean().item())
            )
    torch.manual_seed(0)
    net.train()(torch.randn(4, 3, 16, 16))
    dropped = {name for name, share in zeros.items() if share > 0}
    assert dropped == {name for name in zeros if name.endswith(("conv2", "conv3"))}
    assert all(0.2 < zeros[name] < 0.4 for name in dropped)


def test_kernels_and_stride_of_block_types():
    net = build(wrn_cifar(10, 2, kernels=(1, 3, 1)), device="meta")
    block = net.get_submodule("stages.1.blocks.0")
    assert [block.get_submodule(f"conv{i}").kernel_size[0] for i in (1, 2, 3)] == [1, 3, 1]
    assert [block.get_submodule(f"conv{i}").stride[0] for i in (1, 2, 3)] == [2, 1, 1]
    assert {block.get_submodule(f"conv{i}").out_channels for i in (1, 2, 3)} == {64}


def test_imagenet_widths():
    spec = wide_resnet([3, 4, 6, 3], bottleneck=True, widen=3)
    assert [stage.block.inner for stage in spec.stages] == [192, 384, 768, 1536]
    assert [stage.width for stage in spec.stages] == [256, 512, 1024, 2048]
    assert [stage.width for stage in wide_resnet([2, 2, 2, 2], False, 1.5).stages] == [96, 192, 384, 768]


def test_wide_by_one_is_resnet():
    assert wide_resnet([3, 4, 6, 3], True, 1).replace(init="fan_out") == spec_of("resnet50")


def test_wrong_depth():
    with pytest.raises(SpecError, match=r"6n\+4, not 29"):
        wrn_cifar(29, 10)
