"""``python -m benchmarks [names] [--threads N] [--rounds N]``: race against peers, print and keep the tables."""

import argparse
import os
import shlex
import sys
from importlib import import_module

BENCHES = ("inference", "training", "counting", "semantic", "startup", "promise")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="of every contestant (default: one for each core)")
    parser.add_argument("--rounds", type=int, default=9, help="of each interleaved race")
    parser.add_argument("--models", nargs="*", default=[], help="to race with, instead of each bench's own")
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHES:
            parser.error(f"no bench is called {name!r}: use {', '.join(BENCHES)}")
    from sartor.core.machine import cores

    threads = options.threads or cores()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch and onnxruntime are imported, here and in children

    import torch

    from benchmarks.measure import limits
    from sartor.cost.meters import on_machine

    torch.set_num_threads(threads)
    facts = {"machine": on_machine(threads), "limits": limits()}
    print(f"{facts['machine']}; at most {', '.join(f'{key} {value:.0f}' for key, value in facts['limits'].items())}")
    for name in options.names or BENCHES:
        table = import_module(f"benchmarks.{name}").bench(options, facts["limits"])
        table.command = shlex.join(["python", "-m", "benchmarks", name, *(a for a in sys.argv[1:] if a not in BENCHES)])
        print(f"\n{table.markdown()}", flush=True)
        table.save(facts)


if __name__ == "__main__":
    main()
