import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.anynet import AnyNet, Site, Stage, Stem
from sartor.models.network import build, spec_of
from sartor.models.vision.resnet import Basic
from sartor.models.vision.resnext import Aggregated, map_form, path_width, resnext, resnext_cifar, to_form, with_form
from sartor.testing.backbones import randomise_norms

FORMS = ("A", "B", "C")


def network(form="C", shortcut="B"):
    """Two narrow stages of 4 and 8 paths."""
    stages = (
        Stage(Aggregated(12, 4, form, shortcut), 2, 16),
        Stage(Aggregated(24, 8, form, shortcut), 2, 32, 2),
    )
    torch.manual_seed(0)
    return build(AnyNet(Stem(8), stages, classes=5, size=(12, 12))).double()


def images(batch=3):
    return torch.randn(batch, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
@pytest.mark.parametrize("source", FORMS)
def test_forms_answer_equally(source, shortcut):
    first = network(source, shortcut)
    randomise_norms(first, images(8))
    for form in FORMS:
        other = to_form(first, form)
        assert other.spec == with_form(first.spec, form)
        close(other(images()), first(images()))


@pytest.mark.parametrize("form", ["A", "B"])
def test_forms_train_equally(form):
    first, x = network().train(), images()
    other = to_form(first, form)
    for net in (first, other):
        net(x).square().sum().backward()
    gradients = {name: p.grad for name, p in first.named_parameters()}
    mapped = map_form(gradients, first.spec, form)
    for name, parameter in other.named_parameters():
        close(parameter.grad, mapped[name])
    for name, value in map_form(first.state_dict(), first.spec, form).items():
        close(other.state_dict()[name], value)  # running statistics too


def test_forms_stay_equal_over_steps():
    nets = {"C": network().train()}
    nets |= {form: to_form(nets["C"], form) for form in "AB"}
    generator = torch.Generator().manual_seed(2)
    optimisers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True) for net in nets.values()]
    for _ in range(20):
        x = torch.randn(8, 3, 12, 12, dtype=torch.float64, generator=generator)
        labels = torch.randint(5, (8,), generator=generator)
        for net, optimiser in zip(nets.values(), optimisers, strict=True):
            optimiser.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimiser.step()
    for form in "AB":
        for name, value in map_form(nets["C"].state_dict(), nets["C"].spec, form).items():
            close(nets[form].state_dict()[name], value, 1e-8)


def test_there_and_back_is_the_same():
    first = network()
    for form in "AB":
        back = map_form(map_form(first.state_dict(), first.spec, form), with_form(first.spec, form), "C")
        assert back.keys() == first.state_dict().keys()
        assert all(torch.equal(back[name], value) for name, value in first.state_dict().items())


def test_depth_two_aggregation_is_a_dense_block():
    """Figure 4: the sum of paths of two 3x3 convolutions is one block of all their widths."""
    torch.manual_seed(0)
    paths, width = 4, 3
    block = Basic("none").build(Site(6, 12, 1), "relu").double().eval()
    randomise_norms(block, torch.randn(8, 6, 7, 7, dtype=torch.float64))
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    total = torch.zeros(2, 12, 7, 7, dtype=torch.float64)
    for i in range(paths):
        own = slice(i * width, (i + 1) * width)
        norm = nn.BatchNorm2d(width).double().eval()
        norm.load_state_dict({n: v[own] if v.ndim else v for n, v in block.bn1.state_dict().items()})
        hidden = norm(F.conv2d(x, block.conv1.weight[own], padding=1)).relu()
        total = total + F.conv2d(hidden, block.conv2.weight[:, own], padding=1)
    close(block(x), block.bn2(total).relu())


def test_widths_are_rounded_down_in_each_path():
    assert [path_width(base, 14, 8) for base in (64, 128, 256, 512)] == [112, 224, 448, 896]
    assert [path_width(base, 4, 32) for base in (64, 128, 256, 512)] == [128, 256, 512, 1024]
    assert path_width(64, 3, 32) == 96
    assert path_width(96, 5, 2) == 14  # floor(7.5) * 2, not floor(15)


def test_template_costs():
    """Section 3.2: about 70k parameters and 0.22 G multiply-adds for each cardinality of table 2."""
    for paths, width in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4)):
        weights = paths * (256 * width + 9 * width**2 + 256 * width)
        assert 69e3 < weights < 72e3
        assert round(weights * 56 * 56 / 1e9, 2) == 0.22


def test_stage_maps_at_224():
    spec = spec_of("resnext50_32x4d")
    net = build(spec, device="meta")
    ends = ["stage1.3", "stage2.4", "stage3.6", "stage4.3"]
    maps = net.features(torch.empty(1, 3, 224, 224, device="meta"), ends)
    assert [tuple(maps[name].shape[1:]) for name in ends] == [
        (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip
    ports = {seam.name: seam.ports[0] for seam in net.seams}
    assert [(ports[name].width, ports[name].stride) for name in ends] == [(256, 4), (512, 8), (1024, 16), (2048, 32)]


def test_no_shortcut_has_no_residual_branch():
    net = build(resnext([1, 1, 1, 1], 32, 4, shortcut="none"), device="meta")
    assert {role.branches for role in net.roles().values()} == {0}
    assert not any("downsample" in name for name, _ in net.named_parameters())


def test_form_counts():
    spec = spec_of("resnext50_32x4d")
    tallies = {form: with_form(spec, form).tally() for form in FORMS}
    assert len({t.params for t in tallies.values()}) == len({t.macs for t in tallies.values()}) == 1
    assert tallies["A"].activations > tallies["B"].activations == tallies["C"].activations


def test_one_thing_to_convert_is_needed():
    with pytest.raises(SpecError, match="these have none"):
        with_form(spec_of("resnet50"), "A")
    with pytest.raises(SpecError, match="unknown form of block 'D'"):
        with_form(spec_of("resnext50_32x4d"), "D")


def test_wrong_numbers():
    with pytest.raises(SpecError, match="not a multiple of 4 groups"):
        Aggregated(10, 4)
    with pytest.raises(SpecError, match="9n"):
        resnext_cifar(30, 8, 64)
    with pytest.raises(SpecError, match="form C and shortcut B"):
        resnext([1], 2, 4, form="A", preact=True)


def test_to_form_leaves_the_original():
    first = network()
    before = copy.deepcopy(first.state_dict())
    other = to_form(first, "A")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in first.state_dict().items())
