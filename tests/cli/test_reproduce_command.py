import json

import pytest

from sartor.cli.app import main
from sartor.reproduce import table
from sartor.reproduce.reproduction import MEASURED, Part, Reproduction, Result


def made_up(passed):
    def run(conditions):
        conditions.say("1 of 1: trained")
        return Result("one is less than two.", passed, {"Numbers": [{"network": "a", "error": "1"}]})

    return Reproduction("made-up", "Made up", {"rule": Part("A rule", run), "more": Part("More", run, optional=True)})


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=[True, False])
def passed(request, monkeypatch):
    monkeypatch.setattr(table, "REPRODUCTIONS", {"made-up": made_up(request.param)})
    return request.param


def run(*arguments):
    """The exit code."""
    try:
        main(["reproduce", *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_exit_code_is_the_outcome(passed, tmp_path, capsys):
    assert run("made-up", "--seeds", "2") == (0 if passed else 1)
    shown = capsys.readouterr()
    assert f"{'passed' if passed else 'failed'}: one is less than two." in shown.out
    assert "1 of 1: trained" in shown.err
    folder = tmp_path / "runs" / "reproduce-made-up"
    assert json.loads((folder / "rule.json").read_text())["passed"] is passed
    assert not (folder / "more.json").exists()


def test_a_card_is_filled_with_what_is_there(passed, tmp_path, capsys):
    (tmp_path / "card.md").write_text("\n".join(MEASURED))
    run("made-up", "--out", "out")
    capsys.readouterr()
    assert run("made-up", "--out", "out", "--card", "card.md") == 0
    assert capsys.readouterr().out == ""  # nothing is run
    assert "one is less than two." in (tmp_path / "card.md").read_text()


def test_without_a_name_all_are_listed(capsys):
    assert run() == 0
    text = capsys.readouterr().out
    assert [name in text for name in ("resnext", "wide-resnet", "preact-resnet", "regnet")] == [True] * 4
    assert "(optional)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnets"], "unknown reproduction 'resnets': did you mean"),
        (
            ["regnet", "--part", "populations"],
            "reproduction regnet: unknown part 'populations': did you mean population",
        ),
        (["regnet", "--seeds", "0"], "--seeds and --workers must be at least 1"),
        (["regnet", "--part", "population"], "set SARTOR_DATA to the folder that holds images/cifar10"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, monkeypatch, arguments, words):
    monkeypatch.delenv("SARTOR_DATA", raising=False)
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_an_exact_part_runs_from_the_command_line(tmp_path, capsys):
    assert run("regnet", "--part", "exact", "--out", "out") == 0
    assert "passed: 24 of 24 models" in capsys.readouterr().out
    assert (tmp_path / "out" / "exact-activations.svg").exists()
