"""Key maps: from the names other projects give their layers to ours. The maps are rows of ``keymaps.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from sartor.models.anynet import NAMES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KeyMap:
    """One foreign layout of one family; the fields are explained at the head of the table."""

    source: str
    target: str
    sign: str
    block: str = "(?!)"
    first: int = 0
    layers: Mapping[str, str] = field(default_factory=dict, hash=False)
    bgr: bool = False
    sequence: str = ""
    unused: str = "(?!)"

    def rename(self, key: str) -> str:
        """Our key for a foreign one; a layer that is not in the map keeps its name."""
        owner, dot, leaf = key.rpartition(".")
        match = re.match(rf"{self.block}\.", owner)
        if match is None:
            return f"{self.layers.get(owner, owner)}{dot}{leaf}"
        stage, block, layer = int(match["stage"]) - 1, int(match["block"]) - self.first, owner[match.end() :]
        prefix = NAMES[self.target].block.format(stage=stage, stage1=stage + 1, block=block, block1=block + 1)
        return f"{prefix}.{self.layers.get(layer, layer)}.{leaf}"

    def translate(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under our keys."""
        if self.sequence:
            state = self._in_turn(state)
        return {self.rename(key): tensor for key, tensor in state.items() if not re.match(self.unused, key)}

    def _in_turn(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layers of the sequence as units: each convolution starts one, other layers are norms of the last."""
        numbered = re.compile(rf"{self.sequence}\.(\d{{1,4}})\.(.+)")
        found = [(key, match) for key in state if (match := numbered.fullmatch(key))]
        names, unit = dict[str, str](), -1
        for number in sorted({match[1] for _, match in found}, key=int):
            weight = state.get(f"{self.sequence}.{number}.weight")
            starts = weight is not None and weight.ndim == 4
            unit += starts
            names[number] = f"units.{unit}.{'conv' if starts else 'norm'}"
        renamed = {key: f"{names[match[1]]}.{match[2]}" for key, match in found}
        return {renamed.get(key, key): tensor for key, tensor in state.items()}


def find_map(state: Mapping[str, Tensor], target: str | None) -> KeyMap | None:
    """The map for a checkpoint's layout into the family naming ``target``; None if it needs none or none is known."""
    return next((row for row in _table() if row.target == target and row.sign in state), None)


@lru_cache(maxsize=1)
def _table() -> tuple[KeyMap, ...]:
    text = files("sartor.weights").joinpath("keymaps.toml").read_text(encoding="utf-8")
    return tuple(KeyMap(**row) for row in tomllib.loads(text)["map"])
