"""timm's DeiTs, Swin Transformers and LeViTs: strict loading, equal logits in double precision, positions resized."""

import json

import pytest
import torch

from sartor.models.network import build, count, spec_of
from sartor.testing.backbones import randomise_norms

DEITS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")
SWINS = ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224")
LEVITS = ("levit_128s", "levit_128", "levit_192", "levit_256", "levit_384")
NAMES = (*DEITS, *SWINS, *LEVITS)


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def pair(timm, name, size, **options):
    """timm's network in double precision, every parameter disturbed, and ours with its weights."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, img_size=size, **options)
    randomise_norms(theirs, images(*size, batch=4))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter) if parameter.std() > 0 else 0.1)
    theirs = theirs.double()
    ours = build(spec_of(name, size=size), device="meta").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


@torch.inference_mode()
def assert_equal_logits(theirs, ours, size):
    x = images(*size).double()
    expected = theirs(x)
    assert expected.std() > 0.1
    assert (ours(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_and_parameters(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = build(spec_of(name), device="meta")
    shapes, expected = ({k: v.shape for k, v in net.state_dict().items()} for net in (ours, theirs))
    assert shapes == expected
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", [*DEITS, *SWINS])
def test_counted_parameters(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert count(spec_of(name)).value("params") == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("deit_tiny_patch16_224", (224, 224)),
        ("deit_tiny_patch16_224", (48, 80)),
        ("deit_small_patch16_224", (64, 64)),
        ("swin_tiny_patch4_window7_224", (224, 224)),
        ("swin_tiny_patch4_window7_224", (100, 64)),
        ("swin_base_patch4_window7_224", (32, 76)),
        ("levit_128s", (224, 224)),
        ("levit_192", (80, 48)),
        ("levit_384", (64, 64)),
    ],
)
def test_logits(timm, name, size):
    assert_equal_logits(*pair(timm, name, size), size)


def test_positions_are_resized_alike(timm, tmp_path):
    from safetensors.torch import save_file
    from timm.models.vision_transformer import checkpoint_filter_fn

    from sartor.weights.load import load_weights

    name = "deit_tiny_patch16_224"
    given = timm.create_model(name).state_dict()
    save_file(given, tmp_path / "model.safetensors")
    for size in ((160, 160), (96, 320)):
        theirs = timm.create_model(name, img_size=size)
        expected = checkpoint_filter_fn(dict(given), theirs, interpolation="bicubic", antialias=True)
        ours = load_weights(build(spec_of(name, size=size), device="meta"), tmp_path / "model.safetensors")
        torch.testing.assert_close(ours.pos_embed, expected["pos_embed"])


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s"])
def test_gradients(timm, name):
    size = (32, 32)
    theirs, ours = pair(timm, name, size, drop_path_rate=0.0)
    ours.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    for net in (theirs.train(), ours.train().requires_grad_()):
        net(images(*size).double()).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-7, atol=1e-9, msg=key)


def test_levit_deploys_as_timm_fuses(timm):
    """The same keys, shapes and values, but for the classifiers, which ours averages into one."""
    from timm.utils.model import reparameterize_model

    size = (64, 48)
    theirs, ours = pair(timm, "levit_128s", size)
    deployed = ours.deploy()
    fused, state = reparameterize_model(theirs).state_dict(), deployed.state_dict()
    heads = {key: tensor for key, tensor in fused.items() if key.startswith("head")}
    assert state.keys() == fused.keys() - {"head_dist.weight", "head_dist.bias"}
    for key in state.keys() - heads.keys():
        torch.testing.assert_close(state[key].float(), fused[key].float(), msg=key)  # timm fuses to float32
    assert_equal_logits(theirs, deployed, size)


@pytest.mark.parametrize(
    ("name", "size"),
    [("deit_tiny_patch16_224", (48, 64)), ("swin_tiny_patch4_window7_224", (48, 64)), ("levit_128s", (64, 48))],
)
def test_timm_opens_what_is_saved_and_back(timm, tmp_path, name, size):
    from sartor.weights.pretrained import from_pretrained, save_pretrained

    torch.manual_seed(0)
    ours = build(spec_of(name, classes=5, size=size)).eval()
    save_pretrained(ours, tmp_path / "saved")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = images(*size)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    del config["spec"]
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    assert from_pretrained(tmp_path / "saved").spec == ours.spec
