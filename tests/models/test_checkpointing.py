"""Activation checkpointing changes neither gradients nor running statistics, at any depth."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from sartor.models.network import build, spec_of
from sartor.models.vision.preact_resnet import preact_resnet_cifar
from sartor.models.vision.wide_resnet import wrn_cifar
from sartor.testing.backbones import randomise_norms

SPECS = {
    "preact": preact_resnet_cifar(29, "bottleneck"),
    "original": preact_resnet_cifar(20, order="original"),
    "dropout": wrn_cifar(16, 1, dropout=0.3),
    "drop_path": preact_resnet_cifar(20).replace(drop_path=0.5),
    "regnet": spec_of("regnety_002", classes=10),
    "vit": spec_of("deit_tiny_patch16_224", classes=10, size=(32, 32), drop_path=0.2),
    "levit": spec_of("levit_128s", classes=10, size=(32, 32), drop_path=0.2),
    "vit_resnas": spec_of("vit_res_tiny", classes=10, patch=8, size=(32, 32), drop_path=0.2),
    "swin": spec_of("swin_tiny_patch4_window7_224", classes=10, size=(32, 32), drop_path=0.2),
}


def images(batch=4, side=32):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def trained(spec, checkpointing):
    torch.manual_seed(0)
    net = build(spec).train()
    net.set_grad_checkpointing(checkpointing)
    bytes_kept = 0

    def keep(tensor):
        nonlocal bytes_kept
        bytes_kept += tensor.numel() * tensor.element_size()
        return tensor

    for _ in range(2):  # the second step sees statistics of the first
        net.zero_grad()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = net(images()).square().sum()
        loss.backward()
    return net, bytes_kept


@pytest.mark.parametrize("name", SPECS)
def test_equal_gradients_and_statistics(name):
    (net, plain), (other, saved) = trained(SPECS[name], False), trained(SPECS[name], True)
    assert saved < plain / 2
    for (key, value), twin in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, twin), key
    for (key, parameter), twin in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter.grad, twin.grad), key


def test_nothing_is_kept_in_eval_mode():
    net = build(SPECS["preact"])
    randomise_norms(net, images())
    answers = net(images())
    net.set_grad_checkpointing()
    assert torch.equal(net(images()), answers)


def test_a_thousand_layers_train():
    spec = spec_of("preact_resnet1001_cifar")
    net = build(spec).train()
    assert sum(isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1) for module in net.modules()) == 334
    net.set_grad_checkpointing()
    net(images(2, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    assert net.get_parameter("stem.conv.weight").grad.abs().sum() > 0
