"""Training checkpoints: one safetensors file that appears whole or not at all, without pickle.

The plain values (step, seconds, hashes) stand as JSON in the file's own header, because two files cannot be
replaced at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.files import write_atomic
from sartor.core.spec import Json
from sartor.training.plan import Memory, Stepper

CHECKPOINT = "checkpoint.safetensors"
_KEY = "sartor"


@dataclass
class Contents:
    """The tensors that outlive a step; ``best`` is the state dict of the best weights so far, or empty."""

    modules: Mapping[str, nn.Module]
    optimisers: Sequence[Stepper]
    memory: Memory = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All of them by dotted name: ``module.model.fc.weight``, ``optimiser.0.12.momentum_buffer`` …"""
        out = {f"module.{name}.{k}": v for name, module in self.modules.items() for k, v in module.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            for index, parameter in enumerate(_parameters(optimiser)):
                for name, value in optimiser.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        out[f"optimiser.{number}.{index}.{name}"] = value
        out.update({f"memory.{name}.{k}": v for name, state in self.memory.items() for k, v in state.items()})
        out.update({f"best.{k}": v for k, v in self.best.items()})
        return out

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """The inverse; raises TrainingError naming what does not fit."""
        for name, module in self.modules.items():
            _load_module(module, _under(tensors, f"module.{name}"), name)
        for number, optimiser in enumerate(self.optimisers):
            _load_optimiser(optimiser, _under(tensors, f"optimiser.{number}"))
        for key, value in _under(tensors, "memory").items():
            name, _, part = key.partition(".")
            self.memory.setdefault(name, {})[part] = value.to(device)
        self.best.update(_under(tensors, "best"))


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], facts: Json) -> None:
    """Replace the folder's checkpoint by these tensors and plain values; TrainingError if the disk refuses."""
    from safetensors.torch import save  # save_file would leave temporary files of its own when killed

    first: dict[int, str] = {}
    whole = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and first.setdefault(value.data_ptr(), name) != name:
            value = value.clone()  # the format refuses tensors that share memory
        whole[name] = value
    content = save(whole, {_KEY: json.dumps(facts, allow_nan=False)})
    try:
        write_atomic(folder / CHECKPOINT, content)
    except OSError as error:
        size = f"{len(content) / 1e6:.1f} MB"
        raise TrainingError(f"{folder}: cannot write the checkpoint of {size} ({error.strerror}); make room") from None


def read_facts(folder: Path) -> Json | None:
    """The plain values of the folder's checkpoint, None if there is none; raises TrainingError if it is broken."""
    with _opened(folder) as file:
        return json.loads(file.metadata()[_KEY]) if file else None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of the folder's checkpoint; raises TrainingError if it is missing or broken."""
    with _opened(folder) as file:
        if file is None:
            raise TrainingError(f"{folder} holds no checkpoint")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT
    if not path.exists():
        yield None
        return
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is not a readable training checkpoint ({error}); delete it to start anew"
        ) from None


def prepare(folder: Path) -> None:
    """Make the folder, and remove what a process left in it that was killed while it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f".{CHECKPOINT}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _load_module(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[:2])
        raise TrainingError(f"the checkpoint does not fit the module {name!r}: {first}") from None


def _load_optimiser(optimiser: Stepper, tensors: Mapping[str, Tensor]) -> None:
    parameters = _parameters(optimiser)
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape and name != "step":  # the layout decides how sums are rounded
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        optimiser.state.setdefault(parameter, {})[name] = value


def _parameters(optimiser: Stepper) -> Sequence[Any]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
