from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sartor.core.errors import BudgetError
from sartor.report.findings import gather
from sartor.report.front import MOST, Marks, front_svg

MakeRun = Callable[..., Path]
SVG = "{http://www.w3.org/2000/svg}"


def marks_of(svg: str) -> dict[str, tuple[str, float, float]]:
    """Id -> (class, x, y) of every mark."""
    out = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if "data-id" in group.attrib:
            x, y = re.fullmatch(r"translate\((\S+) (\S+)\)", group.attrib["transform"]).groups()  # type: ignore[union-attr]
            out[group.attrib["data-id"]] = (group.attrib["class"], float(x), float(y))
    return out


def test_every_judged_candidate_stands_where_its_figures_say(make_run: MakeRun) -> None:
    run = make_run()
    findings, marks = gather(run), marks_of(front_svg(run))
    assert set(marks) == {c.id for c in findings.leaves}
    by_cost = sorted(findings.leaves, key=lambda c: c.cost.value("params"))
    assert [marks[c.id][1] for c in by_cost] == sorted(mark[1] for mark in marks.values())
    by_quality = sorted(findings.leaves, key=lambda c: findings.quality(c) or 0.0)
    assert [marks[c.id][2] for c in by_quality] == sorted((mark[2] for mark in marks.values()), reverse=True)


def test_the_winner_and_the_front_stand_out(make_run: MakeRun) -> None:
    run = make_run()
    findings, marks = gather(run), marks_of(front_svg(run))
    chosen = [id for id, (kind, *_) in marks.items() if kind == "mark chosen"]
    assert chosen == [findings.winner["id"]]
    strong = {id for id, (kind, *_) in marks.items() if kind != "mark other"}
    assert strong == {c.id for c in findings.members} | set(chosen)
    assert {c.id for c in findings.front(("params",))} <= strong


def test_the_limit_is_drawn_where_it_is_near_and_named_where_it_is_far(make_run: MakeRun) -> None:
    near = front_svg(make_run("near"))
    assert 'class="beyond"' in near
    far = front_svg(make_run("far", budget="params<100M"))
    assert 'class="beyond"' not in far
    assert "budget 100M, further right" in far
    assert 'class="limit' not in front_svg(make_run("free", budget=None))


def test_axes_begin_with_what_is_bounded(make_run: MakeRun) -> None:
    run = make_run(budget="peak_memory<1GB, macs<10M")
    assert gather(run).axes[:2] == ["peak_memory", "macs"]
    assert "multiply-adds" in front_svg(run, "macs")
    with pytest.raises(BudgetError, match="did you mean latency"):
        front_svg(run, "latencies")


def test_a_run_without_judged_candidates_has_no_picture(make_run: MakeRun) -> None:
    assert front_svg(make_run(chosen=False, tested=False, failed=18)) == ""


def test_of_very_many_the_front_is_kept(make_run: MakeRun) -> None:
    findings = gather(make_run(first=300))
    marks = Marks.of(findings, "params")
    assert len(findings.leaves) > MOST == len(marks.drawn)
    assert {c.id for c in findings.members} <= {c.id for c in marks.drawn}


def test_family_names_are_escaped(make_run: MakeRun) -> None:
    svg = front_svg(make_run(families=("<script>", "a&b", '"quoted"')))
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"<script>", "a&b", '"quoted"'} <= set(texts)
