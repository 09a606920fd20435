from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sartor.core.errors import RunError
from sartor.report.card import write_model_card

MakeRun = Callable[..., Path]


def test_the_hub_reads_the_card(make_run: MakeRun) -> None:
    path = write_model_card(make_run())
    card = ModelCard.load(path)
    assert card.data.library_name == "sartor"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == "unknown"
    assert card.data.datasets == ["digits"]
    assert card.data.metrics == ["accuracy"]
    results = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results or ()}
    assert results["test", "accuracy"] == 0.9806
    assert "params\\<10k" in card.text
    assert 'ImageClassifier.open(".")' in card.text
    assert "95\u00a0% interval 96.0 to 99.1\u00a0%, n\u00a0=\u00a0360" in card.text
    assert "onnxruntime, 1 thread" in card.text
    assert path.read_bytes() == write_model_card(path.parent.parent).read_bytes()


def test_text_from_outside_stays_text(make_run: MakeRun) -> None:
    classes = ("<script>alert(1)</script>", "a|b", "[x](javascript:y)", "`code`", "line\nbreak\n---", "# title")
    path = write_model_card(make_run(classes=classes, data="/home/me/my: 'photos'\n---\nx: y"))
    card = ModelCard.load(path)
    assert card.data.library_name == "sartor"
    assert "x" not in card.data.to_dict()
    assert "\\<script\\>alert(1)\\</script\\>" in card.text
    assert "a\\|b" in card.text
    assert "\\[x\\](javascript:y)" in card.text
    assert "\nbreak" not in card.text
    for line in card.text.splitlines():
        assert not line.startswith("---")


def test_where_the_data_lay_is_not_published(make_run: MakeRun) -> None:
    task = {"name": "birds", "metric": "accuracy", "higher_is_better": True}
    text = write_model_card(make_run(data="/home/me/birds", facts={"task": task})).read_text()
    assert "/home/me" not in text
    assert "sartor fit birds" in text


def test_a_run_without_a_winner_has_no_card(make_run: MakeRun) -> None:
    with pytest.raises(RunError, match="no exported model"):
        write_model_card(make_run(chosen=False))
