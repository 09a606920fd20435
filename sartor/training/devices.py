"""Where training runs: one process or several, CPU or GPU, and in which number format.

Several processes (``torchrun``, ``accelerate launch``, Ray Train) are set up and their modules wrapped by
``accelerate``. A single process uses PyTorch alone, and number formats are always set here: accelerate keeps its
precision for the whole process, while one process of ours trains networks in different formats.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.training.plan import Numerics

GLOO_FREES_WITHIN = 0.2  # seconds; a time slice on a busy machine is a tenth of it


@dataclass
class Place:
    """One process on one device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def put(self, module: nn.Module, numerics: Numerics) -> nn.Module:
        """The module on the device, in the layout asked for."""
        module = module.to(self.device)
        return module.to(memory_format=torch.channels_last) if numerics.channels_last else module  # type: ignore[call-overload]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as losses call it."""
        return module

    def unsynchronised(self, modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
        """Where gradients are only added up locally: all but the last accumulated part."""
        return nullcontext()

    def seed(self, value: int) -> None:
        """Seed torch's global generators on this device."""
        torch.default_generator.manual_seed(value)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(value)

    def agreed(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        return value

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks."""
        return values

    def autocast(self, numerics: Numerics) -> AbstractContextManager[Any]:
        """Runs operations that gain from it in the number format."""
        if numerics.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, numerics.dtype))

    def scaler(self, numerics: Numerics) -> torch.amp.GradScaler:
        """Scales the loss where float16 would lose small gradients; otherwise does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=numerics.dtype == "float16")


@dataclass
class SeveralPlaces(Place):
    """One of several processes that share each batch."""

    accelerator: Any = field(default=None, repr=False)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes (DDP, or what ``accelerate launch`` configures)."""
        return self.accelerator.prepare_model(module)  # type: ignore[no-any-return]

    def unsynchronised(self, modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
        """Where no module exchanges gradients."""
        stack = ExitStack()
        for module in modules:
            stack.enter_context(self.accelerator.no_sync(module))
        return stack

    def agreed(self, value: float) -> float:
        """Rank 0's value."""
        box = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(box, 0)
        return box.item()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        box = values.to(self.device)
        torch.distributed.all_reduce(box)
        return box / self.world


def default_device() -> str:
    """ "cuda" where there is a GPU that torch can use, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_place(device: str | None = None) -> Place:
    """This process's place; ``device`` None takes a GPU if there is one. Raises TrainingError for one that is not."""
    wanted = device or default_device()
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(f"device {wanted!r}: PyTorch sees no GPU here; use device cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Place(torch.device(wanted))
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=wanted == "cpu")
    atexit.register(leave_group)
    return SeveralPlaces(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)


def leave_group() -> None:
    """Ends the group of processes while Python still stands.

    Gloo's threads free the tensors of the last exchange, and need the interpreter for it: if it is gone by then, the
    process aborts (signal 6) after all its work was done. A group that DDP has used is not freed when it is
    destroyed, so its threads are not joined: they are given the interpreter for a moment.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(GLOO_FREES_WITHIN)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device, without waiting where the device allows it."""
    if device.type == "cpu":
        return batch
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
