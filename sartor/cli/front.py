"""``sartor front``."""

from __future__ import annotations

from json import dumps
from pathlib import Path


def front(run: Path, /, *, budget: str = "", json: bool = False) -> None:
    """Show a run's candidates on the front of quality against cost.

    Parameters
    ----------
    run
        A run directory, finished or not.
    budget
        Mark the best candidate inside this budget (default: the run's).
    json
        Write the front as JSON.
    """
    from rich.console import Console
    from rich.table import Table

    from sartor.core.budget import Budget
    from sartor.core.cost import Quantity
    from sartor.core.errors import ImpossibleBudget
    from sartor.core.units import format_amount
    from sartor.runs.results import Result

    result = Result(run)
    limits = Budget.parse(budget) if budget else result.budget
    try:
        best, why = result.front.best(limits).id, ""
    except ImpossibleBudget as error:
        best, why = "", str(error)
    if json:
        members = [
            {"id": c.id, "best": c.id == best, "quality": dict(c.quality.values) if c.quality else {},
             "family": c.proposal.recipe.get("family"), "rung": c.proposal.rung, "cost": c.cost.to_json()}
            for c in result.front.members
        ]  # fmt: skip
        print(dumps({"metric": result.front.metric.name, "fields": result.front.fields, "members": members}, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("", "candidate", "family", result.front.metric.name, *result.front.fields):
        table.add_column(name, justify="right" if name in result.front.fields else "left")
    for c in result.front.members:
        amounts = [format_amount(c.cost.value(f), Quantity.parse(f).kind) for f in result.front.fields]
        family = str(c.proposal.recipe.get("family", c.proposal.method))
        table.add_row("→" if c.id == best else "", c.id, family, f"{result.front.quality(c):.4f}", *amounts)
    Console(highlight=False, soft_wrap=True).print(table)
    if why:
        Console(stderr=True, highlight=False, soft_wrap=True).print(why, markup=False)
