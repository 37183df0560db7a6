"""cartpole.c beside Gymnasium's CartPole-v1, from the same states with the same actions."""

import struct

import gymnasium
import numpy as np
import pytest

import shoal
from shoal.ocean_c.native_env import NativeEnv

STATE = struct.Struct("4d")  # x, speed, angle, turning; they follow the generator
GENERATOR = 16  # bytes


def test_the_spaces_and_the_limit_are_gymnasiums():
    theirs, ours = gymnasium.make("CartPole-v1"), NativeEnv("cartpole")
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.module_spec.max_steps == theirs.spec.max_episode_steps


@pytest.mark.parametrize("episodes", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_it_is_gymnasiums_step_by_step(episodes):
    theirs, ours = gymnasium.make("CartPole-v1"), NativeEnv("cartpole")
    head = len(ours.env.engine.get_state(0)) - ours.module_spec.state_size
    random = np.random.default_rng(0)
    longest = 0
    for episode in range(episodes):
        theirs.reset(seed=episode)
        ours.reset(seed=episode)
        over, steps = False, 0
        # Every third episode is a good player's, which stands for long.
        skilled = episode % 3 == 0
        while not over:
            if steps % 100 == 0:  # the last bit of a double grows while the pole is kept upright
                saved = bytearray(ours.env.engine.get_state(0))
                STATE.pack_into(saved, head + GENERATOR, *map(float, theirs.unwrapped.state))
                ours.env.engine.set_state(0, bytes(saved))
            _, _, angle, turning = theirs.unwrapped.state
            action = int(angle + turning > 0) if skilled else int(random.integers(2))
            a, b = theirs.step(action), ours.step(action)
            np.testing.assert_allclose(b[0], a[0], rtol=2e-6, atol=1e-7)
            assert a[1:4] == b[1:4]
            over, steps = a[2] or a[3], steps + 1
        longest = max(longest, steps)
    assert longest == 500
    theirs.close(), ours.close()


def test_the_continuous_cart_is_pushed_by_a_share_of_the_force():
    full = shoal.vectorize("cartpole", 8, env_kwargs={"continuous": True}, seed=0)
    steps = shoal.vectorize("cartpole", 8, seed=0)
    assert full.single_action_space == gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    full.reset(), steps.reset()
    random = np.random.default_rng(0)
    for _ in range(100):
        actions = random.integers(0, 2, 8)
        # Beyond the bounds is as far as they go.
        pushes = np.where(actions == 1, 1.0, -1.0).astype(np.float32)[:, None]
        for a, b in zip(full.step(pushes)[:4], steps.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    full.close(), steps.close()
    half = NativeEnv("cartpole", continuous=True, force=20)
    whole = NativeEnv("cartpole", continuous=True, force=10)
    half.reset(seed=0), whole.reset(seed=0)
    a, b = half.step(np.array([0.5], np.float32)), whole.step(np.array([1.0], np.float32))
    np.testing.assert_array_equal(a[0], b[0])
    half.close(), whole.close()
