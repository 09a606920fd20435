"""Losses over trees of classes against their definitions, written level by level and example by example."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import PREPROCESS, RECIPE, SPEC, Images, TinyTask
from torch import nn
from torch.nn import functional as F

from sartor.core.candidate import Proposal
from sartor.core.errors import DataError, SpecError, TrainingError
from sartor.core.protocols import Tools
from sartor.data.label_tree import LabelTree
from sartor.models.network import build, spec_of
from sartor.search.train import train_network
from sartor.tasks.metrics import semantic_accuracy
from sartor.training.classification import plan_for, spec_for, train
from sartor.training.losses.classification import CrossEntropy
from sartor.training.losses.semantic import (
    MultiLabel,
    SemanticCrossEntropy,
    SemanticDistillation,
    SemanticSoftmax,
    semantic_distance,
)
from sartor.training.plan import Context
from sartor.weights.load import first_outputs

TOY = LabelTree(tuple("0123456789"), (-1, -1, 0, 0, 1, 2, 2, 4, 5, 5), 10)
FLAT = LabelTree(("a", "b", "c", "d"), (-1,) * 4, 4)


@st.composite
def trees(draw):
    """A forest of classes in any order, with at least two roots."""
    count = draw(st.integers(2, 30))
    parents = [-1, -1, *(draw(st.integers(-1, i - 1)) for i in range(2, count))]
    order = draw(st.permutations(range(count)))
    mixed = [0] * count
    for i, parent in enumerate(parents):
        mixed[order[i]] = -1 if parent < 0 else order[parent]
    return LabelTree(tuple(map(str, range(count))), tuple(mixed), count)


def level_by_level(logits, label, tree, levels, smoothing):
    """The loss of each example (n,), as the paper defines it."""
    losses = []
    for row, own in zip(logits, label.tolist(), strict=True):
        chain, loss = tree.chain(own), logits.new_zeros(())
        for number in range(len(levels.sizes)):
            members = levels.members(number).tolist()
            target = [c for c in chain if c in members]
            if target:
                log_p = row[members].log_softmax(0)
                own_part = -(1 - smoothing) * log_p[members.index(target[0])]
                loss = loss + levels.weights[number] * (own_part - smoothing / len(members) * log_p.sum())
        losses.append(loss)
    return torch.stack(losses)


def drawn(tree, seed, n=5, scale=3.0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(scale * rng.standard_normal((n, len(tree.classes)))).to(dtype).requires_grad_()
    label, other = (torch.from_numpy(rng.integers(0, len(tree.classes), n)) for _ in range(2))
    return logits, {"label": label, "other": other, "share": torch.from_numpy(rng.uniform(0, 1, n)).to(dtype)}


def value_and_gradient(loss, logits):
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


@settings(deadline=None, max_examples=60)
@given(trees(), st.integers(0, 10**6), st.sampled_from([0.0, 0.2]), st.booleans(), st.booleans())
def test_one_pass_equals_level_by_level(tree, seed, smoothing, mixed, include_last):
    levels = tree.levels(include_last=include_last or len(set(tree.depths)) == 1)
    logits, batch = drawn(tree, seed)
    expected = level_by_level(logits, batch["label"], tree, levels, smoothing)
    if mixed:
        others = level_by_level(logits, batch["other"], tree, levels, smoothing)
        expected = expected * batch["share"] + others * (1 - batch["share"])
    else:
        batch = {"label": batch["label"]}
    found = value_and_gradient(SemanticCrossEntropy(levels, smoothing)(logits, batch), logits)
    for ours, theirs in zip(found, value_and_gradient(expected.mean(), logits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_formats_and_extremes(dtype):
    """Computed in float32 whatever is given, under autocast too, and with logits that no common shift would serve."""
    levels = TOY.levels(include_last=True)
    logits, batch = drawn(TOY, 0, dtype=dtype)
    with torch.no_grad():
        logits[0, [0, 1]] = -2000.0
        logits[1, 5:] = 3000.0
    loss = SemanticCrossEntropy(levels, 0.2)
    del batch["share"]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, batch)
    (gradient,) = torch.autograd.grad(value, logits)
    exact = logits.detach().double().requires_grad_()
    expected = value_and_gradient(level_by_level(exact, batch["label"], TOY, levels, 0.2).mean(), exact)
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    assert value.item() == pytest.approx(expected[0].item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_known_values():
    flat = SemanticCrossEntropy(FLAT.levels(include_last=True), 0.2)
    logits, batch = drawn(FLAT, 1)
    assert flat(logits, {"label": batch["label"]}).item() == pytest.approx(
        F.cross_entropy(logits, batch["label"], label_smoothing=0.2).item(), rel=1e-12
    )
    single = CrossEntropy(0.2)(logits.float(), {"label": batch["label"]})
    assert flat(logits.float(), {"label": batch["label"]}).item() == pytest.approx(single.item(), rel=1e-6)
    zero = SemanticCrossEntropy(TOY.levels(), 0.0)(torch.zeros(4, 10), {"label": torch.tensor([8, 3, 7, 1])})
    log2, log3 = math.log(2), math.log(3)
    reached = [log2 + 1.25 * log3 + 2 * log3, log2 + 1.25 * log3, log2 + 1.25 * log3 + 2 * log3, log2]
    assert zero.item() == pytest.approx(sum(reached) / 4, rel=1e-6)


def test_it_is_not_needed_to_take_a_gradient():
    logits, batch = drawn(TOY, 2)
    loss = SemanticCrossEntropy(TOY.levels())
    with torch.no_grad():
        assert loss(logits, batch).item() == pytest.approx(loss(logits, batch).item())
    value = 3.0 * loss(logits, batch)
    tripled = torch.autograd.grad(value, logits, retain_graph=True)[0]
    assert torch.equal(tripled, torch.autograd.grad(value, logits)[0])


def test_distance_to_a_teacher():
    levels = TOY.levels()
    (student, _), (teacher, _) = drawn(TOY, 3), drawn(TOY, 4)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        for number in range(3):
            members = levels.members(number)
            p, q = (np.exp(np.array(x)[members]) / np.exp(np.array(x)[members]).sum() for x in (s, t))
            expected += max(q) * ((p - q) ** 2).sum()  # 5 % of two or three classes are one
    distance = semantic_distance(student, teacher, levels)
    assert distance.item() == pytest.approx(expected)
    distance.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert semantic_distance(student, student, levels).item() == 0.0


def test_confidence_is_the_highest_twentieth():
    wide = LabelTree(tuple(map(str, range(41))), (-1,) * 41, 41).levels(include_last=True)
    teacher = torch.zeros(1, 41)
    teacher[0, :5] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    q, student = teacher.softmax(1), torch.zeros(1, 41)
    expected = q[0, :3].sum() * (q - 1 / 41).square().sum()
    assert semantic_distance(student, teacher, wide).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_is_a_loss_of_plans():
    torch.manual_seed(0)
    modules = {name: nn.Sequential(nn.Flatten(), nn.Linear(12, 10)) for name in ("model", "teacher")}
    batch = {"image": torch.randn(4, 3, 2, 2), "label": torch.tensor([8, 3, 7, 1])}
    levels = TOY.levels()
    loss = SemanticCrossEntropy(levels)
    context = Context(0, 1, 0, 0, torch.device("cpu"), 0, 1, {}, lambda name: 0.0)
    terms = SemanticDistillation(loss, levels, alpha=2.0)(modules, batch, context)
    student, teacher = (modules[name](batch["image"]) for name in ("model", "teacher"))
    assert terms["loss"].item() == pytest.approx(loss(student, batch).item())
    assert terms["distillation"].item() == pytest.approx(2 * semantic_distance(student, teacher, levels).item())
    sum(terms.values()).backward()
    assert modules["teacher"][1].weight.grad is None
    assert modules["model"][1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mixed", [False, True])
def test_multi_label(mixed):
    logits, batch = drawn(TOY, 5)
    share = batch["share"] if mixed else torch.ones(5)
    batch = batch if mixed else {"label": batch["label"]}
    target = torch.zeros(5, 10, dtype=torch.float64)
    for row in range(5):
        target[row, TOY.chain(int(batch["label"][row]))] += float(share[row])
        if mixed:
            target[row, TOY.chain(int(batch["other"][row]))] += 1 - float(share[row])
    plain = MultiLabel("unread", 0.0, 0.0, 0.0).on(TOY)(logits, batch)
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / 5
    assert plain.item() == pytest.approx(expected.item())
    p = logits.detach().sigmoid()
    lower = (p - 0.05).clamp_min(0)
    each = target * (1 - p) * p.log() + (1 - target) * lower**4 * (1 - lower).log()
    assert MultiLabel("unread", 1.0).on(TOY)(logits, batch).item() == pytest.approx(-each.sum().item() / 5)


def test_accuracy_within_levels():
    levels, labels = TOY.levels(), np.array([8, 3, 7, 1])
    scores = np.zeros((4, 10))
    scores[0, [0, 2, 6]] = 1, 1, 1  # right, right, wrong
    scores[1, [1, 3]] = 1, 1  # wrong, right
    scores[2, [1, 4, 7]] = 1, 1, 1  # all right
    scores[3, [1, 9]] = 1, 9  # right; the last level does not count
    assert semantic_accuracy(scores, labels, levels) == 7 / 9


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """RECIPE over the tree c; (a, b) -> ab."""
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tree.tsv").write_text("a\tab\nb\tab\nab\tall\nc\tall\n")
    return RECIPE.replace_from(["loss.kind=semantic-softmax", f"loss.hierarchy={tmp_path / 'tree.tsv'}", "epochs=2"])


def test_settings_name_the_loss(recipe, tmp_path):
    assert recipe.loss == SemanticSoftmax(str(tmp_path / "tree.tsv"))
    assert recipe.loss.tree("abc").classes == ("a", "b", "c", "ab", "c (level 0)")
    recipe.check()
    with pytest.raises(DataError, match=r"nowhere.tsv: no such file; name one with --set loss.hierarchy=FILE"):
        recipe.replace_from(["loss.hierarchy=nowhere.tsv"]).check()
    with pytest.raises(SpecError, match="'multi-label' lacks hierarchy"):
        recipe.replace_from(["loss.kind=multi-label"])


@pytest.mark.parametrize("kind", ["semantic-softmax", "multi-label"])
def test_a_tree_is_trained_and_the_labelled_classes_are_served(recipe, kind, tmp_path):
    recipe = recipe.replace_from([f"loss.kind={kind}", f"loss.hierarchy={recipe.loss.hierarchy}", "lr=0.02"])
    task = TinyTask()
    task.kind = "image-classification"
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    tools = Tools({}, {}, tmp_path / "work", artifact, math.inf, lambda share, text: None)
    proposal = Proposal("train", SPEC, {"recipe": recipe.to_json()}, "tiny", 0)
    classifier, _ = train_network(proposal, task, tools)
    assert classifier.classes == ("a", "b", "c")
    assert len(classifier.predict([np.zeros((8, 8, 3), np.uint8)])[0]["probabilities"]) == 3
    trained = train(build(spec_for(recipe, SPEC, "abc")), task, recipe, folder=tmp_path / "work", seed=0)
    x = torch.randn(2, 3, 8, 8)
    served = classifier._source
    torch.testing.assert_close(served(x), trained.network.eval()(x)[:, :3])


def test_another_tree_is_refused_when_training_goes_on(recipe, tmp_path):
    train(build(spec_for(recipe, SPEC, "abc")), TinyTask(), recipe, folder=tmp_path / "work")
    (tmp_path / "tree.tsv").write_text("a\tac\nc\tac\nac\tall\nb\tall\n# another\n")
    with pytest.raises(TrainingError, match="another"):
        train(build(spec_for(recipe, SPEC, "abc")), TinyTask(), recipe, folder=tmp_path / "work")


def test_the_network_must_have_the_outputs_of_the_tree(recipe):
    with pytest.raises(TrainingError, match="spec_for"):
        plan_for(recipe, build(SPEC), Images(), PREPROCESS, classes="abc")
    with pytest.raises(TrainingError, match="needs the names of the classes"):
        plan_for(recipe, build(SPEC), Images(), PREPROCESS)


@pytest.mark.parametrize("name", ["resnet20_cifar", "preact_resnet110_cifar", "resnetv2_50"])
def test_first_outputs(name):
    """Linear readouts and convolutional ones."""
    network = build(spec_of(name, classes=7)).eval()
    x = torch.randn(1, 3, 32, 32)
    smaller = first_outputs(network, 4).eval()
    torch.testing.assert_close(smaller(x), network(x)[:, :4])
    assert smaller.spec.classes == 4
    assert first_outputs(network, 7) is network
