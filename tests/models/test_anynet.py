import pytest
import torch
from torch import nn

from sartor.core.errors import SpecError
from sartor.models.anynet import AnyNet, Site, Stage, Stem
from sartor.models.layers import drop_path
from sartor.models.network import build
from sartor.models.vision.preact_resnet import Unit
from sartor.models.vision.regnet import ConvBlock, XBlock
from sartor.models.vision.resnet import Basic, Bottleneck, padded_identity, resnet_cifar


def tiny(**changes):
    values = {"stem": Stem(8), "stages": (Stage(Basic(), 2, 8), Stage(Basic(), 1, 16, 2)), "classes": 3, "size": (8, 8)}
    return AnyNet(**{**values, **changes})


def test_seams_and_taps_are_named():
    net = build(tiny(final_norm=True, head_width=24))
    assert [seam.name for seam in net.seams] == ["stem", "stage1.1", "stage1.2", "stage2.1", "norm", "conv", "pool"]
    assert net.taps == ("stage1.1.branch", "stage1.2.branch", "stage2.1.branch")
    assert [(s.stage, s.ports[0].width, s.ports[0].stride) for s in net.seams] == [
        (0, 8, 1), (1, 8, 1), (1, 8, 1), (2, 16, 2), (2, 16, 2), (2, 24, 2), (2, 24, 0),
    ]  # fmt: skip
    assert all(seam.narrow for seam in net.seams)


def test_a_seam_is_answered_with_near_ones():
    net, x = build(tiny()), torch.zeros(1, 3, 8, 8)
    with pytest.raises(SpecError, match=r"unknown seam 'stage1\.3': did you mean stage1"):
        net.run(x, stop="stage1.3")
    with pytest.raises(SpecError, match="is a tap inside a block"):
        net.run(x, stop="stage1.1.branch")
    with pytest.raises(SpecError, match=r"cannot run backwards from seam stage2\.1 to stem"):
        net.run(x, start="stage2.1", stop="stem")
    with pytest.raises(SpecError, match="unknown seam 'head'"):
        net.features(x, ["stem", "head"])


def test_running_to_where_it_starts_does_nothing():
    net, x = build(tiny()), torch.randn(1, 8, 8, 8)
    assert net.run(x, start="stem", stop="stem") is x


def test_features_end_at_the_last_wanted():
    net = build(tiny())
    calls = []
    net.get_submodule("layer2.0").register_forward_hook(lambda *_: calls.append(1))
    net.features(torch.zeros(1, 3, 8, 8), ["stage1.2", "stage1.1.branch"])
    assert not calls


def test_plain_blocks_keep_their_tap():
    """Without a shortcut the activation works in place on the branch, which was read before it."""
    net = build(tiny(stages=(Stage(ConvBlock(1), 1, 8),))).eval()
    seen = net.features(torch.randn(2, 3, 8, 8), ["stage1.1.branch", "stage1.1"])
    assert (seen["stage1.1.branch"] < 0).any()
    assert torch.equal(seen["stage1.1.branch"].relu(), seen["stage1.1"])


@pytest.mark.parametrize(
    ("stages", "branches"),
    [
        ((Stage(Basic(), 2, 8), Stage(Bottleneck(4), 1, 16, 2)), 3),
        ((Stage(Basic("none"), 2, 8), Stage(Basic(), 2, 8)), 2),
        ((Stage(ConvBlock(1), 3, 8),), 0),
        ((Stage(XBlock(4, linear=True), 2, 16),), 1),
    ],
)
def test_roles_count_residual_branches(stages, branches):
    net = build(tiny(stages=stages))
    roles = net.roles()
    assert {role.branches for role in roles.values()} == {branches}
    assert {role.block for role in roles.values()} == {-1, *range(branches)}


def test_roles_of_each_kind():
    net = build(tiny(stages=(Stage(Unit(), 1, 8),), names="resnetv2", final_norm=True))
    roles = {name: (role.kind, role.block, role.fan_in) for name, role in net.roles().items()}
    assert roles == {
        "stem.conv.weight": ("input", -1, 27),
        "stem.norm.weight": ("norm", -1, 1),
        "stem.norm.bias": ("norm", -1, 1),
        "stages.0.blocks.0.conv1.weight": ("hidden", 0, 72),
        "stages.0.blocks.0.norm2.weight": ("norm", 0, 1),
        "stages.0.blocks.0.norm2.bias": ("norm", 0, 1),
        "stages.0.blocks.0.conv2.weight": ("hidden", 0, 72),
        "norm.weight": ("norm", -1, 1),
        "norm.bias": ("norm", -1, 1),
        "head.fc.weight": ("readout", -1, 8),
        "head.fc.bias": ("bias", -1, 1),
    }


def test_drop_path_rates_grow_linearly():
    net = build(tiny(stages=(Stage(Basic(), 3, 8), Stage(Basic(), 2, 16, 2)), drop_path=0.2))
    paths = ["layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.1"]
    assert [net.get_submodule(path).drop_rate for path in paths] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_drop_path_keeps_the_expectation():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 1, 1)
    dropped = drop_path(x, 0.25, training=True)
    assert set(dropped.unique().tolist()) == {0.0, x.div(0.75).max().item()}
    assert (dropped[:, 0] == dropped[:, 1]).all()
    assert dropped.mean() == pytest.approx(1.0, abs=0.03)
    assert drop_path(x, 0.25, training=False) is x


def test_dropout_is_before_the_classifier():
    net = build(tiny(dropout=0.5))
    x = torch.randn(4, 16)
    torch.manual_seed(0)
    got = net.train().run(x, start="pool")
    torch.manual_seed(0)
    assert torch.equal(got, net.fc(nn.functional.dropout(x, 0.5)))
    assert torch.equal(net.eval().run(x, start="pool"), net.fc(x))


def test_zero_gamma_starts_blocks_as_their_shortcut():
    net = build(tiny(zero_gamma=True)).eval()
    x = torch.rand(2, 8, 8, 8)
    assert torch.equal(net.run(x, start="stem", stop="stage1.2"), x)
    net = build(tiny(stages=(Stage(Basic("none"), 1, 8),), zero_gamma=True)).eval()
    assert net.run(x, start="stem", stop="stage1.1").any()  # nothing would be left of a plain block


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": "resnets"}, "unknown state-dict naming 'resnets': did you mean resnet"),
        ({"stages": ()}, "at least one stage"),
        ({"classes": 0}, "classes"),
        ({"stages": (Stage(Basic(), 0, 8),)}, "stage 1 has a depth"),
    ],
)
def test_impossible_networks(changes, message):
    with pytest.raises(SpecError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(("w_in", "w_out"), [(4, 6), (6, 4), (4, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padded_identities(w_in, w_out, stride):
    x = torch.randn(2, w_in, 5, 5)
    y = padded_identity(x, Site(w_in, w_out, stride))
    kept = min(w_in, w_out)
    assert y.shape == (2, w_out, *x[0, 0, ::stride, ::stride].shape)
    assert torch.equal(y[:, :kept], x[:, :kept, ::stride, ::stride])
    assert not y[:, kept:].any()


def test_wrong_depth():
    with pytest.raises(SpecError, match=r"6n\+2, not 21"):
        resnet_cifar(21)
