"""The commands that read a run, and what they say to wrong input: one line, exit code 2."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

from sartor.cli.app import COMMANDS, main
from sartor.training.recipe import read_recipe, recipe


@pytest.fixture
def said(capsys):
    """Runs a command; gives its standard output."""

    def run(*arguments):
        main([str(a) for a in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail by exit code 2; gives its one line."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        assert end.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("sartor: ")
        return lines[0]

    return run


def test_every_command_explains_itself(capsys):
    for name in COMMANDS:
        main([name, "--help"])
        assert "Usage: sartor" in capsys.readouterr().out


def test_predict(said, job, pictures):
    files = sorted((pictures / "zwei Wörter\nund eine Zeile").iterdir())[:3]
    lines = said("predict", job.folder, *files).splitlines()
    assert len(lines) == 3  # newlines in names are written as escapes
    answers = [json.loads(line) for line in said("predict", job.folder / "best", *files, "--json").splitlines()]
    assert [a["file"] for a in answers] == [str(f) for f in files]
    assert all(abs(sum(a["probabilities"].values()) - 1) < 1e-6 for a in answers)


def test_predict_goes_on_after_a_bad_file(job, pictures, capsys):
    folder = pictures / "<script>alert(1)<"
    with pytest.raises(SystemExit) as end:
        main(["predict", str(job.folder), str(folder / "text.png"), str(folder / "whole.jpg")])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert "whole.jpg" in shown.out
    assert "text.png" in shown.err.splitlines()[0]
    assert "1 file could not be read" in shown.err.splitlines()[1]


def test_front(said, job):
    members = json.loads(said("front", job.folder, "--json"))["members"]
    assert [m["best"] for m in members].count(True) == 1
    table = said("front", job.folder)
    assert all(m["id"] in table for m in members)


def test_export(said, refused, job, tmp_path):
    assert said("export", job.folder, "--to", tmp_path / "out").strip() == str(tmp_path / "out")
    assert {"model.safetensors", "config.json", "model.onnx"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert "exists" in refused("export", job.folder, "--to", tmp_path / "out")
    id = next(iter(job)).candidate.id
    said("export", job.folder, "--to", tmp_path / "one", "--candidate", id[:6])
    assert "no candidates" in refused("export", job.folder, "--to", tmp_path / "two", "--candidate", "zzz")


def test_report(said, job):
    before = job.report.read_bytes()
    assert said("report", job.folder).strip() == str(job.report)
    assert job.report.read_bytes() == before


def test_cost(said, refused):
    assert "19,436,338" in said("cost", "regnety_032", "--input", "3,224,224")
    counted = json.loads(said("cost", "regnety_032", "--json"))["counted"]
    assert counted["params"]["value"] == 19_436_338
    assert "regnety_032" in refused("cost", "regnety_32")
    assert "3,224,224" in refused("cost", "regnety_032", "--input", "224")


def test_measured_cost(said):
    rows = json.loads(
        said("cost", "resnet20_cifar", "--measure", "--batch", "1", "--threads", "1", "--json")
    )["measured"]  # fmt: skip
    assert {"eager", "folded", "onnx", "training"} <= {row["engine"] for row in rows if "value" in row}
    assert {"latency", "peak_memory", "train_memory"} == {row["quantity"] for row in rows}


def test_lists(said, refused):
    assert "regnetx_032" in said("models", "regnetx*").splitlines()
    assert "rsb-a3" in said("recipes").splitlines()
    shown = tomllib.loads(said("recipes", "rsb-a3"))
    assert read_recipe(shown, "rsb-a3") == recipe("rsb-a3")
    assert "deit_tiny_patch16_224" in refused("models", "zzz*")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fit", "nowhere"), "nowhere"),
        (("fit", "digits", "--budget", "parms<1k"), "params"),
        (("fit", "digits", "--budget", "latency<3"), "ms"),
        (("fit", "digits", "--time", "soon"), "10m"),
        (("fit", "digits", "--families", "resnets"), "resnet"),
        (("fit", "digits", "--tme", "3s"), "--tme"),
        (("fit",), "DATA"),
        (("train", "resnet20_cifr", "digits"), "resnet20_cifar"),
        (("train", "resnet20_cifar", "digits", "--recipe", "rsb-a"), "rsb-a1"),
        (("train", "resnet20_cifar", "digits", "--set", "rl=3"), "lr"),
        (("train", "no.json", "digits"), "no.json"),
        (("predict", "nowhere", "x.png"), "nowhere"),
        (("front", "nowhere"), "nowhere"),
        (("report", "nowhere"), "nowhere"),
        (("export", "nowhere", "--to", "x"), "nowhere"),
        (("recipes", "rsb-a"), "rsb-a1"),
        (("fits", "digits"), "fit"),
    ],
)
def test_wrong_input_is_answered_in_one_line(arguments, says, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*arguments)
    assert not list(tmp_path.rglob("*.sqlite"))


def test_the_package_is_the_command():
    said = subprocess.run([sys.executable, "-m", "sartor", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == version("sartor")


def test_a_coordinate_check_tells_powers_and_draws(said, tmp_path):
    out = tmp_path / "check.svg"
    spec = tmp_path / "mlp.json"
    spec.write_text('{"kind": "residual-mlp", "width": 16, "depth": 4, "size": [6, 6]}')
    options = "--depths", 1, 4, "--widths", 1, 2, "--steps", 2, "--seeds", 1, "--out", out
    lines = said("coord-check", spec, *options).splitlines()
    powers = {line.split()[0]: float(line.split()[3]) for line in lines if "power" in line.split()[1:2]}
    assert powers["standard"] > powers["depth-mup"]
    assert out.read_text().count("times the depth") == 2
    assert lines[-1] == f"picture  {out}"


def test_pretrain_then_train_from_it_on_few_labels(said, refused, tmp_path):
    run = tmp_path / "run"
    line = said(
        "pretrain", "digits", "--model", "resnet20_cifar", "--method", "byol", "--epochs", 0.2, "--out", run,
        "--set", "method.hidden=8",
    )  # fmt: skip
    assert line.startswith("byol: resnet20_cifar on 1,294 images of digits, 2 steps")
    assert {p.name for p in (run / "backbone").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    again = said(
        "pretrain", "digits", "--model", "resnet20_cifar", "--method", "byol", "--epochs", 0.2, "--out", run,
        "--set", "method.hidden=8",
    )  # fmt: skip
    assert again == line
    assert "begun with" in refused("pretrain", "digits", "--model", "resnet32_cifar", "--out", run)
    tuned = tmp_path / "tuned"
    said("train", "digits", "--from", run, "--labels", 0.1, "--epochs", 1, "--head-only", "--out", tuned)
    from sartor.runs.results import Result

    task = Result(tuned).facts["task"]
    assert task["splits"] == {"train": 129, "valid": 144, "test": 359}
    assert "trained with the labels of 129 of 1,294 images" in task["notices"]
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (run / "backbone", tuned / "best"))
    differing = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert differing == {"fc.weight", "fc.bias"}


def test_what_pretrain_and_train_refuse(refused, tmp_path):
    assert "moco-v2" in refused("pretrain", "digits", "--model", "resnet20_cifar", "--method", "moco")
    out = tmp_path / "mae"
    assert "use a ViT" in refused("pretrain", "digits", "--model", "resnet20_cifar", "--method", "mae", "--out", out)
    assert not out.exists()
    assert "finished run" in refused("train", "digits", "--from", tmp_path)
    assert "DATA alone" in refused("train", "resnet20_cifar")
    assert "share of the training labels" in refused("train", "resnet20_cifar", "digits", "--labels", 2)
    assert "no batch norms" in refused("train", "resnet20_cifar", "digits", "--reset-bn")


def test_tile(said, refused, tmp_path):
    from PIL import Image

    (tmp_path / "slides").mkdir()
    Image.new("RGB", (64, 40), "purple").save(tmp_path / "slides" / "a.png")
    said("tile", tmp_path / "slides", "--out", tmp_path / "tiles", "--um", 16, "--mpp", 0.5, "--side", 8)
    assert {p.name for p in (tmp_path / "tiles").iterdir()} == {"a_0_0.png", "a_32_0.png", "tiles.csv"}
    assert "give --mpp" in refused("tile", tmp_path / "slides", "--out", tmp_path / "more")
    assert "too small" in refused("tile", tmp_path / "slides", "--out", tmp_path / "more", "--mpp", 0.5)
