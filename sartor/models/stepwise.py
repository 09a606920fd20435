"""A backbone that is a row of named steps: what it means to run between its seams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from sartor.core.errors import SpecError, unknown
from sartor.core.protocols import Role
from sartor.core.seams import Seam


class Stepwise(nn.Module):
    """``steps`` are applied one after another by ``advance``; seams have the names of the steps they come after.

    The last step is the head, after which there is none. ``taps`` are named ``STEP.PART``: what a residual step adds,
    which ``advance_tapped`` gives beside its output. ``ends`` are the modules that read the image and give the logits,
    ``branches`` those whose output is added to a shortcut, in order. Subclasses set these.
    """

    spec: Any
    steps: tuple[str, ...]
    seams: tuple[Seam, ...]
    taps: tuple[str, ...] = ()
    ends: Mapping[str, Literal["input", "readout"]]
    branches: Sequence[str] = ()
    checkpointing = False

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def advance(self, step: str, x: Tensor) -> Tensor:
        """One step."""
        raise NotImplementedError

    def advance_tapped(self, step: str, x: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """By tap, the branches of a residual step before they are joined; and the step's output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits: all of ``run``."""
        return self.run(x)

    def run(self, x: Tensor, *, start: str | None = None, stop: str | None = None) -> Tensor:
        """From after the seam ``start`` to the seam ``stop``; raises SpecError for an unknown or backward pair."""
        first = 0 if start is None else self._after(start)
        last = len(self.steps) if stop is None else self._after(stop)
        if first > last:
            raise SpecError(f"cannot run backwards from seam {start} to {stop}")
        for step in self.steps[first:last]:
            x = self.advance(step, x)
        return x

    def features(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What crosses the named seams and taps, in one pass that ends at the last of them."""
        wanted, out = set(names), dict[str, Tensor]()
        tapped = {name.rpartition(".")[0] for name in wanted if name in self.taps}
        ends = [self.steps.index(step) + 1 for step in tapped]
        ends += [self._after(name) for name in wanted if name not in self.taps]
        for step in self.steps[: max(ends, default=0)]:
            if step in tapped:
                branches, x = self.advance_tapped(step, x)
                out |= branches
            else:
                x = self.advance(step, x)
            out[step] = x
        return {name: out[name] for name in names}

    def roles(self) -> dict[str, Role]:
        """The role of every parameter, for parametrisations and weight-decay groups."""
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

    def deploy(self) -> Any:
        """Itself: nothing in it serves training alone."""
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass and compute the rest again: less memory, equal gradients."""
        self.checkpointing = enable

    def _after(self, seam: str) -> int:
        """How many steps come before a seam."""
        if seam in self.taps:
            raise SpecError(f"{seam!r} is a tap inside a block: features can read it, run cannot start or stop there")
        names = [known.name for known in self.seams]
        if seam not in names:
            raise SpecError(unknown("seam", seam, names))
        return self.steps.index(seam) + 1
