"""Named networks: from a name or a spec to a backbone, and to its counted cost."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from sartor.core.errors import SpecError, unknown
from sartor.core.seams import Signature
from sartor.core.spec import from_json
from sartor.cost.counters import Convention, Size, Tally
from sartor.models.init import initialise

if TYPE_CHECKING:
    from torch import nn

    from sartor.core.cost import Cost


class NetworkSpec(Protocol):
    """A spec of a network: frozen plain values from which it is built and counted."""

    kind: ClassVar[str]

    @property
    def inputs(self) -> Signature:
        """One image."""

    @property
    def outputs(self) -> Signature:
        """What it answers."""

    @property
    def init(self) -> Any:
        """How convolutions are drawn."""

    @property
    def fc_std(self) -> float:
        """The deviation of the classifier's weights; 0: the framework's uniform."""

    def replace(self, **changes: Any) -> Any:
        """A copy with other fields: another head, other widths."""

    def tally(self, size: Size | None = None, convention: Convention = "sartor") -> Tally:
        """Counted cost of one example."""

    def build(self) -> nn.Module:
        """The module, not yet initialised."""


@lru_cache(maxsize=1)
def _table() -> Mapping[str, tuple[str, dict[str, Any]]]:
    """Name -> (module of the family, row), from the tables beside the family files."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for wing in ("vision",):
        for file in files("sartor.models").joinpath(wing).iterdir():
            if file.name.endswith(".toml"):
                module = f"sartor.models.{wing}.{file.name.removesuffix('.toml')}"
                rows.update({name: (module, row) for name, row in tomllib.loads(file.read_text()).items()})
    return rows


def list_models(pattern: str = "*") -> list[str]:
    """The names of all networks that match a shell pattern such as ``regnet*``, sorted."""
    return sorted(fnmatch.filter(_table(), pattern))


def spec_of(name: str, **changes: Any) -> Any:
    """The spec of a named network, with other fields if wanted; raises SpecError naming the nearest names."""
    if name not in _table():
        raise SpecError(unknown("model", name, _table()))
    module, row = _table()[name]
    arguments = {key: value for key, value in row.items() if key != "build"}
    spec = getattr(import_module(module), row["build"])(**arguments)
    return spec.replace(**changes) if changes else spec


def as_spec(model: Any, **changes: Any) -> Any:
    """The spec of a name, of a spec's JSON form, or the spec itself."""
    if isinstance(model, str):
        return spec_of(model, **changes)
    spec = from_json(model) if isinstance(model, Mapping) else model
    return spec.replace(**changes) if changes else spec


def build(spec: NetworkSpec, *, device: str = "cpu", init: bool = True) -> Any:
    """The backbone of a spec on a device; ``init=False`` leaves weights unwritten for a checkpoint to fill."""
    with torch.device(device):
        network = spec.build()
    if init and device != "meta":
        initialise(network, spec.init, spec.fc_std)
        for module in network.modules():
            own: Any = getattr(module, "initialise", None)
            if own is not None:
                own()
    return network


def count(spec: NetworkSpec, inputs: Signature | None = None, convention: Convention = "sartor") -> Cost:
    """Counted cost of one example of ``inputs`` (default: what the network is meant for), without building it."""
    size: Size | None = None
    if inputs is not None:
        _, height, width = inputs.fields["image"].shape
        if height is None or width is None:
            raise SpecError("counting needs the height and width of the image")
        size = height, width
    return spec.tally(size, convention).cost()
