"""Counting what networks cost: arithmetic on specs against running the network with hooks on its layers."""

import time
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Ratio, race
from benchmarks.peers import MODELS, import_peer
from benchmarks.table import Table
from sartor.core.rng import generator
from sartor.models.network import count, spec_of
from sartor.models.vision.regnet import regnet

SPECS = 2000


def bench(options: Any, limits: dict[str, float]) -> Table:
    """Both count the same layers; building the network is timed apart, as tracers need it and counting does not."""
    table = Table("counting", "Counting parameters and multiply-adds against tracing timm's network", "")
    timm = import_peer("timm")
    for name in options.models or MODELS:
        spec = spec_of(name)
        theirs = timm.create_model(name).eval()
        times = race(
            {"trace": lambda m=theirs: _trace(m), "build and trace": lambda n=name: _trace(timm.create_model(n).eval()),
             "count": lambda s=spec: count(s)}, max(3, options.rounds // 3),
        )  # fmt: skip
        traced, counted = _trace(theirs), count(spec).value("macs")
        table.rows.append(
            {
                "model": name,
                "trace ms": 1e3 * min(times["trace"]),
                "count ms": 1e3 * min(times["count"]),
                "faster": Ratio.of(times["trace"], times["count"]),
                "with building": Ratio.of(times["build and trace"], times["count"]),
                "equal": traced == counted,
            }
        )
    table.summary = {"distinct specs counted per second": _rate(SPECS)}
    return table


def _trace(network: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers, by hooks in one forward pass, as tracing counters do."""
    total = 0

    def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
    for handle in handles:
        handle.remove()
    return total


def _rate(size: int) -> float:
    """Specs counted in a second: RegNets drawn at random, all different."""
    rng, specs = generator("counting"), []
    while len(specs) < size:
        depth, w0 = int(rng.integers(12, 28)), 8 * int(rng.integers(3, 32))
        wa, wm = float(rng.uniform(8, 128)), float(rng.uniform(2.0, 3.0))
        specs.append(regnet(depth, w0, wa, wm, 8 * int(rng.integers(1, 8))))
    began = time.perf_counter()
    for spec in specs:
        count(spec)
    return len(specs) / (time.perf_counter() - began)
