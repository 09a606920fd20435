"""The words that have more than one implementation, as protocols. ``sartor.testing`` checks their laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from sartor.core.budget import Budget
    from sartor.core.candidate import Candidate, Metric, Proposal, Quality
    from sartor.core.cost import Cost
    from sartor.core.seams import Seam, Signature
    from sartor.core.seams import State as SeamState

Raw = Any  # one example as a user has it: a decoded image, a query string
Answer = Mapping[str, Any]  # what a servable says of one example


@dataclass(frozen=True, slots=True)
class Role:
    """What a parameter is to its backbone, for parametrisations and weight-decay groups.

    ``block`` counts residual blocks from 0 (-1 outside them), ``branches`` is the number of residual branches.
    """

    kind: Literal["input", "hidden", "readout", "bias", "norm", "embedding"]
    block: int
    fan_in: int
    branches: int


@runtime_checkable
class Backbone(Protocol):
    """A network that runs from any of its seams to any later one; ``forward(x)`` is ``run(x)``.

    In eval mode ``run(run(x, stop=s), start=s)`` equals ``forward(x)`` bit for bit at every seam.
    """

    spec: Any
    seams: tuple[Seam, ...]
    taps: tuple[str, ...]

    def run(self, x: Tensor | SeamState, *, start: str | None = None, stop: str | None = None) -> Tensor | SeamState:
        """From the seam ``start`` (None: the input) to the seam ``stop`` (None: the output)."""

    def features(self, x: Tensor | SeamState, names: Sequence[str]) -> dict[str, Tensor | SeamState]:
        """What crosses the named seams and taps, in one pass."""

    def roles(self) -> Mapping[str, Role]:
        """The role of every parameter."""

    def deploy(self) -> Backbone:
        """A backbone with the same answers, without training heads, masks or unused branches."""


@runtime_checkable
class Servable(Protocol):
    """Anything that answers raw examples: a network with its preprocessing, a pipeline, a table."""

    def predict(self, raw: Sequence[Raw]) -> Sequence[Answer]:
        """One answer per example, in order."""

    def save(self, folder: Path) -> None:
        """Write all that ``open`` needs; opened in a new process, it gives equal answers."""


class Examples(Protocol):
    """A split of a task: examples by position. ``label`` and ``labels`` read no example."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """All targets."""

    def __len__(self) -> int: ...

    def item(self, i: int) -> Raw:
        """The raw example as a user would have it, decoded."""

    def label(self, i: int) -> int:
        """Its target."""

    def batch(self, indices: NDArray[np.int64]) -> Mapping[str, Tensor]:
        """The examples at some positions, in that order: the fields that training reads, and ``label`` (n,) int64."""

    def prefetch(self, indices: NDArray[np.int64]) -> None:
        """Say that this very batch will be asked for soon."""

    def where(self, i: int) -> str:
        """Where the example comes from, for reports; different for different examples of a task."""

    def group(self, i: int) -> int | None:
        """The code of what must not be cut in two (a patient, a slide), if the data say."""


class Task(Protocol):
    """Data splits, a loss and a metric. It knows no model and no method."""

    @property
    def name(self) -> str:
        """Of the data."""

    @property
    def kind(self) -> str:
        """Of the problem: methods say which kinds they suit."""

    @property
    def inputs(self) -> Signature:
        """What one example is."""

    @property
    def outputs(self) -> Signature:
        """What a network for it gives."""

    @property
    def metric(self) -> Metric:
        """What candidates are compared by."""

    @property
    def per(self) -> str:
        """What one example is called: image, query."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal data and splits."""

    @property
    def skipped(self) -> Sequence[Mapping[str, str]]:
        """``where`` and ``why`` of every example left out as bad."""

    @property
    def notices(self) -> Sequence[str]:
        """What else was done to the data."""

    def split(self, name: str) -> Examples:
        """``train``, ``valid`` or ``test``; no example is in two of them."""

    def carve(self, fraction: float, seed: int) -> tuple[Examples, Examples]:
        """``train`` cut in two, the second with about ``fraction`` of every class, no group in both."""

    def given(self) -> Mapping[str, Any]:
        """What all examples share: class names, a corpus, a graph."""

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The task's own loss of a batch."""

    def evaluate(self, servable: Servable, split: str) -> Quality:
        """Metric values, from ``predict`` alone; deterministic."""

    def serving(self, n: int, seed: int) -> Sequence[Raw]:
        """``n`` raw examples such as will be served, for measuring cost."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a method is given to evaluate one proposal.

    ``workspace`` is kept when work is cut off, so an evaluation continues from what it finds there; ``artifact`` is
    an empty folder that becomes the candidate's artifact, whole, when the evaluation ends well. A method writes
    nowhere else. ``parents`` are the artifacts of the proposal's parents by role, ``states`` their workspaces, from
    which training can be continued. Work past ``deadline`` (seconds
    since the epoch) should end itself in good order. ``progress(share, text)`` raises ``Interrupted`` to stop.
    """

    parents: Mapping[str, Path]
    states: Mapping[str, Path]
    workspace: Path
    artifact: Path
    deadline: float
    progress: Callable[[float, str], None]


class Interrupted(Exception):
    """The user or the driver wants an evaluation to stop; what it has is kept in the workspace."""


class Method(Protocol):
    """Proposes waves of candidates and evaluates them.

    ``propose`` is a pure function of its arguments, called at the end of each wave with every candidate of
    the waves before; an empty wave ends the method.
    """

    @property
    def name(self) -> str:
        """What proposals name it by."""

    def applies(self, task: Task, parents: Sequence[Candidate]) -> str | None:
        """None, or one sentence why not."""

    def propose(self, task: Task, budget: Budget, seen: Sequence[Candidate], seed: int) -> Sequence[Proposal]:
        """The next wave."""

    def evaluate(self, proposal: Proposal, task: Task, tools: Tools) -> tuple[Servable | None, Cost]:
        """On a worker: make the candidate and fill its artifact. Returns what serves it, if anything, and amounts."""


class Executor(Protocol):
    """Evaluates proposals here or on a cluster."""

    slots: int

    def run(
        self, proposals: Sequence[Proposal], *, finished: Callable[[Candidate], None], deadline: float
    ) -> Sequence[Candidate]:
        """Evaluate all, calling ``finished`` as each ends; the result is in the order asked, whatever ended first."""

    def close(self) -> None:
        """Stop the workers."""
