"""From nothing to a first answer: fresh interpreters that import, or print help, side by side."""

import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.measure import Ratio, race
from benchmarks.table import Table

STARTS = {
    "python": ["-c", "pass"],
    "import sartor": ["-c", "import sartor"],
    "sartor --help": ["-m", "sartor", "--help"],
    "import sartor.runtime": ["-c", "import sartor.runtime"],
    "import onnxruntime": ["-c", "import onnxruntime"],
    "import torch": ["-c", "import torch"],
    "import timm": ["-c", "from benchmarks.peers import import_peer; import_peer('timm')"],
}


def bench(options: Any, limits: dict[str, float]) -> Table:
    table = Table("startup", "Start-up of a fresh process", "")
    times = race({name: lambda a=arguments: _run(a) for name, arguments in STARTS.items()}, options.rounds)
    for name, taken in times.items():
        row = {"start": name, "seconds": statistics.median(taken), "timm takes": Ratio.of(times["import timm"], taken)}
        table.rows.append(row)
    return table


def _run(arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
