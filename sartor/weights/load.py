"""Weights into a network: names translated, ends adapted, everything else must fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sartor.core.errors import WeightsError
from sartor.models.init import draw_weight
from sartor.models.network import build
from sartor.weights.config import name_of, named
from sartor.weights.keymaps import find_map
from sartor.weights.locate import find_weights
from sartor.weights.read import read_state

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("sartor")
_SHOWN = 3  # keys of each sort in a message


def load_weights(network: Any, weights: str | Path, *, device: str = "cpu") -> Any:
    """Fill a backbone from a checkpoint and return it; the weights keep the network's number format.

    ``weights`` is a ``.safetensors`` or ``torch.save`` file, a folder written by ``save_pretrained``, or a hub
    name such as ``timm/resnext50_32x4d.a1h_in1k``. A network on the meta device gets its memory on ``device``,
    and each weight is written once; any other network is filled where it is.

    The names of torchvision, of pycls and of HarDNet's authors are translated. A classifier for another number of
    classes starts anew, a first convolution for other channels is adapted as by ``adapt_channels``, positions of a
    transformer for images of another size are resized (``fit_state`` of the network); all are logged. Any other
    difference, or a file that cannot be found or trusted, raises WeightsError.
    """
    path = find_weights(weights)
    state, notes = read_state(path), list[str]()
    expected: dict[str, Tensor] = network.state_dict()
    state = _translate(state, network, notes)
    if hasattr(network, "fit_state"):
        notes += network.fit_state(state)
    for key in expected.keys() - state.keys():
        if key.endswith(".num_batches_tracked"):  # unknown to checkpoints of before 2018
            state[key] = torch.zeros((), dtype=torch.int64)
    _adapt_input(state, expected, network, notes)
    fresh = _drop_readout(state, expected, network, notes)
    fill(network, state, str(path), device=device, but=fresh)
    for name in fresh:
        _start_anew(network.get_submodule(name), network.spec, device)
    for note in notes:
        _log.warning("%s: %s", path.name, note)
    return network.to(next(iter(network.parameters())).device)  # the constants, where the weights were put


def fill(
    network: Any, state: Mapping[str, Tensor], where: str, *, device: str = "cpu", but: Sequence[str] = ()
) -> None:
    """Write tensors by name into a network, which must have all of them and no others, but for the layers ``but``.

    A network on the meta device gets memory of its own on ``device``: a copy and not the pages of a mapped file,
    so that nobody who changes the file later changes the network. Raises WeightsError naming ``where``.
    """
    expected = {k: v for k, v in network.state_dict().items() if k.rpartition(".")[0] not in but}
    _demand_fit(state, expected, network.spec, where)
    meta = any(tensor.is_meta for tensor in expected.values())
    if meta:
        state = {key: torch.empty_like(expected[key], device=device).copy_(tensor) for key, tensor in state.items()}
    network.load_state_dict(state, strict=False, assign=meta)


def first_outputs(network: Any, classes: int) -> Any:
    """The network with only its first outputs: one of its own if there are more, on the same device; else itself."""
    if network.spec.classes == classes:
        return network
    layers = {key.rpartition(".")[0] for key in named(network, "readout")}
    state = network.state_dict().items()
    kept = {key: tensor[:classes] if key.rpartition(".")[0] in layers else tensor for key, tensor in state}
    smaller = build(network.spec.replace(classes=classes), device="meta")
    fill(smaller, kept, "of the training", device=str(next(network.parameters()).device))
    return smaller


def reset_batch_norms(network: nn.Module) -> None:
    """Every batch norm as it was before training: mean 0, variance 1, factors 1, offsets 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight (out, in, height, width) for another number of input channels.

    For one channel the input channels are summed, so that a grey image is treated as its three equal copies
    would be. For more, they are repeated in turn and scaled by in / ``channels``, which keeps the size of the
    sums. The rule is timm's (``adapt_input_conv``).
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.double().sum(1, keepdim=True).to(weight.dtype)
    index = torch.arange(channels, device=weight.device) % given
    return (weight[:, index].double() * (given / channels)).to(weight.dtype)


def _translate(state: dict[str, Tensor], network: Any, notes: list[str]) -> dict[str, Tensor]:
    """The tensors under our names, the first convolution for images of red, green and blue."""
    names = getattr(network.spec, "names", None)
    if names == "hardnet" and "base.0.conv.weight" in state:  # a list that numbers poolings too: no pattern says it
        from sartor.models.vision.hardnet import released_names

        ours, owners = released_names(network.spec), {key: key.rpartition(".") for key in state}
        return {f"{ours.get(o, o)}{dot}{leaf}": state[key] for key, (o, dot, leaf) in owners.items()}
    layout = find_map(state, names)
    if layout is None:
        return state
    state = layout.translate(state)
    for key in named(network, "input"):
        if layout.bgr and network.spec.stem.stride > 1 and key in state and state[key].ndim == 4:
            state[key] = state[key].flip(1)
            notes.append(f"trained by {layout.source} on blue-green-red images, so {key} is turned to red-green-blue")
    return state


def _adapt_input(state: dict[str, Tensor], expected: Mapping[str, Tensor], network: Any, notes: list[str]) -> None:
    for key in named(network, "input"):
        wanted, given = expected[key], state.get(key)
        if given is not None and _differs_only(given, wanted, 1):
            state[key] = adapt_channels(given, wanted.shape[1])
            notes.append(f"{key} adapted from {given.shape[1]} input channels to {wanted.shape[1]}")


def _drop_readout(
    state: dict[str, Tensor], expected: Mapping[str, Tensor], network: Any, notes: list[str]
) -> list[str]:
    """Take a classifier for another number of classes out of ``state``; the names of such layers."""
    fresh = []
    for key in named(network, "readout"):
        layer, given, wanted = key.rpartition(".")[0], state.get(key), expected[key]
        if given is not None and _differs_only(given, wanted, 0):
            fresh.append(layer)
            text = f"{len(given)} classes in the file, {len(wanted)} in the network: the classifier {layer} starts anew"
            notes.append(text)
            for name in [name for name in state if name.rpartition(".")[0] == layer]:
                del state[name]
    return fresh


def _start_anew(layer: Any, spec: Any, device: str) -> None:
    if layer.weight.is_meta:
        layer.to_empty(device=device)
    draw_weight(layer.weight, True, spec.init, spec.fc_std)
    nn.init.zeros_(layer.bias)


def _differs_only(given: Tensor, wanted: Tensor, dim: int) -> bool:
    """Whether two tensors have the same shape except for one dimension."""
    if given.ndim != wanted.ndim or given.shape[dim] == wanted.shape[dim] or given.numel() == 0:
        return False
    return given.shape[:dim] + given.shape[dim + 1 :] == wanted.shape[:dim] + wanted.shape[dim + 1 :]


def _demand_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], spec: Any, where: str) -> None:
    shared = [key for key in expected if key in state]
    odd = [key for key in shared if state[key].shape != expected[key].shape]
    kinds = [k for k in shared if k not in odd and state[k].is_floating_point() != expected[k].is_floating_point()]
    problems = [
        _listed("missing", [key for key in expected if key not in state]),
        _listed("unexpected", [key for key in state if key not in expected]),
        _listed("of another shape", [f"{k} {_size(state[k])} for {_size(expected[k])}" for k in odd]),
        _listed("of another type", [f"{k} {state[k].dtype} for {expected[k].dtype}" for k in kinds]),
    ]
    if any(problems):
        name = name_of(spec) or spec.kind
        raise WeightsError(f"weights {where} do not fit {name}: {', '.join(filter(None, problems))}")


def _listed(what: str, keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})" if keys else ""


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one value"
