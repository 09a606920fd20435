import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

from sartor.core.errors import WeightsError
from sartor.models.network import build, list_models, spec_of
from sartor.weights.create import create_model
from sartor.weights.load import adapt_channels, load_weights

SMALL = "resnet20_cifar"
NAMINGS = [SMALL, "regnety_001_cifar"]
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    """A function that gives a network and the file of its weights."""

    def make(name=SMALL, **options):
        torch.manual_seed(0)
        network = create_model(name, **options).eval()
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
        return network, tmp_path / f"{name}.safetensors"

    return make


@pytest.mark.parametrize("name", NAMINGS)
def test_loaded_network_gives_equal_bits(saved, name):
    network, file = saved(name)
    loaded = create_model(name, weights=file).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES), network(IMAGES))
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())


def test_a_filled_network_keeps_its_parameters(saved):
    network, file = saved()
    target = create_model(SMALL)
    before = {key: tensor.data_ptr() for key, tensor in target.state_dict().items()}
    assert load_weights(target, file) is target
    assert {key: tensor.data_ptr() for key, tensor in target.state_dict().items()} == before
    assert torch.equal(target.conv1.weight, network.conv1.weight)


def test_a_network_does_not_change_with_its_file(saved):
    network, file = saved()
    loaded = create_model(SMALL, weights=file)
    with file.open("r+b") as content:
        content.seek(file.stat().st_size // 2)
        content.write(bytes(1000))
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_become_the_networks(saved, dtype):
    network, file = saved()
    state = {k: t.to(dtype) if t.is_floating_point() else t for k, t in network.state_dict().items()}
    save_file(state, file)
    loaded = create_model(SMALL, weights=file)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.conv1.weight, state["conv1.weight"].float())


def test_checkpoints_from_before_the_batch_counter(saved):
    network, file = saved()
    save_file({k: t for k, t in network.state_dict().items() if "num_batches" not in k}, file)
    loaded = create_model(SMALL, weights=file).eval()
    assert torch.equal(loaded(IMAGES), network(IMAGES))
    assert loaded.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("name", NAMINGS)
@pytest.mark.parametrize("meta", [True, False])
def test_other_classes_start_the_classifier_anew(saved, name, meta, caplog):
    network, file = saved(name)
    spec = spec_of(name, classes=7, fc_std=0.01)
    torch.manual_seed(1)
    loaded = load_weights(build(spec, device="meta" if meta else "cpu"), file).eval()
    assert loaded(IMAGES).shape == (2, 7)
    with torch.inference_mode():
        assert torch.equal(loaded.run(IMAGES, stop="pool"), network.run(IMAGES, stop="pool"))
    readout = next(name for name, role in loaded.roles().items() if role.kind == "readout")
    weight, bias = loaded.get_parameter(readout), loaded.get_parameter(readout.replace("weight", "bias"))
    assert 0.005 < weight.std() < 0.02
    assert not bias.any()
    assert [r.levelno for r in caplog.records if r.name == "sartor"] == [logging.WARNING]
    assert "10 classes in the file, 7 in the network" in caplog.text


@pytest.mark.parametrize("name", NAMINGS)
@pytest.mark.parametrize(("given_channels", "wanted"), [(3, 1), (3, 6), (1, 3), (3, 4), (3, 2)])
def test_other_channels_adapt_the_first_convolution(saved, name, given_channels, wanted, caplog):
    network, file = saved(name, in_channels=given_channels)
    loaded = create_model(name, in_channels=wanted, weights=file).eval()
    assert f"adapted from {given_channels} input channels to {wanted}" in caplog.text
    grey = IMAGES[:, :1]
    close = torch.allclose(
        loaded(grey.expand(-1, wanted, -1, -1)), network(grey.expand(-1, given_channels, -1, -1)), atol=1e-5
    )
    assert close == (wanted == 1 or wanted % given_channels == 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_equal_channels_are_seen_as_before(channels, times, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, channels, 3, 3, generator=generator)
    grey = torch.randn(1, 1, 5, 5, generator=generator)
    expected = F.conv2d(grey.expand(-1, channels, -1, -1), weight)
    for wanted in (1, channels * times):
        got = F.conv2d(grey.expand(-1, wanted, -1, -1), adapt_channels(weight, wanted))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def mismatch(name, file, **options):
    with pytest.raises(WeightsError) as caught:
        create_model(name, weights=file, **options)
    return str(caught.value)


def test_a_mismatch_is_one_short_line(saved):
    _, file = saved()
    message = mismatch("resnet50", file)
    assert message.startswith(f"weights {file} do not fit resnet50: ")
    assert "missing (layer1.0.conv3.weight, " in message
    assert "of another shape (conv1.weight 16x3x3x3 for 64x3x7x7, " in message
    assert "\n" not in message
    assert len(message) < 700 + len(str(file))


def test_a_mismatch_counts_each_sort(saved):
    network, file = saved()
    state = network.state_dict()
    for key in ("bn1.weight", "bn1.bias"):
        del state[key]
    state["extra"] = torch.zeros(3)
    state["layer1.0.bn1.weight"] = torch.zeros(5)
    state["layer1.0.bn2.weight"] = torch.zeros(16, dtype=torch.int8)
    save_file(state, file)
    assert mismatch(SMALL, file).endswith(
        "do not fit resnet20_cifar: 2 missing (bn1.weight, bn1.bias), 1 unexpected (extra), "
        "1 of another shape (layer1.0.bn1.weight 5 for 16), "
        "1 of another type (layer1.0.bn2.weight torch.int8 for torch.float32)"
    )


def test_only_the_number_of_classes_may_differ_in_the_classifier(saved):
    network, file = saved()
    save_file(network.state_dict() | {"fc.weight": torch.zeros(7, 65), "fc.bias": torch.zeros(7)}, file)
    assert "2 of another shape (fc.weight 7x65 for 10x64, fc.bias 7 for 10)" in mismatch(SMALL, file)
    save_file({k: t for k, t in network.state_dict().items() if not k.startswith("fc.")}, file)
    assert "2 missing (fc.weight, fc.bias)" in mismatch(SMALL, file)


def test_a_refused_file_leaves_the_network_as_it_was(saved):
    network, file = saved()
    save_file({k: t for k, t in network.state_dict().items() if k != "bn1.bias"}, file)
    target = create_model(SMALL)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError):
        load_weights(target, file)
    assert all(torch.equal(target.state_dict()[key], tensor) for key, tensor in before.items())


def test_every_naming_tells_its_ends():
    example = {spec.names: spec for spec in map(spec_of, list_models()) if spec.kind == "anynet"}
    for spec in example.values():
        kinds = [role.kind for role in build(spec, device="meta").roles().values()]
        assert (kinds.count("input"), kinds.count("readout")) == (1, 1), spec.names
