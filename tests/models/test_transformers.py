"""Vision transformers: published figures, what is counted of attention, sizes, positions, roles."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sartor.core.errors import SpecError
from sartor.models.network import build, count, spec_of
from sartor.models.vision.deit import resize_positions
from sartor.models.vision.swin import Swin, Windows, shift_mask
from sartor.training.classification import groups_for
from sartor.training.recipe import Recipe

# name: millions of parameters, billions of multiply-adds, millions of activations, as papers and timm publish them
PUBLISHED = {
    "deit_tiny_patch16_224": (5.72, 1.3, 5.97),
    "deit_small_patch16_224": (22.05, 4.6, 11.95),
    "deit_base_patch16_224": (86.57, 17.6, 23.90),
    "swin_tiny_patch4_window7_224": (28.29, 4.5, 17.06),
    "swin_small_patch4_window7_224": (49.61, 8.7, 27.47),
    "swin_base_patch4_window7_224": (87.77, 15.4, 36.63),
}
LEVITS = {  # millions of parameters with both classifiers and of multiply-adds, table 2
    "levit_128s": (7.8, 305),
    "levit_128": (9.2, 406),
    "levit_192": (10.9, 658),
    "levit_256": (18.9, 1120),
    "levit_384": (39.1, 2353),
}
SMALL = {
    "deit_tiny_patch16_224": {"width": 48, "depth": 2, "size": (48, 64)},
    "swin_tiny_patch4_window7_224": {"width": 24, "depths": (2, 2), "heads": (3, 6), "size": (36, 60)},
    "levit_128s": {"size": (48, 80)},
    "vit_resnas_tiny": {
        "widths": (24, 40),
        "head_dims": (8, 12),
        "heads": ((2, 4), (3,)),
        "hidden": ((32, 48), (64,)),
        "patch": 8,
        "size": (48, 80),
    },
}


def small(name, **changes):
    return spec_of(name, classes=10, **{**SMALL[name], **changes})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    tally = spec_of(name).tally()
    params, macs, activations = PUBLISHED[name]
    assert round(tally.params / 1e6, 2) == params
    assert round(tally.macs / 1e9, 1) == macs
    assert round(tally.activations / 1e6, 2) == activations


@pytest.mark.parametrize("name", LEVITS)
def test_published_figures_of_levit(name):
    spec = spec_of(name)
    params, macs = LEVITS[name]
    assert sum(p.numel() for p in build(spec, device="meta").parameters()) / 1e6 == pytest.approx(params, abs=0.06)
    assert spec.tally().macs / 1e6 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("name", SMALL)
def test_multiply_adds_are_half_the_operations_torch_counts(name):
    """An independent count: of every matrix product that runs, those inside attention too."""
    spec = small(name)
    network, x = build(spec).eval(), torch.randn(1, 3, *spec.size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network.deploy()(x)
    assert counter.get_total_flops() == 2 * count(spec).value("macs")


@pytest.mark.parametrize("name", SMALL)
def test_another_size_is_refused_in_one_line(name):
    spec = small(name)
    with pytest.raises(SpecError, match=r"built for images of \d+x\d+ and given 16x16") as caught:
        build(spec)(torch.zeros(1, 3, 16, 16))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_counting_at_a_size_is_counting_the_spec_of_that_size(name):
    spec = small(name)
    assert spec.tally((128, 96)) == spec.replace(size=(128, 96)).tally()


def test_patches_must_cover_the_image():
    with pytest.raises(SpecError, match="patches of 16 do not cover images of 40x48"):
        small("deit_tiny_patch16_224", size=(40, 48))
    with pytest.raises(SpecError, match="width 50 is not a multiple of 3 heads"):
        small("deit_tiny_patch16_224", width=50)


def test_positions_keep_the_class_token_and_constants():
    positions = torch.cat([torch.randn(1, 1, 8), torch.ones(1, 16, 8)], 1)
    resized = resize_positions(positions, (4, 4), (3, 7))
    assert resized.shape == (1, 22, 8)
    assert torch.equal(resized[:, 0], positions[:, 0])
    torch.testing.assert_close(resized[:, 1:], torch.ones(1, 21, 8))


def test_roles_number_the_branches():
    roles = build(small("deit_tiny_patch16_224"), device="meta").roles()
    kinds = {"cls_token": "embedding", "pos_embed": "embedding", "patch_embed.proj.weight": "input"}
    assert {name: roles[name].kind for name in (*kinds, "head.weight")} == {**kinds, "head.weight": "readout"}
    assert [roles[f"blocks.1.{name}.weight"].block for name in ("norm1", "attn.proj", "norm2", "mlp.fc2")] == [
        2,
        2,
        3,
        3,
    ]
    assert (roles["norm.weight"].block, roles["norm.weight"].branches) == (-1, 4)


def test_swin_sizes():
    with pytest.raises(SpecError, match="patches of 4 do not cover images of 30x32"):
        small("swin_tiny_patch4_window7_224", size=(30, 32))
    with pytest.raises(SpecError, match="2 depths and 1 numbers of heads"):
        Swin(12, (1, 1), (3,))
    whole = [site.windows for site in small("swin_tiny_patch4_window7_224", size=(32, 28)).blocks((32, 28))]
    assert whole[:2] == [Windows((8, 7), (7, 7), (0, 0)), Windows((8, 7), (7, 7), (3, 0))]
    assert whole[0].padded == (14, 7)
    assert whole[3] == Windows((4, 4), (4, 4), (0, 0))


def test_a_shift_separates_what_it_brings_together():
    mask = shift_mask(Windows((4, 4), (2, 2), (1, 1)), torch.device("cpu"))[:, 0]
    assert (mask[0] == 0).all()
    assert mask[1].bool().tolist() == [[a % 2 != b % 2 for a in range(4)] for b in range(4)]
    assert (mask[3] == 0).sum() == 4


def test_swin_tables_are_cut_to_smaller_windows(tmp_path):
    from safetensors.torch import save_file

    from sartor.weights.load import load_weights

    name = "swin_tiny_patch4_window7_224"
    given = build(small(name, size=(56, 56))).state_dict()
    given["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(1)
    save_file(given, tmp_path / "model.safetensors")
    network = load_weights(build(small(name, size=(16, 8)), device="meta"), tmp_path / "model.safetensors")
    table, cut = (
        given["layers.0.blocks.0.attn.relative_position_bias_table"],
        network.get_submodule("layers.0.blocks.0.attn"),
    )
    whole = table.unflatten(0, (13, 13))
    assert torch.equal(cut.relative_position_bias_table.unflatten(0, (7, 3)), whole[3:10, 5:8])
    assert torch.isfinite(network(torch.zeros(1, 3, 16, 8))).all()


def test_levit_deploys_without_norms_and_second_classifier():
    network = build(small("levit_128s")).train()
    x = torch.randn(4, 3, 48, 80)
    network(x)  # statistics
    deployed = network.deploy()
    assert deployed.training
    assert deployed.deploy() is deployed
    assert not any("bn" in key or "head_dist" in key for key in deployed.state_dict())
    assert (deployed.spec.fused, deployed.spec.distilled, deployed.spec.classes) == (True, False, 10)
    with torch.no_grad():
        torch.testing.assert_close(deployed.eval()(x), network.eval()(x), rtol=1e-4, atol=1e-5)
        deployed.head.weight.zero_()
        assert network.head.linear.weight.abs().sum() > 0
    alone = small("levit_128s", distilled=False)
    assert alone.tally() == network.spec.tally() == deployed.spec.tally()
    assert build(alone).deploy().head.out_features == 10


def test_levit_says_what_does_not_fit():
    with pytest.raises(SpecError, match="images of 40x48 do not fit the stem"):
        small("levit_128s", size=(40, 48))
    with pytest.raises(SpecError, match="first width 20 is not a multiple of 8"):
        small("levit_128s", widths=(20, 24, 32))
    with pytest.raises(SpecError, match="has one classifier"):
        small("levit_128s", fused=True)
    with pytest.raises(SpecError, match="narrower than keys of 16"):
        small("levit_128s", widths=(8, 16, 32))


def test_levit_takes_computed_entries_and_other_ends(tmp_path):
    from safetensors.torch import save_file

    from sartor.weights.load import load_weights

    given = build(small("levit_128s")).state_dict()
    given["stages.0.blocks.0.attn.attention_bias_idxs"] = torch.zeros(1)
    save_file(given, tmp_path / "model.safetensors")
    empty = build(small("levit_128s").replace(classes=7, channels=1), device="meta")
    network = load_weights(empty, tmp_path / "model.safetensors")
    assert network.eval()(torch.zeros(2, 1, 48, 80)).shape == (2, 7)


def test_weight_decay_spares_positions_tokens_and_tables():
    for name in SMALL:
        network = build(small(name), device="meta")
        _, free = groups_for(Recipe(weight_decay=0.05))({"model": network})
        spared = {id(parameter) for parameter in free.parameters}
        tables = ("cls_token", "pos_embed", "relative_position_bias_table", "attention_biases")
        for key, parameter in network.named_parameters():
            assert (id(parameter) in spared) == (parameter.ndim == 1 or key.rpartition(".")[2] in tables), key
