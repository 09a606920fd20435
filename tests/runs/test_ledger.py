from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import CountingMethod, NumberTask

from sartor.core.budget import Budget
from sartor.core.candidate import Artifact, Candidate, Quality
from sartor.core.cost import Amount, Cost
from sartor.core.errors import RunError
from sartor.runs.ledger import Ledger
from sartor.runs.run import Run

PROPOSALS = CountingMethod().propose(NumberTask(), Budget(), [], 0)


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    waiting = [Candidate.of(p) for p in PROPOSALS]
    ledger.ask(waiting)
    done = waiting[1].having(
        state="done",
        quality=Quality({"accuracy": 0.5, "loss": 1.25}, "valid", 10),
        cost=waiting[1].cost | Cost({"latency": Amount(1.5, "ms", "measured", "here", 0.1)}),
        artifact=Artifact("artifacts/x", 3, "abc"),
    )
    ledger.put(done, used=12.5)
    ledger.keep(task={"classes": ["a"]}, plan=None)
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite", write=False)
    assert again.candidates() == [waiting[0], done, *waiting[2:]]
    assert (again.used(), again.fact("task"), again.fact("plan"), again.fact("none")) == (
        12.5,
        {"classes": ["a"]},
        None,
        None,
    )
    assert again.events()[-1][1] == done.id


def test_waves_keep_their_order_and_asking_twice_changes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    first, second = [Candidate.of(p) for p in PROPOSALS[:3]], [Candidate.of(p) for p in PROPOSALS[3:]]
    assert ledger.ask(first) == 0
    assert ledger.ask(second) == 1
    ledger.ask(first)
    assert [[c.id for c in wave] for wave in ledger.waves()] == [[c.id for c in first], [c.id for c in second]]


def test_what_is_no_ledger_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be looked at" * 40)
    with pytest.raises(RunError, match="cannot be opened"):
        Ledger(tmp_path / "text.sqlite")
    later = sqlite3.connect(tmp_path / "later.sqlite")
    later.execute("PRAGMA user_version=99")
    later.close()
    with pytest.raises(RunError, match="later version"):
        Ledger(tmp_path / "later.sqlite")
    with pytest.raises(RunError, match="not a run directory"):
        Run(tmp_path / "nowhere")


def test_the_second_writer_is_refused_and_a_dead_ones_lock_is_reclaimed(tmp_path: Path) -> None:
    hold = f"""
import time
from sartor.runs.run import Run
run = Run({str(tmp_path / "run")!r}, write=True)
print("locked", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            Run(tmp_path / "run", write=True)
        Run(tmp_path / "run").close()  # readers are welcome
        holder.kill()
    Run(tmp_path / "run", write=True).close()


def test_a_run_is_tied_to_its_command(tmp_path: Path) -> None:
    with Run(tmp_path / "run", write=True) as run:
        assert run.bind({"budget": "params<1k", "seed": 0})
    with Run(tmp_path / "run", write=True) as run:
        assert not run.bind({"budget": "params<1k", "seed": 0})
        with pytest.raises(RunError, match="begun with seed 0, not 1"):
            run.bind({"budget": "params<1k", "seed": 1})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not a run directory"):
        Run(tmp_path, write=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_kill_in_the_middle_of_writing_leaves_whole_candidates(tmp_path: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from fakes import CountingMethod, NumberTask
from sartor.core.budget import Budget
from sartor.core.candidate import Candidate, Quality
from sartor.runs.ledger import Ledger
m = CountingMethod()
ledger = Ledger(Path({str(tmp_path / "ledger.sqlite")!r}))
print("go", flush=True)
for number in range(10**9):
    c = Candidate.of(m.proposal(NumberTask(), number, 0))
    ledger.ask([c])
    ledger.put(c.having(state="done", quality=Quality({{"a": 1.0, "b": 2.0}}, "valid", 1)))
"""
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            try:
                writer.wait(0.15)
            except subprocess.TimeoutExpired:
                writer.kill()
        for c in Ledger(tmp_path / "ledger.sqlite").candidates():
            assert (c.state == "done") == (c.quality is not None and len(c.quality.values) == 2)
