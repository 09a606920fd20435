"""Backbones that are one chain of steps without taps: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from torch import Tensor, nn

from sartor.core.errors import SpecError, unknown
from sartor.core.protocols import Role
from sartor.core.seams import Seam
from sartor.models.checkpointing import checkpointed


class Chain(nn.Module):
    """Steps numbered from 0, each a map of one tensor; a seam lies after as many steps as ``after`` says.

    Subclasses have ``steps``, the number of steps, ``step``, and in ``ends`` the modules of the first convolution
    and of the classifier. ``branches`` are the modules whose output is added to a shortcut, in order.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    ends: ClassVar[Mapping[str, Literal["input", "readout"]]]
    branches: Sequence[str] = ()

    def __init__(self, spec: Any, seams: Sequence[Seam], after: Sequence[int], steps: int) -> None:
        super().__init__()
        self.spec, self.seams, self.steps = spec, tuple(seams), steps
        self.taps: tuple[str, ...] = ()
        self.checkpointing = False
        self._after = {seam.name: number for seam, number in zip(seams, after, strict=True)}

    def step(self, number: int, x: Tensor) -> Tensor:
        """What a step gives of its input."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images: all of ``run``."""
        return self.run(x)

    def run(self, x: Tensor, *, start: str | None = None, stop: str | None = None) -> Tensor:
        """From after the seam ``start`` to the seam ``stop``; raises SpecError for an unknown or backward pair."""
        first = 0 if start is None else self._position(start)
        last = self.steps if stop is None else self._position(stop)
        if first > last:
            raise SpecError(f"cannot run backwards from seam {start} to {stop}")
        for number in range(first, last):
            x = self.step(number, x)
        return x

    def features(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What crosses the named seams, in one pass that ends at the last of them."""
        out, here = dict[str, Tensor](), 0
        for name in sorted(set(names), key=self._position):
            for number in range(here, self._position(name)):
                x = self.step(number, x)
            out[name], here = x, self._position(name)
        return {name: out[name] for name in names}

    def roles(self) -> dict[str, Role]:
        """The role of every parameter."""
        owner = {
            name: number
            for number, path in enumerate(self.branches)
            for name, _ in self.get_submodule(path).named_modules(prefix=path)
        }
        roles = {}
        for path, module in self.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                if isinstance(module, nn.BatchNorm2d):
                    kind: Any = "norm"
                else:
                    kind = "bias" if parameter.ndim == 1 else self.ends.get(path, "hidden")
                roles[name] = Role(kind, owner.get(path, -1), parameter[0].numel(), len(self.branches))
        return roles

    def deploy(self) -> Self:
        """Itself: nothing in it serves training alone."""
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks for the backward pass and compute the rest again."""
        self.checkpointing = enable

    def _block(self, path: str, x: Tensor) -> Tensor:
        """A module's output, by checkpointing where that is wanted."""
        block = self.get_submodule(path)
        return checkpointed(block, x) if self.checkpointing and self.training else block(x)

    def _position(self, name: str) -> int:
        if name not in self._after:
            raise SpecError(unknown("seam", name, self._after))
        return self._after[name]
