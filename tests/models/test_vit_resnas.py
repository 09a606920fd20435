"""ViT-ResNAS: positions, spatial reduction, the distillation token, initial weights, other sizes."""

import pytest
import torch
from torch.nn import functional as F

from sartor.core.errors import SpecError
from sartor.models.network import build, spec_of
from sartor.models.vision.vit_resnas import ViTResNAS
from sartor.testing.backbones import cases

SMALL = ViTResNAS((12, 20), (4, 6), ((3, 2), (3,)), ((24, 36), (40,)), patch=4, mid=6, classes=5, size=(16, 24))
FORMS = {
    "distilled": SMALL.replace(distilled=True),
    "without_shortcut": SMALL.replace(residual=False),
    "patches_at_once": SMALL.replace(mid=0, patch=3, size=(12, 18)),
    "one_stage": ViTResNAS((12,), (4,), ((2, 5),), ((24, 8),), patch=2, mid=6, classes=5, size=(6, 10), dropout=0.1),
}


@pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in cases(FORMS)])
def test_every_form_keeps_the_laws(check):
    check()


def test_positions_of_medium_at_280():
    network = build(spec_of("vit_resnas_medium", size=(280, 280)), device="meta")
    shapes = [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("pos_embed")]
    assert shapes == [(1, 401, 240), (1, 100, 640), (1, 25, 880)]


@pytest.mark.parametrize(("side", "giga"), [(280, 7.22), (336, 10.74), (392, 15.20)])
def test_multiply_adds_of_medium_fine_tuned(side, giga):
    assert round(spec_of("vit_resnas_medium").tally((side, side)).macs / 1e9, 2) == giga


def test_distillation_adds_a_token_a_position_and_a_classifier():
    params = [sum(p.numel() for p in build(spec, device="meta").parameters()) for spec in (SMALL, FORMS["distilled"])]
    assert params[1] - params[0] == 12 + 12 + (20 * 5 + 5)


def reduction(spec):
    """A network, what crosses the seam before its reduction, and what the block after it is given."""
    torch.manual_seed(0)
    network = build(spec).eval()
    with torch.no_grad():
        before = network.run(torch.randn(2, 3, *spec.size), stop="stage1.2")
        return network, before, network._enter("stage2.1", before)


@pytest.mark.parametrize("name", ["distilled", "without_shortcut"])
def test_spatial_reduction(name):
    """A convolution over the normalised map and a matrix on tokens, beside the input: pooled, zeros at the end."""
    spec = FORMS[name]
    network, before, after = reduction(spec)
    down, k = network.stages.get_submodule("1.reduction"), spec.tokens
    normed = F.layer_norm(before, (12,), eps=1e-6)
    with torch.no_grad():
        tokens = normed[:, :k] @ down.token.weight.T
        maps = normed[:, k:].transpose(1, 2).reshape(2, 12, 4, 6)
        path = F.conv2d(maps, down.conv.weight, down.conv.bias, 2, 1).reshape(2, 20, 6).transpose(1, 2) + down.pos_embed
        if spec.residual:
            means = before[:, k:].reshape(2, 2, 2, 3, 2, 12).mean((2, 4)).reshape(2, 6, 12)
            path[..., :12] += means
            tokens[..., :12] += before[:, :k]
    torch.testing.assert_close(after, torch.cat([tokens, path], 1))


def test_initial_weights():
    torch.manual_seed(0)
    network = build(SMALL.replace(widths=(96, 192), hidden=((512, 512), (512,)), mid=64))
    parameters = dict(network.named_parameters())
    for name in ("pos_embed", "stages.1.reduction.pos_embed", "stages.0.blocks.1.mlp.fc1.weight", "head.weight"):
        assert parameters[name].std().item() == pytest.approx(0.02, rel=0.1), name
    for name in ("patch_embed.conv2.weight", "stages.1.reduction.conv.weight"):
        weight = parameters[name]
        assert weight.abs().max().item() == pytest.approx(weight[0].numel() ** -0.5, rel=0.01), name
    assert not parameters["stages.1.reduction.token.bias"].any()
    assert parameters["stages.1.reduction.conv.bias"].any()


def test_weights_go_over_to_another_size(tmp_path):
    from safetensors.torch import save_file

    from sartor.weights.load import load_weights

    given = build(SMALL.replace(distilled=True, size=(16, 16))).state_dict()
    given["pos_embed"][:, 2:] = 0.5
    save_file(given, tmp_path / "model.safetensors")
    network = load_weights(build(SMALL.replace(distilled=True), device="meta"), tmp_path / "model.safetensors")
    torch.testing.assert_close(network.pos_embed[:, 2:], torch.full((1, 24, 12), 0.5))
    assert torch.equal(network.pos_embed[:, :2], given["pos_embed"][:, :2])
    assert network.get_parameter("stages.1.reduction.pos_embed").shape == (1, 6, 20)
    assert network.eval()(torch.randn(2, 3, 16, 24)).shape == (2, 5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SpecError, match="images of 16x20 do not fit; use sides that are multiples of 8"):
        SMALL.replace(size=(16, 20))
    with pytest.raises(SpecError, match="needs even patches, not of 7"):
        SMALL.replace(patch=7, size=(28, 28))
    with pytest.raises(SpecError, match="leave a skipped block out"):
        SMALL.replace(heads=((3, 0), (3,)))
    with pytest.raises(SpecError, match="at least as wide as the one before"):
        SMALL.replace(widths=(20, 12))
    with pytest.raises(SpecError, match="are given for each stage"):
        SMALL.replace(head_dims=(4,))
    with pytest.raises(SpecError, match="every stage has blocks"):
        SMALL.replace(hidden=((24,), (40,)))
