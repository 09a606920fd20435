"""``sartor cost``."""

from __future__ import annotations

from itertools import product
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sartor.cli.specs import name_or_spec
from sartor.core.cost import FIELDS, Quantity
from sartor.core.errors import SpecError
from sartor.core.machine import cores, machine
from sartor.core.seams import Signature
from sartor.core.units import format_amount

if TYPE_CHECKING:
    from sartor.cost.meters import Reading


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
        Also measure, with random weights, latency on every engine that runs here and memory of serving and training.
    batch
        The batch sizes to measure at (default: 1 and 16).
    threads
        How many threads are used in measuring (default: first one, then one for each core).
    json
        Write JSON.
    """
    from sartor.models.network import as_spec, count

    spec = as_spec(name_or_spec(model))
    signature = _signature(input) if input else spec.inputs
    channels, height, width = (side or 0 for side in signature.fields["image"].shape)
    if measure and height != width:
        raise SpecError(f"--measure times square images, not {height} × {width}; give --input equal sides")
    spec = spec.replace(channels=channels)
    counted = count(spec, signature)
    measured = _measured(spec, height, batch or [1, 16], threads) if measure else []
    if json:
        found = {"input": [channels, height, width], "counted": counted.to_json(), "measured": measured}
        print(dumps(found, indent=2))
        return
    print(f"{'input':<12} {channels} × {height} × {width}")
    for name, amount in counted.amounts.items():
        short = format_amount(amount.value, FIELDS[name])
        print(f"{name:<12} {short:<8} {amount.value:,.0f}  {FIELDS[name].meaning}")
    for row in measured:
        how = f"{row['what']}, batch {row['batch']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        if "why" in row:
            print(f"{row['engine']:<12} {how}: not measured, {row['why']}")
        else:
            print(f"{row['engine']:<12} {format_amount(row['value'], Quantity.parse(row['quantity']).kind):<8} {how}")
    if measured:
        print(f"{'measured on':<12} {machine()}")


def _signature(text: str) -> Signature:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise SpecError(f"--input {text!r} must be channels, height and width, such as 3,224,224")
    return Signature.image(*map(int, parts))


def _measured(spec: Any, size: int, batches: list[int], threads: int | None) -> list[dict[str, Any]]:
    """Rows of engine, what, batch, threads, and quantity with value (ms or bytes) and spread, or why there is none."""
    from sartor.runtime.latency_table import latency_table, serving_memory, training_memory, untrained

    rows, most = [], threads or cores()
    with untrained(spec, size) as folder:
        for count, batch in product([threads] if threads else sorted({1, cores()}), batches):
            for engine, reading in latency_table(folder, batch, count).items():
                what = "latency per image", Quantity("latency", "", batch)
                rows.append(_row(engine, *what, batch, count, reading))
        for batch in batches:
            reading = serving_memory(folder, batch, most)
            rows.append(_row("eager", "memory of serving", Quantity("peak_memory", "", batch), batch, most, reading))
    for batch in batches:
        reading = training_memory(spec, size, batch, most)
        rows.append(_row("training", "memory of a training step", Quantity("train_memory"), batch, most, reading))
    return rows


def _row(engine: str, what: str, quantity: Quantity, batch: int, threads: int, reading: Reading) -> dict[str, Any]:
    amount = reading.cost.get(quantity)
    found = {"why": reading.why} if amount is None else {"value": amount.value, "spread": amount.spread}
    return {"engine": engine, "what": what, "quantity": str(quantity), "batch": batch, "threads": threads, **found}
