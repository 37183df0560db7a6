"""Environments for test_soak.py, healthy and faulty; workers under an older Python import this."""

import os
import random
import signal

import gymnasium
import numpy as np
from gymnasium import spaces


class Healthy(gymnasium.Env):
    """All that it says depends on its index, its first seed and all of its actions since then.

    It was seeded with 1000 + `index` when it was made, and later seeds do nothing: one that takes
    the place of a lost one does the same again.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self, index):
        self.random = np.random.RandomState(1000 + index)
        self.observation = np.zeros(5)  # one array for ever, so that a late look at it shows
        self.sum = self.episodes = 0

    def reset(self, *, seed=None, options=None):
        self.time, self.length = 0, self.random.randint(1, 40)
        self.last = None
        self.episodes += 1
        return self.look(), {"episode": self.episodes}

    def look(self):
        self.observation[:2] = self.time, self.sum
        self.observation[2:] = self.random.normal(size=3)
        return self.observation

    def step(self, action):
        if self.last is not None:  # a batched environment steps on until it is reset
            return self.last
        self.time += 1
        self.sum = (self.sum * 31 + int(action) + self.random.randint(1000)) % 2**31
        info = {"sum": self.sum}
        if self.random.rand() < 0.3:
            info.update(array=self.observation, text="x" * self.random.randint(5000))
        over = self.time == self.length
        cut = over and self.sum % 2 == 0
        result = self.look(), float(self.random.normal()), over and not cut, cut, info
        self.last = result if over else None
        return result


class Fresh(Healthy):
    """Returns an array of its own each time: Gymnasium's vectors don't copy final observations."""

    def look(self):
        return super().look().copy()


class Faulty(Healthy):
    """Does one of its deeds now and then."""

    def __init__(self, index, deeds):
        super().__init__(index)
        self.deeds, self.chance = deeds, random.Random()

    def step(self, action):
        if self.chance.random() < 0.01:
            deed = self.chance.choice(self.deeds)
            if deed == "exit":
                os._exit(3)
            if deed == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("on purpose")
        return super().step(action)


def healthy(index=0):
    return Healthy(index)


def faulty(deeds=("raise",)):
    return Faulty(99, deeds)
