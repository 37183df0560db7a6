"""Environments whose infos differ from row to row, or are wrong.

Workers under another interpreter import this.
"""

from collections import UserDict

import gymnasium
import numpy as np

SCORES = [0, 0.5, 0.75, 1]
VALUES = {
    "int, float": SCORES,
    "bool, float": [True, 0.5, False, 2.5],
    "uint8, float": [np.uint8(3), 0.5, np.uint8(0), 1],
    "float32, float": [np.float32(0.5), 0.1, 2, np.float32(3)],
    "0-d arrays": [np.array(1), np.array(0.5), np.array(True), np.array(np.float32(2))],
    "large": [1, 2**53 + 1, 0.5, -(2**63)],
    "huge": [2**64, 1, 10**400, 0.5],
    "none": [1.5, None, 2, None],
    "text": [1, "won", 2.5, ""],
    "a dict": [1, {"x": 2, "y": {"z": 0.5}}, {}, 0.5],
    "a dict first": [{"x": 1, "y": {"z": 2}}, 3, {"x": 0.5}, None],
    "arrays": [np.arange(2), np.array([0.5, 1]), np.array([True, False]), np.arange(2)],
    "shapes": [np.arange(3), np.arange(2), np.zeros((2, 2)), np.array(7)],
    "array, number": [np.arange(3), 5, [1, 2, 3], 0.5],
    "texts": [np.array(["a"]), np.array(["long"]), np.array([1]), "x"],
}


class Scored(gymnasium.Env):
    """Ends its episode at every step, with a value of `VALUES[name]` by its seed."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, name):
        self.name = name

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.number = seed
        return 0, {}

    def step(self, action):
        value = VALUES[self.name][self.number]
        return 0, 0.0, True, False, {"score": value, "deep": {"score": value}}


class Strange(Scored):
    """Its info in the first step is `WRONG[name]()`."""

    def step(self, action):
        return 0, 0.0, False, False, WRONG[self.name]() if self.number == 2 else {}


class Ending(Strange):
    """Its episode ends there, so that SAME_STEP keeps the info beside that of the reset."""

    def step(self, action):
        return 0, 0.0, True, False, super().step(action)[4]


class Refusing(UserDict):
    def items(self):
        raise OSError("disk on fire")


class RefusingDict(dict):
    def items(self):
        raise OSError("disk on fire")


def deep():
    info = {}
    for _ in range(5000):
        info = {"in": info}
    return info


def cyclic():
    info = {}
    info["self"] = info
    return info


WRONG = {
    "a list": (lambda: [1, 2], "info: expected a dict, got list"),
    "text": (lambda: "fine", "info: expected a dict, got str"),
    "too deep": (deep, "info: dicts may be nested 64 deep"),
    "cyclic": (cyclic, "info: dicts may be nested 64 deep"),
    "refusing": (Refusing, "Refusing, whose items can't be read .OSError: disk on fire"),
    "inside": (lambda: {"a": {"b": RefusingDict(c=1)}}, "RefusingDict, whose items can't be read"),
}
WRONG, SAID = ({name: each[i] for name, each in WRONG.items()} for i in range(2))


class Nested(Scored):
    def step(self, action):
        inner = []
        for _ in range(100_000):
            inner = [inner]
        return 0, 0.0, False, False, {"list": inner, "x": 1}
