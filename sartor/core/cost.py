"""What a model costs: amounts with their unit and how each was got."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sartor.core.errors import BudgetError, unknown

How = Literal["counted", "measured"]
Dimension = Literal["count", "bytes", "time"]


@dataclass(frozen=True, slots=True)
class CostField:
    """One kind of cost: its dimension, the unit amounts are stored in, and how it is got."""

    dimension: Dimension
    unit: str
    how: How
    meaning: str


FIELDS: Mapping[str, CostField] = {
    "params": CostField("count", "1", "counted", "trainable parameters"),
    "macs": CostField("count", "1", "counted", "multiply-adds of convolutions and matrix products for one example"),
    "activations": CostField("count", "1", "counted", "values put out by convolutions and linear layers"),
    "traffic": CostField("bytes", "B", "counted", "bytes convolutions and linear layers read and write, float32"),
    "cio": CostField("count", "1", "counted", "feature-map values that convolutions read and write (CIO)"),
    "storage": CostField("bytes", "B", "measured", "bytes of everything the exported model needs"),
    "latency": CostField("time", "ms", "measured", "time from a decoded example in memory to its answer"),
    "peak_memory": CostField("bytes", "B", "measured", "resident memory that opening and running the model adds"),
    "train_memory": CostField("bytes", "B", "measured", "resident memory that one training step adds"),
    "step_seconds": CostField("time", "s", "measured", "time of one training step"),
    "train_seconds": CostField("time", "s", "measured", "time spent training this candidate"),
    "lineage_seconds": CostField("time", "s", "measured", "training time of this candidate and all its ancestors"),
}
BOUNDABLE = ("params", "macs", "activations", "traffic", "cio", "storage", "latency", "peak_memory")  # by a budget
BATCHED = ("latency", "peak_memory")  # what differs with the batch size
ALIASES: Mapping[str, str] = {"memory": "peak_memory"}
STATISTICS = ("p95",)  # the median is what an unqualified field means


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """Which amount is meant: a field, a statistic ("" for the median) and a batch size.

    Written ``latency``, ``latency.p95``, ``latency@8`` or ``latency.p95@8``.
    """

    field: str
    statistic: str = ""
    batch: int = 1

    def __str__(self) -> str:
        statistic = f".{self.statistic}" if self.statistic else ""
        return f"{self.field}{statistic}" + (f"@{self.batch}" if self.batch != 1 else "")

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """Read the written form; raises BudgetError naming the valid fields or statistics."""
        head, at, batch = text.partition("@")
        name, _, statistic = head.partition(".")
        name = ALIASES.get(name, name)
        if name not in FIELDS:
            raise BudgetError(unknown("cost field", name, [*FIELDS, *ALIASES]))
        if statistic in ("median", "p50"):
            statistic = ""
        measured = FIELDS[name].dimension == "time"
        if statistic and (statistic not in STATISTICS or not measured):
            raise BudgetError(f"{name}.{statistic}: latency takes .p95 (the median is the default), other fields none")
        if at and (not batch.isdigit() or int(batch) < 1):
            raise BudgetError(f"{text}: the batch after @ is a whole number of at least 1")
        return cls(name, statistic, int(batch) if at else 1)

    @property
    def kind(self) -> CostField:
        """The field's entry in the table."""
        return FIELDS[self.field]


@dataclass(frozen=True, slots=True)
class Amount:
    """A number with its unit, how it was got and on what machine.

    ``spread`` is the distance from ``value`` to the upper end of its interval; counted amounts have none.
    """

    value: float
    unit: str
    how: How
    on: str = ""
    spread: float | None = None

    @property
    def upper(self) -> float:
        """The upper end of the interval: what a budget is held against."""
        return self.value + (self.spread or 0.0)


@dataclass(frozen=True, slots=True)
class Cost:
    """Amounts by written quantity. What nobody counted or measured is absent, never zero."""

    amounts: Mapping[str, Amount] = field(default_factory=dict)

    def get(self, quantity: str | Quantity) -> Amount | None:
        """The amount of a quantity, or None if nobody got it."""
        return self.amounts.get(str(quantity))

    def value(self, quantity: str) -> float:
        """The plain number of a quantity; raises KeyError if nobody got it."""
        return self.amounts[quantity].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.amounts)

    def __or__(self, other: Cost) -> Cost:
        """Both costs; where both know a quantity, the right one's amount."""
        return Cost({**self.amounts, **other.amounts})

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ledgers and model cards."""
        return {
            name: {"value": a.value, "unit": a.unit, "how": a.how, "on": a.on, "spread": a.spread}
            for name, a in self.amounts.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> Cost:
        """The inverse of ``to_json``."""
        return cls({name: Amount(**values) for name, values in data.items()})


def counted(**values: float) -> Cost:
    """A cost of counted amounts, each in its field's unit."""
    return Cost({name: Amount(value, FIELDS[name].unit, "counted") for name, value in values.items()})
