"""Environments with random episodes of a few steps, cheap enough for thousands of steps."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec


class Walk(gymnasium.Env):
    """A Box in, a Box out; terminates or is truncated at random; noisy rewards, told in parts.

    It draws nothing from `np_random`, which is left to wrappers around it.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
    action_space = spaces.Box(np.float32([-2, -1]), np.float32([2, 3]))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    spec = EnvSpec("Walk-v0", max_episode_steps=100)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.rng = np.random.default_rng(0)
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.episode += 1
        self.steps = 0
        self.state = self.rng.normal(5, 2, (2, 3)).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.advance(action)

    def advance(self, action):
        self.steps += 1
        self.state += self.rng.normal(0.1, 1, (2, 3)).astype(np.float32)
        self.state[:, :2] += action
        forward, cost = float(self.state.mean()), float(action @ action)
        over = bool(self.rng.random() < 0.05)
        cut = over and bool(self.rng.random() < 0.5)
        info = {"forward": forward, "cost": cost}
        return self.state.copy(), forward - cost, over and not cut, cut, info

    def render(self):
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[self.steps % 32, : self.steps + 1] = 255  # no two in a row alike
        return frame


DICE = np.stack(np.unravel_index(np.arange(6), (2, 3)), axis=1)
LAMPS = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1).astype(np.int8)
PIXELS = np.random.default_rng(0).integers(256, size=(97, 4, 2)).astype(np.uint8)


class Nested(Walk):
    """The same with a Dict of several dtypes, and discrete actions."""

    observation_space = spaces.Dict(
        {
            "at": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
            "card": spaces.Discrete(5, start=-1),
            "dice": spaces.MultiDiscrete([2, 3]),
            "lamps": spaces.MultiBinary(3),
            "pixels": spaces.Box(0, 255, (4, 2), np.uint8),
        }
    )
    action_space = spaces.Discrete(3)

    def nested(self):
        step = self.steps + self.episode
        return {
            "at": self.state.astype(np.float64),
            "card": step % 5 - 1,
            "dice": DICE[step % 6],
            "lamps": LAMPS[step % 8],
            "pixels": PIXELS[step % 97],
        }

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed)
        return self.nested(), info

    def step(self, action):
        assert self.action_space.contains(action)
        _, *rest = self.advance(np.float32([action - 1, action]))
        return self.nested(), *rest
