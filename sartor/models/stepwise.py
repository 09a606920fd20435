"""A network that is a chain of named steps: what it means to run between its seams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sartor.core.errors import SpecError, unknown
from sartor.core.seams import Seam


class Stepwise(nn.Module):
    """``steps`` are applied one after another by ``advance``; after each but the last, the head, there is a seam.

    ``taps`` are named ``STEP.branch``: what a residual step adds, which ``advance_tapped`` gives beside its output.
    """

    spec: Any
    seams: tuple[Seam, ...]
    taps: tuple[str, ...]
    steps: tuple[str, ...]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def advance(self, name: str, x: Tensor) -> Tensor:
        """One step."""
        raise NotImplementedError

    def advance_tapped(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """The branch of a residual step before it is joined, and the step's output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits: all of ``run``."""
        return self.run(x)

    def run(self, x: Tensor, *, start: str | None = None, stop: str | None = None) -> Tensor:
        """From after the seam ``start`` to the seam ``stop``; raises SpecError for an unknown or backward pair."""
        first = 0 if start is None else self._step(start) + 1
        last = len(self.steps) if stop is None else self._step(stop) + 1
        if first > last:
            raise SpecError(f"cannot run backwards from seam {start} to {stop}")
        for name in self.steps[first:last]:
            x = self.advance(name, x)
        return x

    def features(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What crosses the named seams and taps, in one pass that ends at the last of them."""
        wanted, out = set(names), dict[str, Tensor]()
        steps = [self._step(name.removesuffix(".branch") if name in self.taps else name) for name in wanted]
        for name in self.steps[: max(steps, default=-1) + 1]:
            if f"{name}.branch" in wanted:
                out[f"{name}.branch"], x = self.advance_tapped(name, x)
            else:
                x = self.advance(name, x)
            if name in wanted:
                out[name] = x
        return {name: out[name] for name in names}

    def _step(self, name: str) -> int:
        if name in self.taps:
            raise SpecError(f"{name!r} is a tap inside a block: features can read it, run cannot start or stop there")
        if name not in self.steps[:-1]:
            raise SpecError(unknown("seam", name, self.steps[:-1]))
        return self.steps.index(name)
