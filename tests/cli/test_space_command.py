import json
import re

import pytest

from sartor.cli.app import main
from sartor.core import machine

SWEEP = """
name = "small"
configs = 3
settings = { epochs = 1 }
[network]
space = "anynet_c"
image = [1, 8, 8]
classes = 10
stem = "res_stem_cifar"
stem_width = 8
stages = 2
ranges = { depth = [1, 2], width = [8, 16], group_width = [4, 8] }
"""


@pytest.fixture(autouse=True)
def alone(tmp_path_factory, tmp_path, monkeypatch):
    """In this process, with a cache of its own."""
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.chdir(tmp_path)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["space", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_without_data_networks_are_counted(tmp_path, capsys):
    main(["space", "regnety", "--sample", "12", "--macs", "200M-400M", "--params", "0,8M", "--seed", "5"])
    folder = tmp_path / "runs" / "space-regnety"
    found = lines(folder / "records.jsonl")
    assert len(found) == 12
    assert all(2e8 <= r["complexity"]["macs"] <= 4e8 and r["complexity"]["params"] <= 8e6 for r in found)
    assert "error" not in found[0]
    assert "multiply-adds" in capsys.readouterr().out
    page = (folder / "index.html").read_text()
    assert "12 different networks drawn with seed 5, at least 200M multiply-adds" in page
    main(["space", "regnety", "--sample", "12", "--macs", "200M,400M", "--params", "0-8M", "--seed", "5", "--out", "b"])
    assert lines(tmp_path / "b" / "records.jsonl") == found


def test_with_data_they_are_trained_and_go_on_where_they_were(tmp_path, capsys):
    command = ["space", "resnet", "--sample", "3", "--data", "digits", "--epochs", "1", "--macs", "0-300k"]
    main([*command, "--out", "out"])
    table = capsys.readouterr().out
    found = lines(tmp_path / "out" / "records.jsonl")
    assert [r["index"] for r in found] == [0, 1, 2]
    assert all(0 <= r["error"] <= 1 and len(r["curve"]) == 1 for r in found)
    best = min(found, key=lambda r: r["error"])
    assert re.search(rf"{best['index']} +{100 * best['error']:.2f} %", table)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "records").glob("*.json")}
    lost = tmp_path / "out" / "records" / "000001.json"
    lost.unlink()
    main([*command, "--out", "out"])
    again = lines(tmp_path / "out" / "records.jsonl")
    assert [{**r, "seconds": 0} for r in again] == [{**r, "seconds": 0} for r in found]
    assert all(p.stat().st_mtime_ns == kept[p] for p in kept if p != lost)
    assert "trained on other data or otherwise" in refused(
        capsys, *command[1:-4], "--epochs", "2", "--macs", "0-300k", "--out", "out"
    )


def test_a_sweep_file_is_read(tmp_path):
    (tmp_path / "small.toml").write_text(SWEEP)
    main(["space", "small.toml", "--data", "digits", "--sample", "2"])
    found = lines(tmp_path / "runs" / "space-small" / "records.jsonl")
    assert len(found) == 2
    assert all(r["network"]["total_depth"] <= 4 and "error" in r for r in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["regnetz"], "unknown design space 'regnetz': did you mean"),
        (["regnetx", "--macs", "100M"], "must be two amounts, such as 100M-200M"),
        (["regnetx", "--macs", "2M-1M"], "the first amount must not be more"),
        (["regnetx", "--params", "1ms-2ms"], "--params: '1ms' is not an amount"),
        (["regnetx", "--image", "3,32"], "must be channels, height and width"),
        (["regnetx", "--sample", "0"], "--sample must be at least 1"),
        (["regnetx", "--data", "digits", "--classes", "3"], "digits has images of 1,8,8 and 10 classes"),
        (["regnetx", "--data", "nowhere"], "nowhere: no such file or folder"),
        (["missing.toml"], "sweep missing.toml"),
        (["small.toml", "--macs", "1M-2M"], "--macs: a sweep file says that itself"),
        (["wrong.toml", "--data", "digits"], "unknown field 'leraning': "),
        (["other.toml", "--data", "digits"], "is for images of (3, 8, 8) and 10 classes, but digits has (1, 8, 8)"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, capsys, arguments, words):
    (tmp_path / "small.toml").write_text(SWEEP)
    (tmp_path / "wrong.toml").write_text(SWEEP.replace("epochs = 1", "leraning = 1"))
    (tmp_path / "other.toml").write_text(SWEEP.replace("[1, 8, 8]", "[3, 8, 8]"))
    assert words in refused(capsys, *arguments)


def test_a_folder_belongs_to_one_population(capsys):
    main(["space", "regnetx", "--sample", "3", "--out", "out"])
    assert "holds other configurations" in refused(capsys, "regnetx", "--sample", "4", "--out", "out")
