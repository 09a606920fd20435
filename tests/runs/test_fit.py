"""The main job from end to end, on a folder as users have them."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import sartor
from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.core.cost import Cost
from sartor.core.errors import DataError, ImpossibleBudget, RunError, SartorError
from sartor.models.network import count
from sartor.runs.delivery import confirmed
from sartor.runs.run import Run
from sartor.runtime.classifier import ImageClassifier
from sartor.weights import from_pretrained

SIDES = "<script>alert(1)<", "zwei Wörter\nund eine Zeile"


def test_the_winner_knows_the_classes_and_is_inside_the_budget(job):
    best = job.best()
    assert best.quality["accuracy"] > 0.8
    assert job.budget.verdict(best.cost) == "in"
    assert best.cost.value("params") == count(best.candidate.proposal.spec).value("params") < 3000
    assert best.cost.amounts["latency"].how == "measured"
    assert {c.proposal.recipe["family"] for c in job.candidates} == {"resnet", "regnetx"}


def test_the_front_dominates_what_was_measured(job):
    members = list(job.front.members)
    assert members
    for c in members:
        others = [o for o in members if o is not c]
        assert not any(
            job.front.quality(o) >= job.front.quality(c)
            and all(o.cost.value(f) <= c.cost.value(f) for f in job.front.fields)
            for o in others
        )


def test_the_winner_is_inside_when_measured_again(job):
    first = job.front.members[0]
    other = replace(first, id="f" * len(first.id))
    front = replace(job.front, members=(first, other))
    limit = 2 * first.cost.amounts["latency"].upper
    budget = Budget.parse(f"latency<{limit}ms")

    def slower(c):
        latency = c.cost.amounts["latency"]
        return c.having(cost=c.cost | Cost({"latency": replace(latency, value=3 * limit)}))

    refused = front.best(budget)
    best, *others = confirmed(front, budget, lambda c: slower(c) if c.id == refused.id else c)
    assert {best.id, refused.id} == {first.id, other.id}
    assert [c.id for c in others] == [refused.id]
    with pytest.raises(ImpossibleBudget, match=f"no candidate is within {budget}; the nearest has latency"):
        confirmed(front, budget, slower)


def test_what_could_not_be_read_is_listed(job):
    lines = [json.loads(line) for line in (job.folder / "skipped.jsonl").read_text().splitlines()]
    assert sorted(line["where"].rpartition("/")[2] for line in lines) == [
        "bomb.png", "nothing.jpg", "text.png", "truncated.jpg",
    ]  # fmt: skip
    assert all(line["why"] for line in lines)
    page = job.report.read_text()
    assert "bomb.png" in page
    assert "empty class" in page
    assert "<script>alert" not in page


def test_predictions_from_every_kind_of_picture(job, pictures):
    best = job.best()
    path = next((pictures / SIDES[1]).iterdir())
    answers = [best.predict(raw) for raw in (path, path.read_bytes(), Image.open(path), np.asarray(Image.open(path)))]
    assert answers[0]["label"] in SIDES
    assert all(answer == answers[0] for answer in answers)
    assert best.predict([path, path]) == [answers[0]] * 2
    with pytest.raises(DataError, match=r"text\.png"):
        best.predict(pictures / SIDES[0] / "text.png")


def test_the_graph_and_the_weights_say_the_same(job):
    folder = job.folder / "best"
    images = np.random.default_rng(0).integers(0, 256, (33, 3, 12, 12), dtype=np.uint8)
    expected = ImageClassifier.open(folder, engine="eager").logits(images)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for batch in (1, 2, 33):
        (found,) = session.run(["logits"], {"images": images[:batch]})
        assert found.argmax(1).tolist() == expected[:batch].argmax(1).tolist()
        np.testing.assert_allclose(found, expected[:batch], rtol=1e-3, atol=1e-4)
    network = from_pretrained(folder)
    assert network(torch.zeros(1, 3, 12, 12)).shape == (1, 2)


def test_a_finished_job_does_nothing_again(job, pictures, monkeypatch):
    monkeypatch.setattr(sartor.runs.fit._Job, "work", None)
    again = sartor.fit(pictures, budget="params<3k", time=12, out=job.folder, families=["resnet", "regnetx"])
    assert [c.id for c in again.candidates] == [c.id for c in job.candidates]
    with pytest.raises(RunError, match="was begun with budget"):
        sartor.fit(pictures, budget="params<4k", time=12, out=job.folder, families=["resnet", "regnetx"])


def test_another_budget_is_answered_from_the_front(job):
    small = min(c.cost.value("params") for c in job.front.members)
    assert job.best(f"params<={small:.0f}").cost.value("params") == small
    with pytest.raises(ImpossibleBudget, match="nearest"):
        job.best("params<10")


def test_an_impossible_budget_names_the_nearest(pictures, tmp_path):
    with pytest.raises(ImpossibleBudget, match=r"nearest possible has params \d+"):
        sartor.fit(pictures, budget="params<20", time=10, out=tmp_path / "run")


def test_strict_stops_at_the_first_bad_picture(pictures, tmp_path):
    with pytest.raises(DataError, match=r"\.(png|jpg)"):
        sartor.fit(pictures, time=10, out=tmp_path / "run", strict=True)


def test_one_picture_is_not_enough(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "data" / "a" / "one.png")
    with pytest.raises(SartorError) as error:
        sartor.fit(tmp_path / "data", time=10, out=tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_run_is_open_while_it_is_written(job):
    with Run(job.folder) as run:
        assert all(isinstance(c, Candidate) for c in run.ledger.candidates())
        assert run.ledger.fact("finished") is not None


def test_training_one_network_is_a_run_too(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    result = sartor.train(
        "resnet20_cifar", pictures, epochs=2, settings=["batch=16"], out=tmp_path / "run"
    )  # fmt: skip
    assert result is not None
    best = result.best()
    assert best.candidate.proposal.spec.classes == 2
    assert best.predict(next((pictures / SIDES[1]).iterdir()))["label"] in SIDES
    assert result.report.is_file()
