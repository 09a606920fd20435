import re

import numpy as np
import pytest

from sartor.core.errors import DataError
from sartor.report.design_space_page import table_rows, varied, write_space_page
from sartor.search.design_space_analysis import AnalysisOptions


def records(n, *, trained=True, spread=10.0):
    rng = np.random.default_rng(0)
    for index in range(n):
        depth, scale = int(rng.integers(4, 20)), spread ** float(rng.random())
        record = {
            "index": index,
            "config": {"depth": depth, "w0": 8 * int(rng.integers(1, 5)), "stem": "3x3/1", "width": (8, 16)},
            "complexity": {"macs": 1e6 * scale, "params": 1e5 * depth, "activations": 1e4 * depth},
            "network": {"depths": [depth - 2, 2], "widths": [16, 64], "total_depth": depth},
        }
        yield record | ({"error": 0.2 + 0.01 * depth, "curve": [0.9, 0.2 + 0.01 * depth]} if trained else {})


def titles(page):
    return re.findall("<h2>(.*?)</h2>", page.read_text())


def test_a_trained_population_is_shown_whole(tmp_path):
    found = list(records(30))
    page = write_space_page(tmp_path, "nets <script>", ["30 networks & more."], found, AnalysisOptions())
    assert titles(page) == [
        "Distribution of errors", "Errors against the genes", "Errors against cost", "Trends", "The best networks",
        "Their learning", "The best networks",
    ]  # fmt: skip
    text = page.read_text()
    assert "<script>" not in text
    assert "30 networks &amp; more." in text
    assert text.count('src="data:image/svg+xml;base64,') == 6
    assert len(text) < 2e6
    assert write_space_page(tmp_path, "nets <script>", ["30 networks & more."], found, AnalysisOptions()) == page
    assert page.read_text() == text


@pytest.mark.parametrize(("n", "spread"), [(11, 10.0), (30, 1.5)])
def test_trends_need_many_networks_that_differ_in_cost(tmp_path, n, spread):
    page = write_space_page(tmp_path, "nets", [], list(records(n, spread=spread)), AnalysisOptions())
    assert "Trends" not in titles(page)


def test_a_counted_population_shows_cost_alone(tmp_path):
    found = list(records(9, trained=False))
    page = write_space_page(tmp_path, "nets", [], found, AnalysisOptions())
    assert titles(page) == ["Parameters against multiply-adds", "Activations against multiply-adds", "Cost"]
    rows = {row[""]: row for row in table_rows(found)}
    depths = sorted(record["network"]["total_depth"] for record in found)
    assert (rows["blocks"]["least"], rows["blocks"]["most"]) == (f"{depths[0]}", f"{depths[-1]}")


def test_the_table_begins_with_the_best():
    found = [*records(14), {"index": 99, "failed": "no luck", "config": {}}]
    rows = table_rows(found)
    assert len(rows) == 10
    errors = [float(row["error"].removesuffix(" %")) for row in rows]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(100 * min(r["error"] for r in found if "error" in r))


def test_what_varies_is_looked_at():
    assert varied(list(records(10))) == ("total_depth", "config.w0")


def test_a_population_that_failed_is_said(tmp_path):
    found = list(records(3))
    with pytest.raises(DataError, match="no evaluated record is left"):
        write_space_page(tmp_path, "nets", [], found, AnalysisOptions(pre_filters={"w0": (1000, 2000)}))
