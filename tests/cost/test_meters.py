"""Meters measure, and what they measure harms nobody."""

import os
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metered import Broken, Sleeper, crash, make_step, threads

from sartor.core.budget import Budget
from sartor.cost.child import MeterError, in_child
from sartor.cost.meters import Reading, interval, latency, on_machine, peak_memory, storage, train_memory

RAW = [0, 1, 2]


def test_the_slower_is_slower_and_amounts_say_how_they_were_got():
    fast, slow = latency([partial(Sleeper, 0.001), partial(Sleeper, 0.02)], RAW, threads=1, seconds=0.2)
    times = {name: [r.cost.value(name) for r in (fast, slow)] for name in ("latency", "latency.p95")}
    assert times["latency"][1] > 3 * times["latency"][0] > 3
    assert times["latency.p95"][1] >= times["latency"][1]
    amount = slow.cost.amounts["latency"]
    assert (amount.unit, amount.how, amount.on) == ("ms", "measured", on_machine(1))
    assert amount.upper >= 1.1499 * amount.value
    assert Budget.parse("latency<19ms").verdict(slow.cost) == "out"


def test_a_batch_is_counted_per_example():
    (reading,) = latency([partial(Sleeper, 0.005)], RAW, batch=4, threads=1, seconds=0.1)
    assert set(reading.cost) == {"latency@4", "latency.p95@4"}
    assert 5 <= reading.cost.value("latency@4") < 4 * 5


def test_one_that_fails_leaves_the_others():
    readings = latency([partial(crash, "error"), Sleeper, Broken], RAW, threads=1, seconds=0.05)
    assert [r.why for r in readings] == ["RuntimeError: no such model", "", "ValueError: cannot answer"]
    assert [bool(r.cost.amounts) for r in readings] == [False, True, False]


def test_one_that_crashes_is_told_from_the_others():
    readings = latency([partial(crash, "signal"), Sleeper], RAW, threads=1, seconds=0.05)
    assert readings[0] == Reading(why="was killed by SIGKILL, perhaps for lack of memory")
    assert readings[1].cost.value("latency") >= 0


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("signal", "was killed by SIGKILL, perhaps for lack of memory"),
        ("exit", r"ended with code 7 \(a last word\)"),
        ("hang", "was not done after 3 s"),
        ("error", "RuntimeError: no such model$"),
    ],
)
def test_failures_are_one_line(how, why):
    with pytest.raises(MeterError, match=why) as caught:
        in_child(crash, how, threads=1, timeout=3)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_sent_says_so():
    with pytest.raises(MeterError, match="cannot be sent to a process of its own"):
        in_child(lambda: 1, threads=1, timeout=3)


def test_the_child_has_its_threads_and_nothing_of_its_parent():
    assert in_child(threads, threads=3, timeout=30) == ["3", False]


def test_memory_is_what_is_added():
    small, large = (peak_memory(partial(Sleeper, 0.0, m), RAW, threads=1) for m in (1, 200))
    added = large.cost.value("peak_memory") - small.cost.value("peak_memory")
    assert added == pytest.approx(199 * 2**20, rel=0.02)
    assert large.cost.amounts["peak_memory"].upper > large.cost.value("peak_memory")
    assert "peak_memory@3" in peak_memory(Sleeper, RAW, batch=3, threads=1).cost
    assert peak_memory(partial(crash, "error"), RAW, threads=1) == Reading(why="RuntimeError: no such model")


def test_memory_of_training():
    reading = train_memory(partial(make_step, 50), threads=1)
    assert reading.cost.value("train_memory") == pytest.approx(100 * 2**20, rel=0.1)


def test_storage_counts_the_named_files(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x" * 1000)
    (tmp_path / "config.json").write_bytes(b"x" * 10)
    (tmp_path / "README.md").write_bytes(b"x" * 99)
    assert storage(tmp_path, ["model.onnx", "config.json"]).cost.value("storage") == 1010
    missing = storage(tmp_path, ["model.safetensors"])
    assert "model.safetensors (No such file" in missing.why
    assert not missing.cost.amounts


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=50), st.sampled_from(["", "p95"]))
def test_the_end_of_an_interval_is_above_its_value_and_scales_with_time(calls, statistic):
    value, end = interval(calls, statistic)
    assert min(calls) <= value <= max(calls)
    assert 1.15 * value <= end * (1 + 1e-12)
    assert end <= 1.4 * max(calls) * (1 + 1e-12)
    assert interval([3 * c for c in calls], statistic) == pytest.approx((3 * value, 3 * end))


def test_a_slow_spell_widens_the_interval():
    steady, spell = np.ones(800), np.concatenate([np.ones(700), np.full(100, 2.0)])
    assert interval(steady) == pytest.approx((1.0, 1.15))
    assert interval(spell) == pytest.approx((1.0, 2.2))
    assert interval(steady, "p95") == pytest.approx((1.0, 1.4))


def test_the_meters_do_not_touch_the_caller():
    before = dict(os.environ)
    latency([Sleeper], RAW, threads=1, seconds=0.05)
    assert dict(os.environ) == before
