"""Trees of classes against those of the paper and their definition."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.errors import DataError
from sartor.data.hierarchy import Hierarchy, read_hierarchy
from sartor.data.label_tree import LabelTree, frequent, label_tree

TOY = LabelTree(tuple("0123456789"), (-1, -1, 0, 0, 1, 2, 2, 4, 5, 5), 10)
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ABOVE = {
    "airplane": "vehicle", "ship": "vehicle", "automobile": "road vehicle", "truck": "road vehicle",
    "road vehicle": "vehicle", "bird": "animal", "frog": "amphibian", "amphibian": "animal", "cat": "pet", "dog": "pet",
    "pet": "mammal", "deer": "hoofed", "horse": "hoofed", "hoofed": "mammal", "mammal": "animal", "vehicle": "thing",
    "animal": "thing", "thing": "entity",
}  # fmt: skip


@pytest.fixture(scope="module")
def lists():
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("SARTOR_DATA") or default) / "labels"
    if not folder.is_dir():
        pytest.skip(f"no shared label lists at {folder}; set SARTOR_DATA")
    return folder


def test_levels_of_a_small_tree():
    levels = TOY.levels()
    assert [levels.members(i).tolist() for i in range(3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert levels.weights.tolist() == [1, 1.25, 2]
    assert levels.sizes.tolist() == [2, 3, 3]
    assert levels.path[[8, 3, 7, 1]].tolist() == [[0, 2, 5], [0, 3, -1], [1, 4, 7], [1, -1, -1]]
    assert levels.level.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert TOY.levels(include_last=True).weights.tolist() == [1, 1.25, 2, 5]
    assert TOY.chain(8) == [8, 5, 2, 0]


def test_imagenet_21k(lists):
    """The published list of pairs gives the 12 depths of the 11,221 classes; the Sun is not in it."""
    classes = (lists / "imagenet21k_miil_synsets.txt").read_text().split()
    given = read_hierarchy(lists / "imagenet_is_a.txt")
    assert [c for c in classes if c not in given.parents] == ["n09450163"]
    with pytest.raises(DataError, match="unknown class 'n09450163'"):
        label_tree(given, classes)
    tree = label_tree(Hierarchy(given.parents | {"n09450163": ()}, {}), classes)
    assert np.bincount(tree.depths).tolist() == [296, 1275, 2095, 2609, 2190, 1289, 694, 337, 214, 156, 60, 6]
    levels = tree.levels()
    expected = [1, 1.0271, 1.1628, 1.4852, 2.2687, 4.0715, 7.6489, 14.5162, 20, 20, 20]
    assert levels.weights.tolist() == pytest.approx(expected, abs=5e-5)
    assert (levels.path[np.arange(11_221)[levels.level < 11], levels.level[levels.level < 11]] >= 0).all()
    pug = tree.chain(classes.index("n02110958"))
    dog, animal = (classes.index(c) for c in ("n02084071", "n00015388"))
    assert (len(pug), pug[1], pug[-1]) == (8, dog, animal)


def test_absent_concepts_are_skipped_and_first_parents_followed():
    hierarchy = Hierarchy.of([("pug", "dog"), ("dog", "canine"), ("dog", "pet"), ("canine", "animal"), ("cat", "pet")])
    tree = label_tree(hierarchy, ["pug", "animal", "pet", "cat"])
    assert (tree.classes, tree.parents, tree.labelled) == (("pug", "animal", "pet", "cat"), (1, -1, -1, 2), 4)


def test_meeting_points_are_classes_and_leaves_share_the_last_level():
    tree = label_tree(Hierarchy.of(ABOVE.items()), CIFAR, ancestors=True)
    levels = tree.levels(include_last=True)
    assert list(tree.classes[:10]) == CIFAR
    assert tree.labelled == 10
    assert tree.classes[10:16] == ("animal", "hoofed", "mammal", "pet", "road vehicle", "vehicle")
    assert [[tree.classes[c] for c in levels.path[CIFAR.index(x)]] for x in ("cat", "frog")] == [
        ["animal", "mammal", "pet", "cat"],
        ["animal", "frog (level 1)", "frog (level 2)", "frog"],
    ]
    assert levels.sizes.tolist() == [2, 6, 8, 10]
    assert levels.members(3).tolist() == list(range(10))


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40), st.data())
def test_laws_of_trees_with_ancestors(draws, data):
    """Node i + 1 hangs below one of the nodes before it; some are labelled."""
    pairs = [(str(i + 1), str(draw % (i + 1))) for i, draw in enumerate(draws)]
    labels = data.draw(st.lists(st.sampled_from([child for child, _ in pairs]), min_size=2, unique=True))
    hierarchy = Hierarchy.of(pairs)
    tree = label_tree(hierarchy, labels, ancestors=True)
    assert list(tree.classes[: tree.labelled]) == labels
    leaves = set(range(len(tree.classes))) - set(tree.parents)
    assert max(leaves) < len(labels)
    assert len({int(tree.depths[leaf]) for leaf in leaves}) == 1
    assert len(set(tree.classes)) == len(tree.classes)
    for index, label in enumerate(labels):  # what two labels share in the tree is above both in the hierarchy
        inner = {tree.classes[c] for c in tree.chain(index)[1:] if "(level" not in tree.classes[c]}
        assert inner <= set(hierarchy.above(label))
    plain = label_tree(hierarchy, labels)
    assert plain.classes == tuple(labels)
    for index, parent in enumerate(plain.parents):
        nearest = next((c for c in hierarchy.above(labels[index]) if c in labels), None)
        assert nearest == (None if parent < 0 else labels[parent])


def test_what_is_no_tree():
    hierarchy = Hierarchy.of([("b", "a"), ("c", "b")])
    with pytest.raises(DataError, match="the classes 'b' and 'B' are one concept, b; merge them"):
        label_tree(hierarchy, ["b", "B"])
    with pytest.raises(DataError, match="no classes are given"):
        label_tree(hierarchy, [], ancestors=True)
    with pytest.raises(DataError, match="a tree of 3 classes has no level with more than one"):
        label_tree(hierarchy, ["a", "b", "c"]).levels(include_last=True)
    flat = label_tree(Hierarchy.of([("a", "x"), ("b", "x")]), ["a", "b"])
    with pytest.raises(DataError, match="more than one, the last left out"):
        flat.levels()
    assert flat.levels(include_last=True).sizes.tolist() == [2]


def test_frequent_classes():
    labels = np.array([0] * 3 + [1] * 4 + [2] * 5 + [-1] * 9)
    data = SimpleNamespace(classes=("n2", "n1", "n0"), labels=labels)
    assert frequent(data, 3) == ["n0", "n1"]
    assert frequent(data, 2) == ["n0", "n1", "n2"]
    with pytest.raises(DataError, match="1 of 3 classes have over 4 images; lower the bound"):
        frequent(data, 4)


def test_the_synsets_above_cifar10_are_those_of_the_published_list(lists):
    from sartor.reproduce.imagenet21k import hierarchy_file

    ours, given = read_hierarchy(hierarchy_file()), read_hierarchy(lists / "imagenet_is_a.txt")
    assert all(given.parents[child][:1] == above for child, above in ours.parents.items())
