"""From a description and weights to the network that is served, normalisation and mirrored view included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sartor.core.errors import SartorError, WeightsError
from sartor.core.spec import from_json
from sartor.models.network import build
from sartor.runtime.description import WEIGHTS, Description
from sartor.weights.config import config_of
from sartor.weights.read import read_state

if TYPE_CHECKING:
    from sartor.core.cost import Cost
    from sartor.cost.counters import Tally
    from sartor.data.preprocess import Preprocess
    from sartor.runtime.engines import Images


class ServedNetwork(nn.Module):
    """From uint8 images (N, C, H, W) to float32 logits (N, K)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Callable[[Tensor], Tensor], preprocess: Preprocess, views: int) -> None:
        super().__init__()
        self.backbone, self.views = backbone, views
        scale, shift = affine(preprocess)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, run each view, average."""
        x = images.float() * self.scale + self.shift
        if self.views == 1:
            return self.backbone(x)
        logits = self.backbone(torch.cat([x, x.flip(3)]))
        return logits.view(2, -1, logits.shape[1]).mean(0)


def affine(preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Per channel, the scale and shift that normalise pixels of 0 to 255."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
    return (1.0 / (255.0 * std)).float(), (-mean / std).float()


def describe(backbone: Any, preprocess: Preprocess, classes: tuple[str, ...], views: int) -> Description:
    """The description of a backbone's classifier; raises SartorError where its parts do not fit together."""
    spec = backbone.deploy().spec
    if len(classes) != spec.classes:
        raise SartorError(f"{len(classes)} class names for a network of {spec.classes} outputs; give one for each")
    if preprocess.channels != spec.channels:
        raise SartorError(
            f"the preprocessing gives {preprocess.channels} channels, the network takes {spec.channels}; make them one"
        )
    if views not in (1, 2):
        raise SartorError(f"views is {views}; it must be 1, or 2 for the image and its mirror image")
    network = config_of(backbone.deploy())
    network["pretrained_cfg"] |= {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "crop_pct": preprocess.crop_ratio,
        "interpolation": preprocess.interpolation,
        **({"crop_mode": "squash"} if preprocess.resize == "squash" else {}),
    }
    return Description(network, preprocess, classes, views)


def frozen_copy(backbone: Any) -> Any:
    """What serves of a backbone, with a copy of its weights, in eval mode on the CPU."""
    deployed = backbone.deploy()
    return restore(build(deployed.spec, device="meta"), deployed.state_dict(), deployed.spec.kind)


def counted(spec: Any, size: tuple[int, int] | None, views: int) -> Cost:
    """The counted cost of one answer of a spec's network at (height, width), run on each view."""
    tally: Tally = spec.tally(size)
    moved = ("macs", "activations", "traffic", "cio")
    return replace(tally, **{name: views * getattr(tally, name) for name in moved}).cost()


def backbone_of(description: Description, source: Path | Any) -> Any:
    """The backbone in eval mode, float32 and without gradients: as it is, or restored from a saved folder.

    Raises WeightsError if the folder's weights are damaged or do not fit its description.
    """
    if not isinstance(source, Path):
        return source
    path = source / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{source}: no {WEIGHTS} in it; name a folder that save or export wrote")
    try:
        network = build(from_json(description.network["spec"]), device="meta")
    except (SartorError, AttributeError, TypeError) as error:
        raise WeightsError(f"{source}: describes no network that can be built ({error})") from None
    return restore(network, read_state(path), str(path))


def restore(network: Any, state: dict[str, Tensor], where: str) -> Any:
    """A network on the meta device filled with copies of exactly its weights, in eval mode."""
    expected = network.state_dict()
    shapes, given = ({key: tensor.shape for key, tensor in tensors.items()} for tensors in (expected, state))
    odd = [key for key in {**shapes, **given} if shapes.get(key) != given.get(key)]
    if odd:
        raise WeightsError(f"{where}: {len(odd)} weights do not fit the described network, first {odd[0]}")
    own = {key: torch.empty_like(expected[key], device="cpu").copy_(state[key].detach()) for key in expected}
    network.load_state_dict(own, assign=True)
    return network.eval().requires_grad_(False)


def tensor_of(images: Images) -> Tensor:
    """The array as a tensor, without a copy where it can be written to."""
    return torch.from_numpy(np.require(images, requirements="W"))


def set_threads(threads: int | None) -> None:
    """How many threads torch uses from now on in this process; None leaves it."""
    if threads is not None:
        torch.set_num_threads(threads)
