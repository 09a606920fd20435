import pytest
import torch
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.anynet import Site
from sartor.models.layers import AvgPool
from sartor.models.network import build, spec_of
from sartor.models.scaling import scale
from sartor.models.vision.res2net import MultiScale, res2net, res2net_cifar, split_width
from sartor.models.vision.resnet import Bottleneck
from sartor.testing.backbones import randomise_norms

SAME, WIDER, STRIDED = Site(16, 16, 1), Site(12, 16, 1), Site(16, 16, 2)


def block(kind, site=SAME):
    """In double precision, with random norms, in eval mode."""
    torch.manual_seed(0)
    module = kind.build(site, "relu").double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    randomise_norms(module, images(site, 8))
    return module


def images(site=SAME, batch=2, side=15):
    return torch.randn(batch, site.w_in, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def footprints(module, side=15):
    """Height and width of what the middle pixel of each split's output depends on."""
    x = images(module.site, 1, side).requires_grad_()
    seen = []
    for split in module.splits(x):
        middle = split[:, :, split.shape[2] // 2, split.shape[3] // 2]
        touched = torch.autograd.grad(middle.sum(), x, retain_graph=True)[0].abs().sum((0, 1)) > 0
        seen.append((touched.any(1).sum().item(), touched.any(0).sum().item()))
    return seen


@pytest.fixture
def everywhere_active(monkeypatch):
    """Activations that let every gradient through."""
    monkeypatch.setattr("sartor.models.anynet.activation", lambda name: torch.nn.Softplus())


@pytest.mark.usefixtures("everywhere_active")
@pytest.mark.parametrize("groups", [1, 2])
def test_every_split_sees_another_size(groups):
    """Section 3.1: split i sees 2(i+1)+1 pixels a side, the last one pixel."""
    assert footprints(block(MultiScale(4, 4, groups))) == [(3, 3), (5, 5), (7, 7), (1, 1)]
    assert footprints(block(MultiScale(4, 6, groups))) == [(2 * i + 3, 2 * i + 3) for i in range(5)] + [(1, 1)]
    assert footprints(block(MultiScale(16, 1))) == [(3, 3)]


@pytest.mark.usefixtures("everywhere_active")
@pytest.mark.parametrize("last", ["pool", "conv"])
@pytest.mark.parametrize("site", [WIDER, STRIDED])
def test_all_splits_see_the_same_where_the_shape_changes(site, last):
    assert footprints(block(MultiScale(4, 4, stage_last=last), site)) == [(3, 3)] * 4


@pytest.mark.parametrize("site", [SAME, WIDER, STRIDED])
def test_one_split_is_a_bottleneck(site):
    ours, plain = block(MultiScale(8, 1), site), Bottleneck(8).build(site, "relu").double().eval()
    renamed = {name.replace("convs.0", "conv2").replace("bns.0", "bn2"): v for name, v in ours.state_dict().items()}
    plain.load_state_dict(renamed)
    close(ours(images(site)), plain(images(site)))


def test_the_papers_equation_is_the_same_up_to_the_order_of_channels():
    """y1 = x1, y2 = K2(x2), yi = Ki(xi + y(i-1)): the paper leaves out its first split, this form its last."""
    module, x, width = block(MultiScale(4, 4)), images(), 4
    order = torch.arange(16).view(4, width)[[3, 0, 1, 2]].flatten()  # our channel at each place of the paper's
    hidden = module.bn1(module.conv1(x)).relu()[:, order]
    splits = hidden.split(width, 1)
    outputs = [splits[0]]
    for i in range(1, 4):
        conv, norm = module.convs.get_submodule(str(i - 1)), module.bns.get_submodule(str(i - 1))
        outputs.append(norm(conv(splits[i] if i == 1 else splits[i] + outputs[-1])).relu())
    joined = F.conv2d(torch.cat(outputs, 1), module.conv3.weight[:, order])
    close(module(x), (x + module.bn3(joined)).relu())


def test_groups_divide_each_split():
    grouped, dense = block(MultiScale(4, 3, groups=2)), block(MultiScale(4, 3))
    state = {name: value.clone() for name, value in grouped.state_dict().items()}
    for i in range(2):
        weight = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
        for own in (slice(0, 2), slice(2, 4)):
            weight[own, own] = state[f"convs.{i}.weight"][own]
        state[f"convs.{i}.weight"] = weight
    dense.load_state_dict(state)
    close(grouped(images()), dense(images()))


def test_pooling_counts_the_border():
    module, x = block(MultiScale(4, 2), STRIDED), images(STRIDED)
    last = module.bn1(module.conv1(x)).relu()[:, 4:]
    close(module.splits(x)[1], F.conv2d(last, torch.ones(4, 1, 3, 3).double() / 9, stride=2, padding=1, groups=4))


def test_the_gate_is_on_the_branch():
    gated, plain = block(MultiScale(4, 2, se=0.25)), block(MultiScale(4, 2))
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if not name.startswith("se.")})
    assert gated.se.fc1.weight.shape == (4, 16, 1, 1)
    x = images()
    branch = plain.parts(x)[1]
    hidden = (branch.mean((2, 3)) @ gated.se.fc1.weight.flatten(1).T + gated.se.fc1.bias).relu()
    gate = (hidden @ gated.se.fc2.weight.flatten(1).T + gated.se.fc2.bias).sigmoid()
    close(gated(x), (x + branch * gate[:, :, None, None]).relu())


@pytest.mark.parametrize("side", [1, 7, 8])
def test_shortcut_d_averages_whole_and_cut_windows(side):
    module, x = block(MultiScale(4, 2, shortcut="D"), STRIDED), images(STRIDED, side=side)
    shortcut, branch = module.parts(x)
    ends = [slice(i, i + 2) for i in range(0, side, 2)]
    means = torch.stack([torch.stack([x[:, :, a, b].mean((2, 3)) for b in ends], -1) for a in ends], -2)
    close(shortcut, module.downsample.get_submodule("2")(module.downsample.get_submodule("1")(means)))
    assert shortcut.shape == branch.shape


@pytest.mark.parametrize("layer", [AvgPool(2, 2, ceil=True), AvgPool(3, 2, 1), AvgPool(3, 1, 1), AvgPool(3, 3)])
@pytest.mark.parametrize("size", [(6, 7), (9, 8)])
def test_pooled_sizes(layer, size):
    assert layer.add_to(spec_of("resnet18").tally(), size) == layer.build()(torch.zeros(1, 1, *size)).shape[2:]


def test_split_widths_are_rounded_down():
    assert [split_width(base, 26) for base in (64, 128, 256, 512)] == [26, 52, 104, 208]
    assert [split_width(base, 26) for base in (16, 32, 64)] == [6, 13, 26]
    assert [split_width(base, 4, 8) for base in (64, 128, 256, 512)] == [32, 64, 128, 256]
    assert split_width(96, 5, 2) == 14
    assert [stage.block.inner for stage in res2net([1] * 4, 26, 4).stages] == [26, 52, 104, 208]
    assert [stage.block.groups for stage in res2net([1] * 4, 4, 4, groups=8).stages] == [8] * 4


def test_the_deep_stem():
    spec = spec_of("res2net50d")
    net = build(spec, device="meta")
    stem = {name: value.shape for name, value in net.state_dict().items() if name.startswith(("conv1", "bn1"))}
    weights = {name: shape for name, shape in stem.items() if len(shape) == 4}
    assert weights == {
        "conv1.0.weight": (32, 3, 3, 3),
        "conv1.3.weight": (32, 32, 3, 3),
        "conv1.6.weight": (64, 32, 3, 3),
    }
    assert [name for name, role in net.roles().items() if role.kind == "input"] == ["conv1.0.weight"]
    assert net.features(torch.empty(1, 3, 224, 224, device="meta"), ["stem"])["stem"].shape == (1, 64, 56, 56)


def test_the_deep_stem_activates_every_norm():
    spec = spec_of("res2net50d").replace(stages=res2net([1], 4, 2).stages, size=(20, 20))
    torch.manual_seed(0)
    net, x = build(spec).double(), torch.randn(2, 3, 20, 20, dtype=torch.float64)
    randomise_norms(net, x)
    expected = x
    for i, stride in (("0", 2), ("3", 1), ("6", 1)):
        norm = net.bn1 if i == "6" else net.conv1.get_submodule(str(int(i) + 1))
        weight = net.conv1.get_submodule(i).weight
        expected = norm(F.conv2d(expected, weight, stride=stride, padding=1)).relu()
    close(net.run(x, stop="stem"), F.max_pool2d(expected, 3, 2, 1))


def test_stage_maps_at_224():
    net = build(spec_of("res2net50_26w_4s"), device="meta")
    ends = ["stage1.3", "stage2.4", "stage3.6", "stage4.3"]
    maps = net.features(torch.empty(1, 3, 224, 224, device="meta"), ends)
    assert [tuple(maps[name].shape[1:]) for name in ends] == [
        (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip


def test_counts_of_the_paper_and_of_a_thin_frame():
    """Table 4's counts take ten classes and a convolution on the last split too; thin nets of equal cost."""
    table = {(24, 4, 6): 24.27, (25, 4, 8): 33.81, (24, 6, 6): 36.71, (64, 1, 8): 34.43}
    for values, millions in table.items():
        assert round(res2net_cifar(29, *values, stage_last="conv").tally().params / 1e6, 2) == millions
    plain, split = (res2net_cifar(29, *values, base=16).tally() for values in ((64, 1), (26, 4)))
    assert (plain.params, split.params) == (313_114, 312_957)
    assert split.macs == pytest.approx(plain.macs, rel=0.05)
    assert res2net_cifar(29, 64, 1, 8).tally() == spec_of("resnext29_8x64d_cifar").tally()


def test_scaled_networks_keep_their_splits():
    spec = scale(spec_of("res2net50_26w_4s"), 4.0)
    assert {stage.block.scale for stage in spec.stages} == {4}
    assert spec.tally().macs == pytest.approx(4 * spec_of("res2net50_26w_4s").tally().macs, rel=0.25)


def test_wrong_numbers():
    with pytest.raises(SpecError, match="multiple of the groups"):
        MultiScale(10, 4, groups=4)
    with pytest.raises(SpecError, match="at least 1"):
        MultiScale(10, 0)
    with pytest.raises(SpecError, match=r"9n\+2, not 30"):
        res2net_cifar(30, 24, 4)
