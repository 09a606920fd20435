import pytest
import torch
from safetensors.torch import save_file

from sartor.core.errors import SpecError, WeightsError
from sartor.models.network import build, spec_of
from sartor.models.vision.dla import DLA, Shape, dla
from sartor.models.vision.resnet import Bottleneck
from sartor.testing.backbones import randomise_norms
from sartor.weights.create import create_model


def test_what_the_roots_take_in():
    """A tree's root takes its two blocks, the first halves of all trees around it, and the input if kept."""
    shape = Shape(3, 8, 16, 2, keeps_input=True)
    first, second = shape.halves
    assert (first, first.pools) == (Shape(2, 8, 16, 2), False)
    assert (second, second.extra) == (Shape(2, 16, 16, carried=24), 24)
    assert [half.extra for half in second.halves] == [0, 40]
    (joined, _), sites = second.halves[1].join_path().layers.values(), second.halves[1].sites
    assert joined.w_in == 2 * 16 + 40
    assert [site.stride for site in sites] == [1, 1]


def test_the_levels():
    net = build(spec_of("dla60_res2net"), device="meta")
    names = [seam.name for seam in net.seams]
    assert names == ["stem", "level0", "level1", "level2", "level3", "level4", "level5", "pool"]
    maps = net.features(torch.empty(1, 3, 224, 224, device="meta"), names)
    assert [tuple(maps[name].shape[1:]) for name in names] == [
        (16, 224, 224), (16, 224, 224), (32, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7),
        (1024,),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "inner"), [("dla60_res2net", [28, 56, 112, 224]), ("dla60_res2next", [32, 64, 128, 256])]
)
def test_inner_widths(name, inner):
    assert [block.inner for block in spec_of(name).blocks] == inner


def test_blocks_are_the_residual_branches():
    net = build(spec_of("dla60_res2net"), device="meta")
    assert len(net.branches) == 2 + 4 + 8 + 2
    roles = net.roles()
    assert roles["level2.tree1.conv1.weight"].block == 0
    assert roles["level5.tree2.convs.0.weight"].block == 15
    assert roles["level3.tree2.root.conv.weight"].block == -1
    assert (roles["base_layer.0.weight"].kind, roles["fc.weight"].kind) == ("input", "readout")


def test_only_used_projections_are_there():
    names = build(spec_of("dla60_res2net"), device="meta").state_dict()
    assert {name.removesuffix(".0.weight") for name in names if name.endswith("project.0.weight")} == {
        "level2.project", "level3.tree1.project", "level4.tree1.tree1.project", "level5.project",
    }  # fmt: skip


def test_checkpoints_with_unused_projections(tmp_path):
    spec = spec_of("dla60_res2net", classes=5, size=(32, 32))
    net = build(spec)
    state = net.state_dict()
    unused = {f"{path}.0.weight": torch.zeros(2, 2, 1, 1) for path in ("level3.project", "level4.project")}
    unused["level4.tree1.project.0.weight"] = torch.zeros(2, 2, 1, 1)
    save_file({**state, **unused}, tmp_path / "old.safetensors")
    loaded = create_model("dla60_res2net", num_classes=5, weights=tmp_path / "old.safetensors")
    assert all(torch.equal(state[key], value) for key, value in loaded.state_dict().items())
    save_file({**state, **unused, "level5.more": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"level5\.more"):
        create_model("dla60_res2net", num_classes=5, weights=tmp_path / "odd.safetensors")


def small(**changes):
    return dla([8, 8, 16, 24], [1, 2], width=16, scale=3).replace(classes=3, **changes)


def test_checkpointing_changes_nothing():
    x, nets = torch.randn(4, 3, 32, 32), []
    for enable in (False, True):
        torch.manual_seed(0)
        net = build(small(size=(32, 32))).train()
        net.set_grad_checkpointing(enable)
        net(x).square().sum().backward()
        nets.append(net)
    for (name, mine), other in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad), name
    for (name, mine), other in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("side", [1, 7, 33])
def test_any_size_runs(side):
    net, x = build(small(size=(side, side))), torch.randn(2, 3, side, side)
    randomise_norms(net, torch.randn(8, 3, 33, 33))
    assert net(x).shape == (2, 3)


def test_dropout_is_before_the_classifier():
    net = build(small(dropout=0.5)).train()
    x = torch.randn(4, 24)
    torch.manual_seed(0)
    got = net.run(x, start="pool")
    torch.manual_seed(0)
    assert torch.equal(got, net.fc(torch.dropout(x, 0.5, True)[:, :, None, None]).flatten(1))


def test_wrong_numbers():
    with pytest.raises(SpecError, match="a depth and a block for each tree"):
        DLA((8, 8, 16), (1, 1), (Bottleneck(4, shortcut="none"),))
    with pytest.raises(SpecError, match="at least 1"):
        dla([8, 8, 16], [0])
