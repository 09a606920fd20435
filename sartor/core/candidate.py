"""Candidates: what a method proposed, what became of it, how good it is and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sartor.core.cost import Cost
from sartor.core.spec import Json, digest, from_json, to_json

Kind = Literal["network", "family", "pipeline", "embedding", "estimate", "data"]
State = Literal["waiting", "running", "done", "failed", "stopped"]
Role = Literal["init", "teacher", "anchor", "family", "data", "maps", "index", "rung"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The name of a quality and which way is better."""

    name: str
    higher_is_better: bool = True

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is strictly better than ``b``."""
        return a > b if self.higher_is_better else a < b


@dataclass(frozen=True, slots=True)
class Quality:
    """Metric values of a servable on one split of one task; ``n`` examples, ``how`` they were got."""

    values: Mapping[str, float]
    split: str
    n: int
    how: Literal["measured", "inherited", "predicted"] = "measured"


@dataclass(frozen=True, slots=True)
class Parent:
    """A candidate this one is made from, and what it is used as."""

    id: str
    role: Role


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a method asks to be evaluated.

    ``recipe`` holds plain values the method reads back; ``counted`` and ``seconds`` (expected, on one of
    ``threads`` threads' worth of workers) help to plan and are no part of the identity.
    """

    method: str
    spec: Any
    recipe: Json
    task: str
    seed: int
    rung: int = 0
    parents: tuple[Parent, ...] = ()
    threads: int = 1
    kind: Kind = "network"
    counted: Cost = field(default_factory=Cost)
    seconds: float = 0.0

    def identity(self) -> Json:
        """The plain values that make two proposals the same."""
        return {
            "method": self.method,
            "spec": to_json(self.spec),
            "recipe": self.recipe,
            "task": self.task,
            "seed": self.seed,
            "rung": self.rung,
            "parents": [[p.id, p.role] for p in self.parents],
            "threads": self.threads,
            "kind": self.kind,
        }

    def to_json(self) -> Json:
        """Plain values from which ``from_json`` restores the proposal."""
        return {**self.identity(), "counted": self.counted.to_json(), "seconds": self.seconds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Proposal:
        """The inverse of ``to_json``; raises SpecError if the spec cannot be read."""
        values = dict(data)
        return cls(
            **{
                **values,
                "spec": from_json(values["spec"]),
                "parents": tuple(Parent(*p) for p in values["parents"]),
                "counted": Cost.from_json(values["counted"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder or file that appeared whole; ``path`` is relative to the run directory."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal with what became of it. ``setting`` is one config of a family, else None."""

    id: str
    proposal: Proposal
    setting: Json | None = None
    state: State = "waiting"
    why: str = ""
    quality: Quality | None = None
    cost: Cost = field(default_factory=Cost)
    artifact: Artifact | None = None

    @classmethod
    def of(cls, proposal: Proposal, setting: Json | None = None) -> Candidate:
        """The waiting candidate of a proposal; its id is a hash of the proposal's identity and the setting."""
        return cls(candidate_id(proposal, setting), proposal, setting, cost=proposal.counted)

    def parent(self, role: Role) -> str | None:
        """The id of the first parent with a role."""
        return next((p.id for p in self.proposal.parents if p.role == role), None)

    def having(self, **changes: Any) -> Candidate:
        """A copy with other fields."""
        return replace(self, **changes)


def candidate_id(proposal: Proposal, setting: Json | None = None) -> str:
    """Twelve hexadecimal characters that equal proposals share."""
    return digest({"proposal": proposal.identity(), "setting": setting})
