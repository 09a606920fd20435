from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import CountingMethod, NumberTask

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.runs.executor import LocalExecutor

FAR = 1e12


def executor(folder: Path, method: CountingMethod, slots: int = 2) -> LocalExecutor:
    return LocalExecutor(folder, NumberTask, {method.name: method}, slots, lambda *_: None)


def test_a_wave_comes_back_in_the_order_asked_whatever_happens_to_its_members(tmp_path: Path) -> None:
    method, finished = CountingMethod(), list[Candidate]()
    proposals = method.propose(NumberTask(), Budget(), [], 0)
    workers = executor(tmp_path, method)
    try:
        ended = workers.run(proposals, finished=finished.append, deadline=FAR)
    finally:
        workers.close()
    assert [c.id for c in ended] == [Candidate.of(p).id for p in proposals]
    assert [c.state for c in ended] == ["done", "done", "done", "failed", "failed", "failed"]
    assert ended[3].why == "four cannot be made"
    assert "SIGKILL" in ended[4].why
    assert ended[5].why == "ZeroDivisionError: six"
    assert "ZeroDivisionError" in (tmp_path / "work" / ended[5].id / "traceback.txt").read_text()
    assert {c.id for c in finished} == {c.id for c in ended}
    assert [c.quality.values["closeness"] for c in ended if c.quality] == [-9.0, -8.0, -7.0]
    for c in ended[:3]:
        assert c.artifact is not None
        assert (tmp_path / c.artifact.path / "value.json").is_file()
    assert sorted(p.name for p in (tmp_path / "artifacts").iterdir()) == sorted(c.id for c in ended[:3])


def test_what_cannot_begin_in_time_is_left_out(tmp_path: Path) -> None:
    method = CountingMethod()
    workers = executor(tmp_path, method)
    proposals = method.propose(NumberTask(), Budget(), [], 0)
    assert workers.run(proposals, finished=lambda _: None, deadline=time.time() - 1) == []
    workers.close()


def test_an_interrupted_worker_stops_and_leaves_no_artifact(tmp_path: Path) -> None:
    method = CountingMethod(slow=60.0)
    workers = executor(tmp_path, method, slots=1)
    proposals = method.propose(NumberTask(), Budget(), [], 0)[:1]
    begun = threading.Event()
    workers.on_progress = lambda *_: begun.set()
    thread = threading.Thread(target=lambda: workers.run(proposals, finished=lambda _: None, deadline=FAR))
    thread.daemon = True
    thread.start()
    assert begun.wait(60)
    process = workers._workers[0].process
    workers._workers[0].pipe.send("stop")
    thread.join(30)
    assert not thread.is_alive()
    assert not list((tmp_path / "artifacts").iterdir())
    workers.close()
    assert not process.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_their_driver(tmp_path: Path) -> None:
    script = f"""
import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from fakes import CountingMethod, NumberTask
from sartor.core.budget import Budget
from sartor.runs.executor import LocalExecutor
if __name__ == "__main__":
    m = CountingMethod(slow=600.0)
    def tell(*_):
        print(w._workers[0].process.pid, flush=True)
    w = LocalExecutor(Path({str(tmp_path)!r}), NumberTask, {{m.name: m}}, 1, tell)
    w.run(m.propose(NumberTask(), Budget(), [], 0)[:1], finished=print, deadline=1e12)
"""
    path = tmp_path / "driver.py"
    path.write_text(script)
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        driver.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < until, "the worker outlived its driver"
        time.sleep(0.05)
