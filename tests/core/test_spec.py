from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from sartor.core.errors import SpecError
from sartor.core.spec import canonical, from_json, spec_id, spec_kind, to_json


@spec_kind
@dataclass(frozen=True)
class Leaf:
    kind: ClassVar[str] = "test-leaf"
    width: int


@spec_kind
@dataclass(frozen=True)
class Tree:
    kind: ClassVar[str] = "test-tree"
    leaves: tuple[Leaf, ...]
    size: tuple[int, int] = (1, 2)
    rate: float = 0.0
    mode: Literal["a", "b"] = "a"
    note: str | None = None


TREE = Tree((Leaf(1), Leaf(2)), rate=0.5, note="x")


def test_a_spec_reads_back() -> None:
    assert from_json(to_json(TREE)) == TREE
    assert from_json(to_json(Tree(()))) == Tree(())


def test_defaults_are_left_out_and_ids_follow_values() -> None:
    assert to_json(Tree((Leaf(1),))) == {"kind": "test-tree", "leaves": [{"kind": "test-leaf", "width": 1}]}
    assert spec_id(TREE) == spec_id(from_json(to_json(TREE))) != spec_id(Tree(()))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"width": 1}, "needs a 'kind'"),
        ({"kind": "test-lef", "width": 1}, "test-leaf"),
        ({"kind": "test-leaf", "width": 1.5}, "width must be int"),
        ({"kind": "test-leaf", "width": True}, "width must be int"),
        ({"kind": "test-leaf", "widht": 1}, "width"),
        ({"kind": "test-leaf"}, "lacks width"),
        ({"kind": "test-tree", "leaves": 3}, "must be a list"),
        ({"kind": "test-tree", "leaves": [3]}, "must be a spec"),
        ({"kind": "test-tree", "leaves": [{"kind": "test-tree", "leaves": []}]}, "cannot stand where Leaf"),
        ({"kind": "test-tree", "leaves": [], "size": [1]}, "must have 2 values"),
        ({"kind": "test-tree", "leaves": [], "mode": "c"}, "one of 'a', 'b'"),
        ({"kind": "os.system", "width": 1}, "unknown spec kind"),
    ],
)
def test_a_wrong_spec_is_one_line(data: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        from_json(data)
    assert "\n" not in str(caught.value)


def test_canonical_text_does_not_depend_on_order() -> None:
    assert canonical({"b": 1, "a": [1, 2]}) == canonical({"a": [1, 2], "b": 1})
