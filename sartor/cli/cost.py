"""``sartor cost``."""

from __future__ import annotations

from json import dumps
from typing import Annotated, Any

from cyclopts import Parameter

from sartor.cli.specs import name_or_spec
from sartor.core.cost import FIELDS, Quantity
from sartor.core.errors import SpecError
from sartor.core.seams import Signature
from sartor.core.units import format_amount


def cost(
    model: str,
    /,
    *,
    input: str = "",
    measure: bool = False,
    batch: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Count, and if wanted measure, what a network costs for one image.

    Parameters
    ----------
    model
        A named network (`sartor models`) or a JSON file that holds a spec.
    input
        Channels, height and width, such as 3,224,224 (default: what the network is meant for).
    measure
        Also measure latency on every engine that runs here, and memory, with random weights.
    batch
        The batch sizes to measure at (default: 1 and 16).
    threads
        How many threads the measured engines get (default: all cores).
    json
        Write JSON.
    """
    from sartor.models.network import as_spec, count

    spec = as_spec(name_or_spec(model))
    signature = _signature(input) if input else spec.inputs
    channels, height, width = (side or 0 for side in signature.fields["image"].shape)
    spec = spec.replace(channels=channels)
    counted = count(spec, signature)
    measured = _measured(spec, height, batch or [1, 16], threads) if measure else []
    if json:
        rows = [{"engine": engine, "batch": size, **values} for engine, size, values in measured]
        print(dumps({"input": [channels, height, width], "counted": counted.to_json(), "measured": rows}, indent=2))
        return
    print(f"{'input':<12} {channels} × {height} × {width}")
    for name, amount in counted.amounts.items():
        short = format_amount(amount.value, FIELDS[name])
        print(f"{name:<12} {short:<8} {amount.value:,.0f}  {FIELDS[name].meaning}")
    for engine, size, values in measured:
        if "why" in values:
            print(f"{engine:<12} not measured: {values['why']}")
        else:
            print(f"{engine:<12} {values['latency']:<8} latency per image, batch {size}; {values['on']}")


def _signature(text: str) -> Signature:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise SpecError(f"--input {text!r} must be channels, height and width, such as 3,224,224")
    return Signature.image(*map(int, parts))


def _measured(spec: Any, size: int, batches: list[int], threads: int | None) -> list[tuple[str, int, dict[str, str]]]:
    """Engine, batch size, and latency or why there is none."""
    from sartor.runtime.latency_table import latency_table

    rows = []
    for batch in batches:
        for engine, reading in latency_table(spec, size, batch, threads).items():
            quantity = Quantity("latency", "", batch)
            amount = reading.cost.get(quantity)
            if amount is None:
                rows.append((engine, batch, {"why": reading.why}))
            else:
                rows.append((engine, batch, {"latency": format_amount(amount.value, quantity.kind), "on": amount.on}))
    return rows
