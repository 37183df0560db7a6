"""Vectors for Tianshou's collectors, beside its own `DummyVectorEnv`."""

import functools

import gymnasium
import numpy as np
import pytest

import shoal

pytest.importorskip("tianshou")
from tianshou.env import DummyVectorEnv

from shoal.errors import ClosedError
from shoal.wrappers.tianshou import ShoalVectorEnv
from tests.wrappers.environments import Walk


def pair(num_envs=4, **kwargs):
    vector = shoal.vectorize(
        Walk, num_envs, **{"backend": "serial", **kwargs}, autoreset="disabled"
    )
    return ShoalVectorEnv(vector), DummyVectorEnv([Walk] * num_envs)


@pytest.mark.parametrize(
    "kwargs", [{}, {"backend": "multiprocess", "num_workers": 2, "start_method": "fork"}]
)
def test_equal_to_dummy_vector_env(kwargs):
    """Steps and resets of some environments included."""
    ours, theirs = pair(**kwargs)
    rng = np.random.default_rng(0)
    assert len(ours) == 4 and ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    # Tianshou gives every environment the same seed in reset; ours count on, as everywhere.
    for i in range(4):
        theirs.reset([i], seed=7 + i)
    first, infos = ours.reset(seed=7)
    assert first.shape == (4, 2, 3) and infos.tolist() == [{}] * 4
    for _ in range(400):
        ids = rng.permutation(4)[: rng.integers(1, 5)]
        actions = rng.uniform(-1, 1, (len(ids), 2)).astype(np.float32)
        one, other = ours.step(actions, ids), theirs.step(actions, ids)
        for mine, its in zip(one[:4], other[:4]):
            assert (mine == its).all()
        assert one[4].tolist() == other[4].tolist()
        ended = ids[one[2] | one[3]]
        if len(ended):
            assert (ours.reset(ended)[0] == theirs.reset(ended)[0]).all()
    ours.close()
    with pytest.raises(ClosedError):
        ours.reset()


def test_seeds_and_wrong_vectors():
    ours, _ = pair(3)
    assert ours.seed(5) == [[5], [6], [7]]
    first = ours.reset()[0]
    assert (first[2] == Walk().reset(seed=7)[0]).all()
    assert ours.seed([1, None, 2]) == [[1], None, [2]]
    with pytest.raises(ValueError, match="disabled"):
        ShoalVectorEnv(shoal.vectorize(Walk, 2, backend="serial"))
    make = functools.partial(gymnasium.make, "CartPole-v1", render_mode="rgb_array")
    rendered = ShoalVectorEnv(shoal.vectorize(make, 2, backend="serial", autoreset="disabled"))
    rendered.reset()
    assert [frame.shape for frame in rendered.render()] == [(400, 600, 3)] * 2
    assert rendered.get_env_attr("gravity", [1]) == [9.8]
