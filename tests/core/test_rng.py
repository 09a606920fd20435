from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sartor.core.rng import generator, seed_of, uniforms

seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.lists(st.integers(0, 10**9), min_size=1, max_size=20), st.integers(1, 8))
def test_a_draw_depends_on_its_own_place_alone(seed: int, indices: list[int], draws: int) -> None:
    together = uniforms(seed, np.array(indices), draws)
    for index, row in zip(indices, together, strict=True):
        np.testing.assert_array_equal(uniforms(seed, np.array([index]), draws)[0], row)
    assert ((together >= 0) & (together < 1)).all()


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = uniforms(7, np.arange(20000), 4)
    assert abs(u.mean() - 0.5) < 0.005
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03
    counts, _ = np.histogram(u, 20)
    assert (counts / counts.mean()).std() < 0.05
    other = uniforms(8, np.arange(20000), 4)
    assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 0.03


def test_seeds_follow_their_parts() -> None:
    assert seed_of(1, "a") == seed_of(1, "a") != seed_of(1, "b")
    assert generator(1, "a").integers(1 << 60) == generator(1, "a").integers(1 << 60)
