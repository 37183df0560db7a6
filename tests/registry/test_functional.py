"""Environments in JAX: functions of one copy, and the recipes for libraries of them."""

import gymnasium
import numpy as np
import pytest

import shoal

jax = pytest.importorskip("jax", reason="not among the tests' own packages")

import jax.numpy as jnp  # noqa: E402
from gymnasium import spaces  # noqa: E402

from shoal.registry.functional import FunctionalEnv  # noqa: E402


def reset(key):
    at = jax.random.randint(key, (), -2, 3)
    return {"at": at}, (at, 0)


def step(key, state, action):
    at = state[0] + action + jax.random.randint(key, (), 0, 2)
    age = state[1] + 1
    reward = at.astype(jnp.float32)
    return {"at": at}, (at, age), reward, abs(at) > 4, age == 9, {"age": age}


def walks(num_envs):
    space = spaces.Dict({"at": spaces.Box(-9, 9, (), np.int32)})
    return FunctionalEnv(reset, step, num_envs, space, spaces.Discrete(3, start=-1))


class Walk(gymnasium.Env):
    """One copy with its own key, a step at a time."""

    observation_space = spaces.Dict({"at": spaces.Box(-9, 9, (), np.int32)})
    action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.key = jax.random.PRNGKey(seed)
        self.key, own = jax.random.split(self.key)
        observation, self.state = reset(own)
        return {"at": np.asarray(observation["at"])}, {}

    def step(self, action):
        self.key, own = jax.random.split(self.key)
        observation, self.state, reward, *over, _ = step(own, self.state, int(action))
        return {"at": np.asarray(observation["at"])}, float(reward), *map(bool, over), {}


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
def test_copies_do_what_each_does_alone(mode):
    mine = shoal.vectorize(walks, 4, autoreset=mode)
    reference = shoal.vectorize(Walk, 4, backend="serial", autoreset=mode)
    ours, theirs = mine.reset(seed=5)[0], reference.reset(seed=5)[0]
    assert (ours == theirs).all()
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(40):
        actions = rng.integers(-1, 2, 4)
        ours, theirs = mine.step(actions), reference.step(actions)
        for one, other in zip(ours[:4], theirs[:4], strict=True):
            assert (one == other).all()
        over = ours[2] | ours[3]
        ends += over.sum()
        if mode == "same_step":
            assert (mine.final_observations[over] == reference.final_observations[over]).all()
        elif over.any():
            options = {"reset_mask": over}
            assert (mine.reset(options=options)[0] == reference.reset(options=options)[0]).all()
    assert ends > 5


def test_a_copy_does_not_depend_on_how_many_others_there_are():
    many, one = shoal.vectorize(walks, 5), shoal.vectorize(walks, 1)
    assert many.reset(seed=7)[0][3] == one.reset(seed=10)[0][0]
    for _ in range(25):
        many_at, one_at = many.step(np.ones(5, np.int64))[0], one.step(np.ones(1, np.int64))[0]
        assert many_at[3] == one_at[0]


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="expected none but reset_mask, got"):
        walks(2).reset(options={"level": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module", "kwargs", "limit"),
    [
        ("gymnax", "gymnax", {"max_steps_in_episode": 30}, 30),
        ("jumanji", "jumanji", {}, None),
        ("brax", "brax", {"env_id": "fast", "episode_length": 30}, 30),
        ("craftax", "craftax", {"env_id": "Craftax-Classic-Symbolic-v1", "max_timesteps": 30}, 30),
    ],
)
def test_recipes(name, module, kwargs, limit):
    pytest.importorskip(module)
    vector = shoal.vectorize(name, 3, env_kwargs=kwargs, debug=name != "jumanji")
    vector.reset(seed=0)
    vector.action_space.seed(0)
    masked = vector.action_masks.shape[1] and not vector.action_masks.all()
    longest = ends = 0
    for _ in range(100):
        vector.send(vector.action_space.sample())
        batch = vector.recv()
        over = batch.terminations | batch.truncations
        ends += over.sum()
        longest = max(longest, vector.episode_lengths.max())
        if limit:
            assert (vector.episode_lengths[batch.truncations] == limit).all()
            assert over[vector.episode_lengths == limit].all()
        masked = masked or not vector.action_masks.all()
    assert ends and (limit is None or longest <= limit)
    assert masked == (name == "jumanji")
    vector.close()
