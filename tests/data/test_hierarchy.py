"""Every format gives the same hierarchy; what is wrong with a file is said in one line."""

import pytest

from sartor.core.errors import DataError
from sartor.data.hierarchy import Hierarchy, read_hierarchy
from sartor.data.label_tree import label_tree, write_tree

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
WORDNET = LICENCE + (
    "00000001 03 n 01 animal 0 002 ~ 00000002 n 0000 ~ 00000003 n 0000 | a living organism  \n"
    "00000002 05 n 02 dog 0 domestic_dog 0 003 @ 00000001 n 0000 @ 00000005 n 0000 ~ 00000004 n 0000 | with | a bar  \n"
    "00000003 05 n 01 crane 0 001 @ 00000001 n 0000 | a bird  \n"
    "00000004 05 n 01 Laika 0 001 @i 00000002 n 0000 | the first in orbit  \n"
    "00000005 06 n 0a thing 0 object 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 crane 0 000 | ten words  \n"
)
PARENTS = {
    "n00000001": (), "n00000002": ("n00000001", "n00000005"), "n00000003": ("n00000001",), "n00000004": ("n00000002",),
    "n00000005": (),
}  # fmt: skip
FILES = {
    "data.noun": WORDNET,
    "pairs.tsv": "n00000002\tn00000001\nn00000002\tn00000005\n# why\n\nn00000003\tn00000001\nn00000004\tn00000002\n",
    "is_a.txt": "n00000001 n00000002\nn00000005 n00000002\nn00000001 n00000003\nn00000002 n00000004\n",
    "pairs.csv": "parent,child,note\nn00000001,n00000002,a\nn00000005,n00000002,\n"
    "n00000001,n00000003,\nn00000002,n00000004,\n",
    "named.tsv": "child\tparent\r\nn00000002\tn00000001\r\nn00000002\tn00000005\r\nn00000003\tn00000001\r\n"
    "n00000004\tn00000002\r\n",
    "list.json": '[["n00000002", "n00000001"], ["n00000002", "n00000005"], ["n00000003", "n00000001"], '
    '["n00000004", "n00000002"]]',
    "map.json": '{"n00000002": ["n00000001", "n00000005"], "n00000003": "n00000001", "n00000004": "n00000002", '
    '"n00000001": null}',
}


@pytest.mark.parametrize("name", FILES)
def test_formats(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    assert dict(read_hierarchy(tmp_path / name).parents) == PARENTS


def test_saved_trees(tmp_path):
    hierarchy = Hierarchy.of([("b", "a"), ("c", "a"), ("d", "c"), ("d", "b")])
    tree = label_tree(hierarchy, ["d", "a", "c", "b"])
    write_tree(tree, tmp_path / "tree.pth", {"d": "a text"})
    found = read_hierarchy(tmp_path / "tree.pth")
    assert dict(found.parents) == {"d": ("c",), "a": (), "c": ("a",), "b": ("a",)}
    assert found.find("a text") == "d"
    assert label_tree(found, ["d", "a", "c", "b"]) == tree


BAD = {
    "circle.tsv": (
        "a\tb\nb\tc\nc\ta\n",
        r"no hierarchy, as it runs in a circle: \w -> \w -> \w -> \w; remove one pair",
    ),
    "self.tsv": ("a\ta\n", "in a circle: a -> a"),
    "one.tsv": ("a\tb\nc\n", "line 2 is no pair"),
    "words.txt": ("cat animal\n", "line 1 is no pair"),
    "half.csv": ("child,parent\na,b\nc,\n", "line 3 is no pair"),
    "empty.tsv": ("", "holds no pairs"),
    "bad.json": ("{", "is not JSON"),
    "number.json": ('{"a": 1}', "must be {child: parent}"),
    "text.json": ('"a"', "must be {child: parent}"),
    "triple.json": ('[["a", "b", "c"]]', "must be {child: parent}"),
    "cut/data.noun": (WORDNET.rpartition("00000005 06")[0], "the synset n00000005 is not in it"),
    "torn/data.noun": (WORDNET[:-60] + "\n", "line 6 is no WordNet synset"),
    "tree.pth": ("nothing", "holds no class_tree_list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    content, message = BAD[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as refused:
        read_hierarchy(tmp_path / name)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["nowhere.tsv", "nowhere.pth"])
def test_a_file_that_is_not_there(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(FileNotFoundError\)"):
        read_hierarchy(tmp_path / name)


def test_labels_are_ids_or_words(tmp_path):
    (tmp_path / "data.noun").write_text(WORDNET)
    hierarchy = read_hierarchy(tmp_path / "data.noun")
    assert [hierarchy.find(x) for x in ("n00000002", "Domestic Dog", "laika")] == [
        "n00000002",
        "n00000002",
        "n00000004",
    ]
    with pytest.raises(DataError, match=r"'crane' names 2 concepts \(n00000003, n00000005\); use an id"):
        hierarchy.find("crane")
    with pytest.raises(DataError, match=r"unknown class 'anmal': did you mean animal\?; every class must be"):
        hierarchy.find("anmal")
    assert list(hierarchy.above("n00000004")) == ["n00000002", "n00000001"]
