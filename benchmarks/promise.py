"""Whether what was measured once holds when it is measured again, each time in a fresh process."""

import statistics
from functools import partial
from typing import Any

from benchmarks.table import Table
from sartor.core.cost import Amount
from sartor.cost.meters import latency, peak_memory
from sartor.models.network import spec_of
from sartor.runtime.latency_table import open_bare, pictures, untrained

MODELS = ("resnet20_cifar", "resnet56_cifar", "resnet18")
ENGINES = ("onnx", "eager", "packed")
PROCESSES = 20


def bench(options: Any, limits: dict[str, float]) -> Table:
    """``covered`` is the share of ordered pairs of processes where one's figure is at most the other's upper end."""
    table = Table("promise", f"Measured again in {PROCESSES} fresh processes", "")
    for name in options.models or MODELS:
        spec = spec_of(name)
        with untrained(spec, spec.size[0]) as folder:
            openers = [partial(open_bare, folder, engine) for engine in ENGINES]
            raw = list(pictures(16, folder))
            readings = [latency(openers, raw, threads=options.threads or None) for _ in range(PROCESSES)]
            for engine, repeated in zip(ENGINES, zip(*readings, strict=True), strict=True):
                for quantity in ("latency", "latency.p95"):
                    table.rows.append(_row(name, engine, quantity, [r.cost.amounts[quantity] for r in repeated]))
            memory = [peak_memory(openers[0], raw, threads=options.threads or None) for _ in range(PROCESSES // 2)]
            table.rows.append(_row(name, ENGINES[0], "peak_memory", [r.cost.amounts["peak_memory"] for r in memory]))
    for quantity in ("latency", "latency.p95", "peak_memory"):
        shares = [row["covered"] for row in table.rows if row["quantity"] == quantity]
        table.summary[f"{quantity} covered"] = statistics.mean(shares)
    return table


def _row(model: str, engine: str, quantity: str, amounts: list[Amount]) -> dict[str, Any]:
    values = [amount.value for amount in amounts]
    pairs = [(i, j) for i in range(len(amounts)) for j in range(len(amounts)) if i != j]
    return {
        "model": model,
        "engine": engine,
        "quantity": quantity,
        "median": statistics.median(values),
        "unit": amounts[0].unit,
        "slowest over fastest": max(values) / min(values),
        "width": statistics.median(amount.upper / amount.value for amount in amounts),
        "covered": sum(values[j] <= amounts[i].upper for i, j in pairs) / len(pairs),
    }
