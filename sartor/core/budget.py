"""Upper bounds on cost, read from text such as ``latency<2ms, params<=1.5M``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sartor.core.cost import ALIASES, BATCHED, BOUNDABLE, FIELDS, Cost, Quantity
from sartor.core.errors import BudgetError, unknown
from sartor.core.units import format_amount, parse_amount

Verdict = Literal["in", "out", "unknown"]
_BOUND = re.compile(r"\s*([A-Za-z_]+(?:\.[A-Za-z0-9]+)?(?:@[^<>=\s]*)?)\s*(<=|<|≤|>=|>|==|=)\s*(.+)")


@dataclass(frozen=True, slots=True)
class Bound:
    """One upper bound: a quantity, ``<`` or ``<=``, and a limit in the field's stored unit."""

    quantity: Quantity
    strict: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Read ``field[.statistic][@batch] < amount``; raises BudgetError naming what would be valid."""
        match = _BOUND.fullmatch(text)
        if match is None:
            raise BudgetError(f"budget {text.strip()!r} is not a bound; write one like params<1M or latency<2ms")
        if match[2] not in ("<", "<=", "≤"):
            raise BudgetError(f"budget {text.strip()!r}: only upper bounds are taken; write {match[1]}<{match[3]}")
        quantity = Quantity.parse(match[1])
        if quantity.field not in BOUNDABLE:
            raise BudgetError(unknown("budget field", quantity.field, [*BOUNDABLE, *ALIASES]))
        if quantity.batch != 1 and quantity.field not in BATCHED:
            raise BudgetError(f"budget {text.strip()!r}: {quantity.field} is the same at any batch; leave out @")
        limit = parse_amount(match[3], quantity.kind, where=f"budget {match[1]}")
        if limit <= 0:
            raise BudgetError(f"budget {text.strip()!r}: the limit must be more than zero")
        return cls(quantity, match[2] == "<", limit)

    def __str__(self) -> str:
        return f"{self.quantity}{'<' if self.strict else '<='}{format_amount(self.limit, self.quantity.kind, None)}"

    def holds(self, value: float) -> bool:
        """Whether a value (in the stored unit) is inside the bound."""
        return value < self.limit if self.strict else value <= self.limit


@dataclass(frozen=True, slots=True)
class Budget:
    """A set of upper bounds; what is not bounded is free. ``Budget.parse(str(b)) == b``."""

    bounds: tuple[Bound, ...] = ()

    @classmethod
    def parse(cls, text: str | Budget | None) -> Budget:
        """Read comma-separated bounds; of two on one quantity the tighter counts. Raises BudgetError."""
        if isinstance(text, Budget):
            return text
        parts = [part for part in re.split(r"[,;]", text or "") if part.strip()]
        tightest: dict[Quantity, Bound] = {}
        for bound in map(Bound.parse, parts):
            other = tightest.get(bound.quantity)
            if other is None or (bound.limit, not bound.strict) < (other.limit, not other.strict):
                tightest[bound.quantity] = bound
        return cls(tuple(tightest.values()))

    def __str__(self) -> str:
        return ", ".join(map(str, self.bounds))

    def limit(self, field: str) -> float | None:
        """The limit on a field's median at batch 1, or None if it is free."""
        return next((b.limit for b in self.bounds if b.quantity == Quantity(field)), None)

    def of(self, how: Literal["counted", "measured"]) -> Budget:
        """The bounds whose fields are got by counting, or those that must be measured."""
        return Budget(tuple(b for b in self.bounds if FIELDS[b.quantity.field].how == how))

    def verdict(self, cost: Cost) -> Verdict:
        """``in`` only if every bounded quantity is known and its interval's upper end is inside."""
        unknown = False
        for bound in self.bounds:
            amount = cost.get(bound.quantity)
            if amount is None:
                unknown = True
            elif not bound.holds(amount.upper):
                return "out"
        return "unknown" if unknown else "in"

    def distance(self, cost: Cost) -> float:
        """The largest ratio of an amount's upper end to its limit; 0 when nothing known is bounded."""
        ratios = [a.upper / b.limit for b in self.bounds if (a := cost.get(b.quantity)) is not None]
        return max(ratios, default=0.0)

    def describe(self, cost: Cost) -> str:
        """The bounded quantities of a cost, for messages: ``params 12.3k, latency 1.2ms``."""
        known = [(b.quantity, a) for b in self.bounds if (a := cost.get(b.quantity)) is not None]
        return ", ".join(f"{q} {format_amount(a.upper, q.kind)}" for q, a in known)
