"""Servables that are slow, large or broken, opened by functions that a process of its own can import."""

import os
import signal
import sys
import time

import numpy as np


class Sleeper:
    """Takes ``seconds`` for each example, and holds ``megabytes`` from when it is opened."""

    def __init__(self, seconds=0.0, megabytes=0):
        self.seconds, self.held = seconds, np.ones(megabytes * 2**17)

    def predict(self, raw):
        time.sleep(self.seconds * len(raw))
        return [{"index": 0} for _ in raw]


class Broken(Sleeper):
    def predict(self, raw):
        raise ValueError("cannot answer\nat all")


def crash(how):
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        print("a last word", file=sys.stderr)
        os._exit(7)
    if how == "hang":
        time.sleep(60)
    raise RuntimeError("no such model\nmore lines")


def threads():
    return [os.environ["OMP_NUM_THREADS"], "pytest" in sys.modules]


def make_step(megabytes):
    held = []
    return lambda: held.append(np.ones(megabytes * 2**17)) if len(held) < 2 else None
