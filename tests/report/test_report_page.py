from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sartor.core.errors import RunError
from sartor.report.page import write_report
from sartor.runs.run import Run

MakeRun = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "hr", "input"}
NASTY = (
    "<script>alert(1)</script>",
    "a\nb",
    "\u202egnp",
    "x" * 300,
    "\"quoted\" & 'more'",
    "</script>",
    "日本語",
    "\udcff",
)
SECTIONS = ("use", "front", "learning", "cost", "test", "looked", "skipped", "again")


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order, and no id comes twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.ids = text, list[str](), list[str]()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} comes twice"
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without beginning"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def said(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def data(self) -> dict[str, object]:
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.text, re.DOTALL)
        assert found is not None
        return json.loads(found[1])


def report(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_finished_run_has_every_section(make_run: MakeRun) -> None:
    page = report(make_run())
    assert set(SECTIONS) <= set(page.ids)
    said = page.said()
    assert "recognises 98.1 % of the test images and is inside the budget params<10k, latency<2ms" in said
    assert "95 % interval 96.0 to 99.1 %, n = 360" in said
    assert 'model = ImageClassifier.open("run/best")' in said
    assert (
        "sartor fit digits --budget 'params<10k, latency<2ms' --time 90s "
        "--families regnetx resnext wide_resnet --out run" in said
    )
    assert "its smallest network has 11.2k parameters" in said
    assert "loss is nan at step 120" in said
    assert "train/0.jpg" in said
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in pairwise(headings))


def test_pictures_have_words_and_parse_as_xml(make_run: MakeRun) -> None:
    page = report(make_run())
    assert all(values.get("alt") for tag, values in page.tags if tag == "img")
    assert sum(tag == "img" for tag, _ in page.tags) == 12
    drawn = re.findall(r"<svg xmlns.*?</svg>(?=</div>|</figure>|\s*<figcaption)", page.text, re.DOTALL)
    assert len(drawn) >= 9
    for text in drawn:
        assert ElementTree.fromstring(text.replace("&nbsp;", " ")).get("aria-label")


def test_nothing_is_loaded_from_elsewhere_and_only_our_script_may_run(make_run: MakeRun) -> None:
    page = report(make_run())
    for tag, values in page.tags:
        for name in ("src", "href"):
            if value := values.get(name):
                assert value.startswith(("#", "data:image/")), (tag, value)
    assert "url(" not in page.text
    assert "@import" not in page.text
    script = page.text.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(values["content"] for _, values in page.tags if values.get("http-equiv"))
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun) -> None:
    run = make_run()
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    shutil.rmtree(run)
    assert write_report(make_run()).read_bytes() == first


def test_text_from_outside_is_shown_and_never_obeyed(make_run: MakeRun) -> None:
    run = make_run(
        classes=NASTY,
        data='my "photos"\n<b>/\u202eimg',
        facts={
            "machine": "<i>machine</i>",
            "dropped": {"<u>family</u>": "<script>why</script>"},
            "plan": {"<b>": ["</script>", {"<em>": 1}]},
        },
    )
    odd = {"where": '"><img src=x onerror=alert(1)>\n\u202e\udcff.jpg', "why": "</script><script>alert(2)</script>"}
    (run / "skipped.jsonl").write_text(json.dumps(odd) + "\n")
    page = report(run)
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in report(make_run("plain")).tags}
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert "<script>alert(1)</script>" in page.said()
    assert "\u202e" not in page.text
    assert "\\u202egnp" in page.said()
    matrix = page.data()["matrix"]
    assert isinstance(matrix, dict)
    assert matrix["classes"][0] == NASTY[0]


@pytest.mark.parametrize("classes", [2, 21, 51, 100, 101, 1000])
def test_any_number_of_classes(make_run: MakeRun, classes: int) -> None:
    run = make_run(classes=tuple(f"class {i}" for i in range(classes)), first=6)
    page = report(run)
    assert (page.data()["matrix"] is not None) == (classes <= 100)
    assert "Most frequent mistakes" in page.said()
    assert (run / "report.html").stat().st_size < 1_000_000


def test_a_large_run_stays_small(make_run: MakeRun) -> None:
    families = tuple(f"family {i} {'long ' * 50}" for i in range(60))
    names = tuple(f"{i} {'name ' * 60}" for i in range(100))
    run = make_run(classes=names, first=500, families=families, failed=100)
    judged = json.loads((run / "judged.json").read_text())
    judged["confusion"] = [[1 + (i * j) % 977 for j in range(100)] for i in range(100)]
    (run / "judged.json").write_text(json.dumps(judged))
    line = json.dumps({"where": "w" * 5000, "why": "y" * 5000}) + "\n"
    (run / "skipped.jsonl").write_text(line * 4000)
    with Run(run, write=True) as opened:
        for i in range(500):
            opened.ledger.event(f"event {i} {'z' * 3000}", 100.0 + i)
    page = report(run)
    assert (run / "report.html").stat().st_size < 2_000_000
    assert "4000 files skipped, the first 50 listed" in page.said()
    assert "weaker ones are not drawn" in page.said()


def test_an_unfinished_run_says_how_to_go_on(make_run: MakeRun) -> None:
    page = report(make_run(finished=False, chosen=False, tested=False))
    assert "This run is not finished: 24 of 26 candidates so far." in page.said()
    assert {"front", "learning", "cost"} <= set(page.ids)
    assert not {"use", "test"} & set(page.ids)


def test_a_run_in_which_nothing_fits_names_the_nearest(make_run: MakeRun) -> None:
    page = report(make_run(chosen=False, tested=False, budget="params<100"))
    assert "No candidate is within the budget params<100; the nearest has params 433." in page.said()


def test_a_run_in_which_all_failed_gives_the_reasons(make_run: MakeRun) -> None:
    page = report(make_run(chosen=False, tested=False, failed=18))
    assert "No candidate could be trained and judged" in page.said()
    assert "18 failed" in page.said()
    assert "front" not in page.ids


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    with Run(tmp_path / "new", write=True):
        pass
    page = report(tmp_path / "new")
    assert "No candidate was proposed yet." in page.said()


@pytest.mark.parametrize("part", ["judged.json", "skipped.jsonl", "best", "work", "worst"])
def test_missing_parts(make_run: MakeRun, part: str) -> None:
    run = make_run()
    path = run / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report(run)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"confusion": [[1, 2]], "classes": ["a"]}', '{"worst": [{}]}'])
def test_torn_and_odd_judgements(make_run: MakeRun, text: str) -> None:
    run = make_run()
    (run / "judged.json").write_text(text)
    (run / "skipped.jsonl").write_text('{"where": "a", "why": "b"}\nnot json\n[1]\n{"whe')
    for history in run.glob("work/*/history.jsonl"):
        history.write_text(history.read_text()[:-20] + '\n{"step": 5}\n')
    assert "1 file skipped" in report(run).said()


@pytest.mark.parametrize("fact", ["run", "versions", "machine", "task", "plan", "dropped", "winner"])
def test_missing_facts(make_run: MakeRun, fact: str) -> None:
    report(make_run(facts={fact: None}))


def test_a_metric_that_is_better_lower(make_run: MakeRun) -> None:
    task = {"name": "digits", "metric": "loss", "higher_is_better": False}
    page = report(make_run(facts={"task": task}))
    assert "reaches loss 0.07 on the test data" in page.said()


def test_amounts_of_several_machines_are_not_put_on_one_axis(make_run: MakeRun) -> None:
    run = make_run()
    with Run(run, write=True) as opened:
        opened.ledger._db.execute(
            "UPDATE amount SET on_='another machine' WHERE quantity='latency' AND candidate="
            "(SELECT MIN(candidate) FROM amount WHERE quantity='latency')"
        )
    page = report(run)
    labels = [tag for tag, values in page.tags if tag == "label"]
    assert len(labels) == 3
    assert "latency" in page.said()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        write_report(tmp_path)
