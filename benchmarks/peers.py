"""timm and torchvision as peers, and networks of ours with timm's weights."""

import warnings
from importlib import import_module
from typing import Any

import torch

from sartor.models.network import build, spec_of

MODELS = ("resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnetv2_50", "regnetx_032", "regnety_032")
# what torchvision's wheels describe and a CPU build of PyTorch lacks: importing it needs the names alone
DECLARED = (
    "nms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
)


def import_peer(name: str) -> Any:
    """timm or torchvision, also beside a build of PyTorch that torchvision's compiled operators were not made for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import_module("torchvision")
        except RuntimeError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in DECLARED:
                library.define(schema)
            import_module("torchvision").declared = library  # type: ignore[attr-defined]  # they last as long as it
        return import_module(name)


def pair(name: str) -> tuple[Any, Any]:
    """timm's network and ours with the same weights, batch norms with statistics as after training, in eval mode."""
    torch.manual_seed(0)
    theirs = import_peer("timm").create_model(name).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
                module.weight.uniform_(0.3, 0.6)
    ours = build(spec_of(name), device="meta")
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours.eval()
