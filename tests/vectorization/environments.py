"""Environments with random episodes, in which every observation depends on all that came before."""

import functools
import random

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


def draw(space, rng):
    """A member of a space, the same whatever the version of Gymnasium."""

    def several(item):
        return tuple([draw(item, rng) for _ in range(rng.integers(5))])

    if isinstance(space, spaces.Box):
        low, high = np.maximum(space.low, -9.0), np.minimum(space.high, 300.0)
        return np.array(rng.uniform(low, high), space.dtype)
    if isinstance(space, spaces.Discrete):
        return space.start + rng.integers(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=space.n).astype(np.int8)
    if isinstance(space, spaces.Text):
        letters = sorted(space.character_set)
        return "".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(1, 9)))
    if isinstance(space, spaces.Dict):
        return {key: draw(space[key], rng) for key in sorted(space.spaces)}
    if isinstance(space, spaces.Tuple):
        return tuple(draw(part, rng) for part in space.spaces)
    if isinstance(space, spaces.OneOf):
        tag = rng.integers(len(space.spaces))
        return tag, draw(space.spaces[tag], rng)
    if isinstance(space, spaces.Sequence):
        return several(space.feature_space)
    nodes = rng.uniform(0, 1, (rng.integers(1, 5), 2)).astype(np.float32)
    edges = rng.integers(space.edge_space.n, size=rng.integers(1, 5))
    links = rng.integers(len(nodes), size=(len(edges), 2)).astype(np.int32)
    return spaces.GraphInstance(nodes, edges, links)


class Everything(gymnasium.Env):
    """All kinds of observations, a hybrid action, infos that come and go, random lengths."""

    observation_space = spaces.Dict(
        {
            "state": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "pixels": spaces.Box(0, 255, (4, 5), np.uint8),
            "half": spaces.Box(-1, 1, (2, 2), np.float16),
            "card": spaces.Discrete(5, start=-2),
            "dice": spaces.MultiDiscrete([3, 4]),
            "lamps": spaces.MultiBinary(6),
            "word": spaces.Text(8),
            "pair": spaces.Tuple((spaces.Discrete(3), spaces.Box(-9, 9, (), np.int16))),
            "either": spaces.OneOf((spaces.Discrete(7), spaces.Box(0, 1, (2,), np.float32))),
            "queue": spaces.Sequence(spaces.Box(0, 1, (2,), np.float32)),
            "web": spaces.Graph(spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(3)),
        }
    )
    action_space = spaces.Dict(
        {
            "move": spaces.Discrete(3, start=1),
            "force": spaces.Box(-1, 1, (2,), np.float32),
        }
    )

    def __init__(self):
        self.look = np.random.default_rng()
        self.state = np.zeros(3)  # one array for ever, so that a late look at it shows

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.look = np.random.default_rng(seed)
        self.state[:] = self.np_random.normal(size=3)
        self.left = self.np_random.geometric(0.08)
        return self.observation(), {"born": 1.0, "options": options and dict(options)}

    def observation(self):
        return {**draw(self.observation_space, self.look), "state": self.state}

    def step(self, action):
        assert self.action_space.contains(action)
        self.state[:2] += action["force"]
        self.state[2] = 0.9 * self.state[2] + action["move"]
        self.left -= 1
        info = {}
        if self.np_random.random() < 0.5:
            info = {"left": int(self.left), "state": self.state.copy(), "deep": {"move": "left"}}
        over = bool(self.left <= 0)
        terminated = over and bool(self.np_random.random() < 0.5)
        return (
            self.observation(),
            float(self.state.sum()),
            terminated,
            over and not terminated,
            info,
        )


class Crowd(ParallelEnv):
    """Agents with a random walk each.

    Args:
        dying: they end one after the other, not all at once.
        joining: others join; there are no `possible_agents`.
    """

    metadata = {"render_modes": [], "name": "crowd"}  # noqa: RUF012

    def __init__(self, dying=False, joining=False):
        self.dying, self.joining = dying, joining
        if not joining:
            self.possible_agents = [f"agent_{i}" for i in range(4)]
        self.np_random = np.random.default_rng()
        self.agents = []

    @functools.lru_cache(maxsize=None)  # noqa: B019, UP033  (for Python 3.8)
    def observation_space(self, agent):
        return spaces.Box(-np.inf, np.inf, (3,), np.float32)

    @functools.lru_cache(maxsize=None)  # noqa: B019, UP033  (for Python 3.8)
    def action_space(self, agent):
        return spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        self.agents = [f"agent_{i}" for i in range(4)]
        self.born = 4
        self.at = {agent: self.np_random.normal(size=3) for agent in self.agents}
        return self.observations(), {agent: {"born": True} for agent in self.agents}

    def observations(self):
        return {agent: np.float32(self.at[agent]) for agent in self.agents}

    def step(self, actions):
        assert actions.keys() == set(self.agents)
        infos, rewards = {}, {}
        for agent in self.agents:
            self.at[agent] += self.np_random.normal(size=3) + actions[agent]
            rewards[agent] = float(self.at[agent][0])
            infos[agent] = {"where": self.at[agent].copy()} if rewards[agent] > 0 else {}
        if self.dying:
            ending = {agent for agent in self.agents if self.np_random.random() < 0.1}
        else:
            ending = set(self.agents) if self.np_random.random() < 0.06 else set()
        cut = self.np_random.random() < 0.5
        observations = self.observations()
        terminations = {agent: agent in ending and not cut for agent in self.agents}
        truncations = {agent: agent in ending and cut for agent in self.agents}
        self.agents = [agent for agent in self.agents if agent not in ending]
        if self.joining and self.agents and len(self.agents) < 5 and self.np_random.random() < 0.2:
            agent = f"agent_{self.born}"
            self.born += 1
            self.agents.append(agent)
            self.at[agent] = self.np_random.normal(size=3)
            observations[agent] = np.float32(self.at[agent])
            infos[agent] = {"born": True}
        return observations, rewards, terminations, truncations, infos


class Global(gymnasium.Env):
    """Draws from the global generators, as no environment should and many do."""

    observation_space = spaces.Box(0, 1, (3,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, torch=False):
        if torch:
            import torch
        self.torch = torch

    def reset(self, *, seed=None, options=None):
        return self.draw(), {}

    def step(self, action):
        return self.draw(), 0.0, False, False, {}

    def draw(self):
        last = self.torch.rand(()).item() if self.torch else 0.0
        return np.array([random.random(), np.random.random(), last])
