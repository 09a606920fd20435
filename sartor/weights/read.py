"""Checkpoint files: to tensors by name, without ever running what a file says."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sartor.core.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state")  # averaged weights before plain
_PREFIXES = ("module.", "_orig_mod.", "model.")  # left by data parallelism, compilation and Lightning
_COUNTERS = ("n_averaged",)  # what torch's AveragedModel keeps beside the weights


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of any other file as ``torch.save`` writes it, on the CPU.

    Wrapped checkpoints are opened and wrappers' prefixes removed. The tensors may be views of the mapped file:
    copy what outlives this call's use. Raises WeightsError for a file that is damaged, holds no tensors, or
    names code to run.
    """
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    state = _strip({key: value for key, value in _unwrap(content).items() if isinstance(value, Tensor)})
    if not state:
        raise WeightsError(f"weights {path}: no tensors by name in it; give a file that holds a state dict")
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise WeightsError(
                f"weights {path}: {key} is not a plain dense tensor; save the network without quantisation"
            )
    return state


def short(error: BaseException) -> str:
    """The first line of an error, for a message of one line."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 160 else line[:157] + "..."


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the reader's own type, and whatever mapping a damaged file raises
        raise _damaged(path, short(error)) from None


def _pickled(path: Path) -> Any:
    try:
        # timm's training script stores its arguments as a Namespace, which only holds values
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old formats are read or refused, not remarked upon
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # an unpickler fed with damaged or hostile bytes raises almost anything
        named = re.search(r"\bGLOBAL (\S+)", str(error))
        if named is None:
            plain = "not a file of torch.save, or damaged" if isinstance(error, UnpicklingError) else short(error)
            raise _damaged(path, plain) from None
        raise WeightsError(
            f"weights {path}: refused, because reading it would run {named[1].rstrip('.,')}; if you trust the file, "
            "convert its tensors to .safetensors"
        ) from None


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"weights {path}: cannot be read ({reason}); fetch or save the file again")


def _unwrap(content: Any) -> Mapping[str, Any]:
    """The state dict in a checkpoint: itself, or what it holds under one of the usual names."""
    if not isinstance(content, Mapping):
        return {}
    inner = (content.get(name) for name in _WRAPPERS)
    found = next((m for m in inner if isinstance(m, Mapping) and any(isinstance(v, Tensor) for v in m.values())), None)
    return content if found is None else found


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {str(key): tensor for key, tensor in state.items() if key not in _COUNTERS}
    while prefix := next((p for p in _PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
