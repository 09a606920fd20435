import json
import re

import pytest

from sartor.core.errors import RunError, SartorError
from sartor.reproduce.reproduction import MEASURED, Conditions, Part, Reproduction, Result, fill_card, reproduce


def part(passed, exact=False, optional=False):
    def run(conditions):
        rows = [{"network": "a|b", "error": "1.0"}, {"network": "c", "error": "2.0"}]
        return Result("as it should be.", passed, {"Errors": rows}, {"curve": "<svg/>"}, {"seeds": conditions.seeds})

    return Part("A part", run, exact, optional)


MADE_UP = Reproduction(
    "made-up",
    "Made up",
    {"exact": part(True, exact=True), "open": part(None), "rule": part(False), "more": part(True, optional=True)},
)


def test_results_are_written_beside_their_pictures(tmp_path):
    content = reproduce(MADE_UP, "rule", Conditions(tmp_path, seeds=2))
    assert json.loads((tmp_path / "rule.json").read_text()) == content
    assert content["passed"] is False
    assert content["command"] == "sartor reproduce made-up --part rule --seeds 2"
    assert content["data"] == {"seeds": 2}
    assert (tmp_path / "rule-curve.svg").read_text() == "<svg/>"
    page = (tmp_path / "result.md").read_text()
    assert "**Failed.** as it should be." in page
    assert r"| a\|b | 1.0 |" in page
    assert "![A part: curve](rule-curve.svg)" in page


def test_parts_measured_at_different_times_make_one_page(tmp_path):
    for name in ("rule", "exact"):
        reproduce(MADE_UP, name, Conditions(tmp_path))
    page = (tmp_path / "result.md").read_text()
    assert re.findall(r"--part (\w+)`", page) == ["exact", "rule"]


def test_quick_runs_judge_what_is_exact_alone(tmp_path):
    found = {name: reproduce(MADE_UP, name, Conditions(tmp_path, quick=True)) for name in MADE_UP.parts}
    assert {name: content["passed"] for name, content in found.items()} == {
        "exact": True, "open": None, "rule": None, "more": None,
    }  # fmt: skip
    assert found["rule"]["verdict"].startswith("A quick run is no evidence")
    assert found["rule"]["command"].endswith("--quick")


def test_optional_parts_are_run_when_named():
    assert MADE_UP.chosen(()) == ["exact", "open", "rule"]
    assert MADE_UP.chosen(["more"]) == ["more"]
    with pytest.raises(SartorError, match="unknown part 'exat': did you mean exact"):
        MADE_UP.chosen(["exat"])


def test_a_card_takes_the_results_between_its_marks(tmp_path):
    card = tmp_path / "papers" / "99-made-up.md"
    card.parent.mkdir()
    card.write_text(f"# Card\n\n{MEASURED[0]}\nold\n{MEASURED[1]}\n\nafter\n")
    reproduce(MADE_UP, "exact", Conditions(tmp_path / "run"))
    fill_card(card, MADE_UP, tmp_path / "run")
    once = card.read_text()
    assert "**Passed.**" in once
    assert "old" not in once
    assert once.startswith("# Card\n")
    assert once.endswith(f"{MEASURED[1]}\n\nafter\n")
    picture = re.search(r"\]\((figures/.+\.svg)\)", once)[1]
    assert (card.parent / picture).read_text() == "<svg/>"
    fill_card(card, MADE_UP, tmp_path / "run")
    assert card.read_text() == once


def test_a_card_takes_no_quick_results(tmp_path):
    card = tmp_path / "card.md"
    card.write_text("\n".join(MEASURED))
    with pytest.raises(RunError, match="holds no result"):
        fill_card(card, MADE_UP, tmp_path)
    reproduce(MADE_UP, "exact", Conditions(tmp_path, quick=True))
    with pytest.raises(RunError, match="quick results"):
        fill_card(card, MADE_UP, tmp_path)


def test_a_card_needs_its_marks(tmp_path):
    reproduce(MADE_UP, "exact", Conditions(tmp_path))
    with pytest.raises(RunError, match="no such file"):
        fill_card(tmp_path / "card.md", MADE_UP, tmp_path)
    (tmp_path / "card.md").write_text(MEASURED[0])
    with pytest.raises(RunError, match="has no place for results"):
        fill_card(tmp_path / "card.md", MADE_UP, tmp_path)
