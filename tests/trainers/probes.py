"""Small environments, each of which a trainer with one particular fault can't solve.

A class is an environment; what it needs of a trainer is in its docstring, with the best return and
what a random policy gets.
"""

from __future__ import annotations

import functools

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

NOTHING = spaces.Box(0, 1, (1,), np.float32)


class Probe(gymnasium.Env):
    """An episode of `length` steps; subclasses say what is seen and what is paid."""

    length = 1
    observation_space: spaces.Space = NOTHING
    action_space: spaces.Space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.begin()
        return self.see(), self.info()

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float(self.pay(action))
        self.t += 1
        return self.see(), reward, self.over(), False, self.info()

    def begin(self):
        pass

    def see(self):
        return np.zeros(1, np.float32)

    def pay(self, action):
        return 0

    def over(self):
        return self.t == self.length

    def info(self):
        return {}


# -- values ----------------------------------------------------------------------------------------


class Constant(Probe):
    """Always pays 1, once: the value is 1. Needs a value loss and its gradient."""

    def pay(self, action):
        return 1


class Endless(Probe):
    """Pays 1 each step and is cut off after 8, which the policy can't see: worth 1 / (1 - gamma).

    Needs the value of the true final observation at truncations.
    """

    def pay(self, action):
        return 1

    def over(self):
        return False

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.t == 8, info


class Ending(Probe):
    """Pays 1 each step and ends after 8. Needs returns that stop at the end."""

    length = 8

    def pay(self, action):
        return 1


class Delayed(Probe):
    """The first action of six steps decides the reward of the last. Best 1, random 0.5.

    Needs rewards that travel back over several steps, discounted.
    """

    length = 6
    observation_space = spaces.Box(0, 1, (8,), np.float32)

    def begin(self):
        self.first = 0

    def see(self):
        seen = np.zeros(8, np.float32)
        seen[self.t] = 1
        seen[7] = self.first
        return seen

    def pay(self, action):
        if self.t == 0:
            self.first = int(action)
        return self.first if self.t == 5 else 0


# -- policies --------------------------------------------------------------------------------------


class TwoActions(Probe):
    """One action pays 1, the other nothing. Best 1, random 0.5. Needs a policy gradient."""

    def pay(self, action):
        return action


class Memory(Probe):
    """Shows a cue, then nothing for three steps, and asks for it. Best 1, random 0.

    Without memory 0 is the best, too. Needs recurrence, in acting and in learning alike, and its
    state emptied between episodes: cues of the episode before would only mislead.
    """

    length = 5
    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def begin(self):
        self.cue = int(self.np_random.integers(2))

    def see(self):
        cue = 2 * self.cue - 1 if self.t == 0 else 0
        return np.array([cue, self.t == 4], np.float32)

    def pay(self, action):
        return (1 if action == self.cue else -1) if self.t == 4 else 0


class Password(Probe):
    """Pays 1 for the right six actions in a row; a wrong one ends it. Best 1, random 1 / 64.

    Needs exploration that lasts, and to make much of a rare reward.
    """

    observation_space = spaces.Discrete(7)
    password = (1, 0, 0, 1, 1, 0)

    def begin(self):
        self.wrong = False

    def see(self):
        return self.t

    def pay(self, action):
        self.wrong = bool(action != self.password[self.t])
        return self.t == 5 and not self.wrong

    def over(self):
        return self.wrong or self.t == 6


class Mixed(Probe):
    """Pays whoever keeps the share of action 1 at three quarters by action 0, which is not seen.

    Two more actions pay nothing. A policy that always does the same gets at most 3 of 16, a random
    one 4; doing 1 with probability 0.7, and else 0, gets about 10. Needs a policy that stays
    random, at the right odds.
    """

    length = 16
    action_space = spaces.Discrete(4)

    def begin(self):
        self.ones = 0

    def pay(self, action):
        wanted = 1 if self.ones < 0.75 * (self.t + 1) else 0
        self.ones += action == 1
        return action == wanted


class Masked(Probe):
    """Pays 1 for the highest legal action of eight; an illegal one is an error. Best 1, random 0.3.

    Needs the mask in sampling and in learning.
    """

    observation_space = spaces.Dict(
        {
            "observation": spaces.MultiBinary(8),
            "action_mask": spaces.Box(0, 1, (8,), np.int8),
        }
    )
    action_space = spaces.Discrete(8)

    def see(self):
        self.legal = np.zeros(8, np.int8)
        some = self.np_random.choice(8, self.np_random.integers(1, 6), replace=False)
        self.legal[some] = 1
        return {"observation": self.legal.copy(), "action_mask": self.legal.copy()}

    def pay(self, action):
        assert self.legal[action], f"action {action} is illegal"
        return action == np.flatnonzero(self.legal)[-1]


class Identity(ParallelEnv):
    """Each of three agents is paid for the action that is its number. Best 1 a step, random 1/3.

    Agents leave one after the other, after 2, 3 and 4 steps. Needs rows that stay apart, and the
    rows of those that have left out of everything.
    """

    def __init__(self):
        self.metadata = {"name": "identity"}
        self.possible_agents = ["a", "b", "c"]

    def observation_space(self, agent):
        return spaces.Discrete(3)

    def action_space(self, agent):
        return spaces.Discrete(3)

    observation_space = functools.cache(observation_space)
    action_space = functools.cache(action_space)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.t = 0
        return {agent: i for i, agent in enumerate(self.agents)}, {a: {} for a in self.agents}

    def step(self, actions):
        self.t += 1
        number = {agent: self.possible_agents.index(agent) for agent in self.agents}
        rewards = {agent: float(actions[agent] == number[agent]) for agent in self.agents}
        ends = {agent: self.t == 2 + number[agent] for agent in self.agents}
        nothing = dict.fromkeys(self.agents, False), {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return number, rewards, ends, *nothing


# -- every space -----------------------------------------------------------------------------------


class Aim(Probe):
    """Pays up to 1 for an action near the one of two that the observation names. Best 1.

    One step, for any action space: `targets` are two actions of it.
    """

    observation_space = spaces.Discrete(2)

    def __init__(self, action_space, targets):
        self.action_space = action_space
        self.targets = targets

    def see(self):
        self.which = int(self.np_random.integers(2))
        return self.which

    def pay(self, action):
        return likeness(self.action_space, action, self.targets[self.which])


def likeness(space, action, target):
    """1 for the same, down to 0: categories are equal or not, numbers near or far."""
    if isinstance(space, spaces.Dict):
        return np.mean([likeness(space[key], action[key], target[key]) for key in space])
    if isinstance(space, spaces.Tuple):
        return np.mean([likeness(*parts) for parts in zip(space, action, target)])
    if isinstance(space, spaces.Box):
        return np.mean(np.maximum(0, 1 - np.abs(np.asarray(action) - target)))
    return np.mean(np.equal(action, target))


TARGETS = {
    "discrete": (spaces.Discrete(5, start=-2), (-2, 1)),
    "multi_discrete": (
        spaces.MultiDiscrete([3, 2, 4], start=[0, 5, -1]),
        (np.array([2, 5, 0]), np.array([0, 6, 2])),
    ),
    "multi_binary": (
        spaces.MultiBinary(4),
        (np.array([1, 0, 0, 1], np.int8), np.array([0, 1, 0, 1], np.int8)),
    ),
    "box": (
        spaces.Box(np.float32([-1, 0]), np.float32([1, 3])),
        (np.float32([-0.6, 2.5]), np.float32([0.6, 1.0])),
    ),
    "unbounded_box": (
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        (np.array([-0.5, 1.0]), np.array([0.5, 1.0])),
    ),
    "dict": (
        spaces.Dict({"move": spaces.Discrete(3), "turn": spaces.Box(-1, 1, (1,), np.float32)}),
        (
            {"move": 2, "turn": np.float32([0.5])},
            {"move": 0, "turn": np.float32([-0.5])},
        ),
    ),
    "nested": (
        spaces.Tuple(
            (
                spaces.MultiBinary(2),
                spaces.Dict({"x": spaces.Box(-2, 2, (2,)), "y": spaces.Discrete(2, start=1)}),
            )
        ),
        (
            (np.array([1, 0], np.int8), {"x": np.float32([1, -1]), "y": 1}),
            (np.array([0, 0], np.int8), {"x": np.float32([0, 1]), "y": 2}),
        ),
    ),
}


class Read(Probe):
    """Pays 1 for telling which of two kinds of observation was shown. Best 1, random 0.5.

    One step, for any observation space: ``show(bit, rng)`` makes an observation.
    """

    def __init__(self, observation_space, show):
        self.observation_space = observation_space
        self.show = show

    def see(self):
        self.bit = int(self.np_random.integers(2))
        return self.show(self.bit, self.np_random)

    def pay(self, action):
        return action == self.bit


def picture(shape, where):
    """Noise with a bright spot on one of two sides."""

    def show(bit, rng):
        seen = rng.integers(0, 100, shape).astype(np.uint8)
        seen[where[bit]] = 255
        return seen

    return show


ITEM = spaces.Dict({"kind": spaces.Discrete(3), "size": spaces.Box(0, 1, (1,), np.float32)})


def items(bit, rng):
    """A tuple of one to three items, the first of which is small or large."""
    sizes = [0.9 if bit else 0.1, *rng.random(rng.integers(3))]
    return tuple({"kind": int(rng.integers(3)), "size": np.float32([size])} for size in sizes)


def graph(bit, rng):
    """Two or three nodes, and an edge whose number says which."""
    nodes = rng.random((rng.integers(2, 4), 2)).astype(np.float32)
    return spaces.GraphInstance(nodes, np.array([1 + bit]), np.array([[0, 1]]))


# Name: (space, show, arguments of vectorize).
SHOWN = {
    "box": (
        spaces.Box(-np.inf, np.inf, (3,), np.float64),
        lambda bit, rng: np.array([rng.normal(), 2 * bit - 1, rng.normal()]),
        {},
    ),
    "integers": (
        spaces.Box(0, 1000, (2,), np.int32),
        lambda bit, rng: np.array([rng.integers(1000), 100 + 800 * bit], np.int32),
        {},
    ),
    "image": (
        spaces.Box(0, 255, (16, 18, 3), np.uint8),
        picture((16, 18, 3), (np.s_[4:10, 2:8], np.s_[4:10, 10:16])),
        {},
    ),
    "channels_first_image": (
        spaces.Box(0, 255, (1, 20, 20), np.uint8),
        picture((1, 20, 20), (np.s_[:, 4:10, 2:8], np.s_[:, 4:10, 12:18])),
        {},
    ),
    "large_image": (
        spaces.Box(0, 255, (84, 84, 3), np.uint8),
        picture((84, 84, 3), (np.s_[8:34, 8:34], np.s_[8:34, 50:76])),
        {},
    ),
    "grid": (
        spaces.Box(0, 40, (8, 9), np.int16),
        lambda bit, rng: np.where(rng.random((8, 9)) < 0.2, 17 + bit, 3).astype(np.int16),
        {},
    ),
    "discrete": (spaces.Discrete(50, start=7), lambda bit, rng: 7 + 2 * rng.integers(25) + bit, {}),
    "many_discrete": (
        spaces.Discrete(5000),
        lambda bit, rng: 40 + rng.integers(4) + 4000 * bit,
        {},
    ),
    "multi_discrete": (
        spaces.MultiDiscrete([3, 4], start=[1, -2]),
        lambda bit, rng: np.array([1 + rng.integers(3), -2 + 3 * bit]),
        {},
    ),
    "multi_binary": (
        spaces.MultiBinary([2, 2]),
        lambda bit, rng: np.array([[rng.integers(2), bit], [rng.integers(2), 1]], np.int8),
        {},
    ),
    "text": (
        spaces.Text(6),
        lambda bit, rng: ("yes" if bit else "no") + "abc"[: rng.integers(1, 4)],
        {},
    ),
    "tuple": (
        spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (2,), np.float32))),
        lambda bit, rng: (int(rng.integers(3)), np.float32([bit, rng.random()])),
        {},
    ),
    "nested_dict": (
        spaces.Dict(
            {
                "a": spaces.Dict({"b": spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(2)))}),
                "c": spaces.Box(0, 255, (3,), np.uint8),
            }
        ),
        lambda bit, rng: {
            "a": {"b": (rng.integers(0, 2, 2).astype(np.int8), bit)},
            "c": rng.integers(0, 256, 3).astype(np.uint8),
        },
        {},
    ),
    "sequence": (spaces.Sequence(ITEM), items, {"max_len": 3}),
    "graph": (
        spaces.Graph(spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(4)),
        graph,
        {"max_len": 4},
    ),
    "one_of": (
        spaces.OneOf((spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32))),
        lambda bit, rng: (
            (1, rng.random(2).astype(np.float32)) if bit else (0, int(rng.integers(4)))
        ),
        {},
    ),
}
