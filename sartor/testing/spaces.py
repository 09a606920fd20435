"""The laws of search spaces, each a function that raises AssertionError with what is broken.

A third party's tests need the space and one line::

    check_space(my_space)

or, one test per law and space, with pytest::

    @pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in cases({"mine": my_space})])
    def test_space(check):
        check()
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from sartor.core.budget import Bound, Budget
from sartor.core.cost import Quantity
from sartor.core.space import Config, SearchSpace
from sartor.core.spec import spec_id

SEEDS = range(10)


def check_space(space: SearchSpace, laws: Iterable[str] | None = None, seeds: Iterable[int] = SEEDS) -> None:
    """Hold a space against ``laws`` (default: all of ``LAWS``) once for each seed; raises AssertionError."""
    for law in LAWS if laws is None else laws:
        for seed in seeds:
            LAWS[law](space, seed)


def cases(
    spaces: Mapping[str, SearchSpace], laws: Iterable[str] | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """One check without arguments for each named space and law, under the name ``space-law``."""
    for name, space in spaces.items():
        for law in LAWS if laws is None else laws:
            yield f"{name}-{law}", partial(check_space, space, (law,))


def repeats(space: SearchSpace, seed: int) -> None:
    """Sampling, mutating and crossing give the same configurations for the same generator."""
    first, second = (_operations(space, np.random.default_rng(seed)) for _ in range(2))
    assert first == second, "an operation does not repeat for the same generator"
    assert len({*first}) == len({*second}), "equal configurations have different hashes"


def encodes(space: SearchSpace, seed: int) -> None:
    """Whatever comes out of the space survives encoding, with noise below one half, and JSON."""
    for config in _operations(space, np.random.default_rng(seed)):
        vector = space.encode(config)
        assert space.decode(vector) == config, f"decode(encode(c)) is not {config}"
        assert space.decode(vector + 0.3) == config, f"decode does not round to {config}"
        plain = json.loads(json.dumps(dict(config)))
        assert (space.encode(plain) == vector).all(), f"{config} read from JSON is encoded otherwise"


def determines(space: SearchSpace, seed: int) -> None:
    """Equal configurations give equal specs and costs."""
    a, b = (space.sample(np.random.default_rng(seed)) for _ in range(2))
    assert spec_id(space.spec(a)) == spec_id(space.spec(b)), f"{a} has two specs"
    assert space.count(a) == space.count(b), f"{a} has two costs"


def bounds(space: SearchSpace, seed: int) -> None:
    """All operations of a space within a band of counted parameters stay inside it."""
    rng = np.random.default_rng(seed)
    centre = space.count(space.sample(rng)).value("params")
    low, high = (Budget((Bound(Quantity("params"), False, centre * share),)) for share in (0.5, 2.0))
    for config in _operations(space.within(high, low), rng):
        params = space.count(config).value("params")
        assert 0.5 * centre <= params <= 2.0 * centre, f"{config} with {params:.0f} parameters left the band"


LAWS: Mapping[str, Callable[[SearchSpace, int], None]] = {
    "repeats": repeats,
    "encodes": encodes,
    "determines": determines,
    "bounds": bounds,
}


def _operations(space: SearchSpace, rng: np.random.Generator) -> list[Config]:
    a, b = space.sample(rng), space.sample(rng)
    return [a, b, space.mutate(a, rng), space.mutate(b, rng, 0.5), space.cross(a, b, rng)]
