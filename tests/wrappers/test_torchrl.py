"""Vectors as TorchRL environments, checked by its own `check_env_specs`."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import shoal

pytest.importorskip("torchrl")
import torch
from mpe2 import simple_spread_v3
from torchrl.envs import GymEnv, check_env_specs

from shoal.wrappers import FrameStack
from shoal.wrappers.torchrl import ShoalEnv
from tests.vectorization.environments import Crowd, Everything


def make(env, num_envs=3, **kwargs):
    action_mask = kwargs.pop("action_mask", False)
    vector = shoal.vectorize(
        env, num_envs, **{"backend": "serial", **kwargs}, autoreset="disabled", seed=0
    )
    return ShoalEnv(vector, action_mask=action_mask)


class Actions(gymnasium.Env):
    """Any action space; notes the last action."""

    observation_space = spaces.Box(0, 1, (2,), np.float64)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.action = action
        return np.zeros(2), 1.0, False, False, {}


HALF_BOUNDED = spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 1]), dtype=np.float64)
ENVS = {
    "CartPole": ("CartPole-v1", {}),
    "masks": ("CartPole-v1", {"action_mask": True}),
    "Pendulum": ("Pendulum-v1", {}),
    "FrozenLake": ("FrozenLake-v1", {}),
    "everything": (Everything, {"max_len": 256}),
    "discrete from 5": (functools.partial(Actions, spaces.Discrete(3, start=5)), {}),
    "several": (functools.partial(Actions, spaces.MultiDiscrete([3, 2], start=[1, 0])), {}),
    "unbounded": (functools.partial(Actions, spaces.Box(-np.inf, np.inf, (2,))), {}),
    "half bounded": (functools.partial(Actions, HALF_BOUNDED), {}),
    "binary": (functools.partial(Actions, spaces.MultiBinary(3)), {}),
    "nested": (
        functools.partial(Actions, spaces.Tuple((spaces.Discrete(2), spaces.Discrete(4)))),
        {},
    ),
    "spread": (simple_spread_v3.parallel_env, {}),
    "dying": (functools.partial(Crowd, dying=True), {}),
}


@pytest.mark.parametrize("name", ENVS)
def test_torchrls_own_check(name):
    env, kwargs = ENVS[name]
    env = make(env, **kwargs)
    check_env_specs(env, break_when_any_done="both")
    env.close()


def replay(actions, env):
    """A policy that takes these actions, in the way that `env` wants them."""
    at = iter(actions)

    def policy(tensordict):
        action = next(at)
        if isinstance(env, GymEnv):
            return tensordict.set("action", torch.nn.functional.one_hot(action, 2))
        return tensordict.set("action", action.reshape(1))

    return policy


def test_a_rollout_is_that_of_torchrls_own_wrapper():
    """Episode ends, resets of what is done and their observations included."""
    ours, theirs = make("CartPole-v1", 1), GymEnv("CartPole-v1")
    actions = torch.randint(2, (120,), generator=torch.Generator().manual_seed(0))
    rollouts = []
    for env in (ours, theirs):
        begin = {"auto_reset": False, "tensordict": env.reset(seed=3)}
        policy = replay(actions, env)
        rollouts.append(env.rollout(120, policy, break_when_any_done=False, **begin))
    one, other = rollouts[0][0], rollouts[1]
    assert other["next", "done"].sum() >= 3
    for key in ("observation", ("next", "observation"), ("next", "reward"), ("next", "done")):
        assert torch.equal(one[key], other[key]), key
    for key in (("next", "terminated"), ("next", "truncated")):
        assert torch.equal(one[key], other[key]), key


def test_several_environments_end_and_go_on_by_themselves():
    env = make("CartPole-v1", 4, backend="multiprocess", num_workers=2)
    data = env.rollout(200, break_when_any_done=False)
    assert data.batch_size == (4, 200)
    ended = data["next", "done"][:, :-1, 0]
    assert ended.sum() >= 16
    follows = data["next", "observation"][:, :-1]
    begins = data["observation"][:, 1:]
    assert torch.equal(follows[~ended], begins[~ended])
    assert (begins[ended].abs() <= 0.05).all()  # CartPole begins there
    env.close()


def test_wrapped_vectors_and_wrong_ones():
    vector = shoal.vectorize("CartPole-v1", 2, backend="serial", autoreset="disabled")
    env = ShoalEnv(FrameStack(vector, 3))
    check_env_specs(env)
    assert env.rollout(5)["observation"].shape == (2, 5, 3, 4)
    with pytest.raises(ValueError, match="disabled"):
        ShoalEnv(shoal.vectorize("CartPole-v1", 2, backend="serial"))
    with pytest.raises(ValueError, match="discrete"):
        make("Pendulum-v1", action_mask=True)
