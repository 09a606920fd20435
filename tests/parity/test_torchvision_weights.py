"""Other libraries' checkpoints through our loader: torchvision's by key map, timm's ends, folders both ways."""

import pytest
import torch
from torch import nn

from sartor.models.network import count, spec_of
from sartor.weights import from_pretrained, load_weights, save_pretrained
from sartor.weights.create import create_model
from sartor.weights.load import adapt_channels

TORCHVISION = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{name: name for name in ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")},
    **{name: name for name in ("wide_resnet50_2", "wide_resnet101_2")},
    "regnet_x_400mf": "regnetx_004_tv",
    "regnet_x_800mf": "regnetx_008",
    "regnet_x_1_6gf": "regnetx_016",
    "regnet_x_3_2gf": "regnetx_032",
    "regnet_x_8gf": "regnetx_080",
    "regnet_x_16gf": "regnetx_160",
    "regnet_x_32gf": "regnetx_320",
    "regnet_y_400mf": "regnety_004",
    "regnet_y_800mf": "regnety_008_tv",
    "regnet_y_1_6gf": "regnety_016",
    "regnet_y_3_2gf": "regnety_032",
    "regnet_y_8gf": "regnety_080_tv",
    "regnet_y_16gf": "regnety_160",
    "regnet_y_32gf": "regnety_320",
    "regnet_y_128gf": "regnety_1280",
}
LARGE = [ours for ours in TORCHVISION.values() if count(spec_of(ours)).value("macs") > 5e9]
IMAGES = torch.rand(2, 3, 97, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def torchvision(timm):
    """The module, importable once timm is."""
    return pytest.importorskip("torchvision")


def randomised(network):
    """Batch-norm weights and statistics as far from their defaults as training takes them."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
    return network


def assert_equal_logits(ours, theirs, images=IMAGES):
    with torch.inference_mode():
        expected = theirs.double().eval()(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours.double().eval()(images), expected, rtol=1e-12, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [pytest.param(t, o, marks=pytest.mark.slow) if o in LARGE else (t, o) for t, o in TORCHVISION.items()],
)
def test_torchvision_checkpoints(torchvision, tmp_path, theirs, ours):
    torch.manual_seed(0)
    network = randomised(torchvision.models.get_model(theirs, weights=None))
    torch.save(network.state_dict(), tmp_path / "checkpoint.pth")
    assert_equal_logits(create_model(ours, weights=tmp_path / "checkpoint.pth"), network)


def test_every_variant_of_torchvision_is_here(torchvision):
    families = ["resnet*", "resnext*", "wide_resnet*", "regnet*"]
    assert set(torchvision.models.list_models(torchvision.models, include=families)) == set(TORCHVISION)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_channels_are_adapted_as_in_timm(timm, tmp_path, name, channels):
    torch.manual_seed(0)
    trained = randomised(timm.create_model(name))
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "checkpoint.pth")
    theirs = timm.create_model(
        name, pretrained=True, in_chans=channels, pretrained_cfg_overlay={"file": str(tmp_path / "checkpoint.pth")}
    )
    ours = create_model(name, in_channels=channels, weights=tmp_path / "checkpoint.pth")
    assert_equal_logits(
        ours, theirs, IMAGES[:, :1].expand(-1, channels, -1, -1) + torch.arange(channels)[:, None, None]
    )


@pytest.mark.parametrize(("given", "wanted"), [(1, 3), (1, 5), (4, 3), (4, 1), (5, 12)])
def test_the_rule_for_channels_is_timms(timm, given, wanted):
    weight = torch.randn(8, given, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = timm.models.adapt_input_conv(wanted, weight.clone(), base_chans=given)
    torch.testing.assert_close(adapt_channels(weight, wanted), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_classes": 7, "in_channels": 1}])
@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_timm_opens_what_we_save(timm, tmp_path, name, options):
    torch.manual_seed(0)
    ours = randomised(create_model(name, **options))
    save_pretrained(ours, tmp_path / "net")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert_equal_logits(ours, theirs, IMAGES[:, : options.get("in_channels", 3)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"num_classes": 7, "in_chans": 1}])
@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_we_open_what_timm_saves(timm, tmp_path, name, options):
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(name, **options))
    timm.models.save_for_hf(theirs, tmp_path / "net", safe_serialization=True)
    assert_equal_logits(from_pretrained(tmp_path / "net"), theirs, IMAGES[:, : options.get("in_chans", 3)])


def test_a_training_checkpoint_of_timm(timm, tmp_path):
    """What timm's own saver writes: weights, averaged weights, optimiser state, and the script's arguments."""
    from argparse import Namespace

    from timm.utils import CheckpointSaver, ModelEmaV3

    torch.manual_seed(0)
    network = randomised(timm.create_model("resnet18"))
    average = ModelEmaV3(network, decay=0.5)
    nn.init.zeros_(network.fc.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    saver = CheckpointSaver(
        network, optimizer, Namespace(model="resnet18", lr=0.1), average, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(epoch=0, metric=71.0)
    ours = load_weights(create_model("resnet18"), tmp_path / "last.pth.tar")
    assert_equal_logits(ours, average.module)
