"""An environment and a policy of your own, trained by name:

    shoal train examples/train_your_own.py:make --policy examples/train_your_own.py:Policy \\
        --total-steps 100_000
    shoal eval RUN --greedy

The environment observes a dict, as most do in earnest; the policy takes from it what it needs.
"""

# run by: shoal train

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from shoal.trainers.policies import ActionHead, linear

__all__ = ["Delivery", "Policy", "make"]

SIDE = 6
MOVES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


class Delivery(gymnasium.Env):
    """Fetch a parcel and bring it to its address, on a grid; +1 for each, and nothing else.

    The shortest way takes 8 steps in the mean. Who has not delivered after 60 is called back.
    """

    place = spaces.Box(0, SIDE - 1, (2,), np.int64)
    observation_space = spaces.Dict(
        {"courier": place, "parcel": place, "address": place, "carrying": spaces.Discrete(2)}
    )
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.courier, self.parcel, self.address = self.np_random.integers(0, SIDE, (3, 2))
        self.carrying = self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.courier = np.clip(self.courier + MOVES[action], 0, SIDE - 1)
        self.steps += 1
        reward = 0.0
        if not self.carrying and (self.courier == self.parcel).all():
            self.carrying, reward = 1, 1.0
        delivered = bool(self.carrying and (self.courier == self.address).all())
        info = {"delivered": float(delivered)} if delivered or self.steps == 60 else {}
        return self.observe(), reward + delivered, delivered, self.steps == 60, info

    def observe(self):
        parcel = self.courier if self.carrying else self.parcel
        return {
            "courier": self.courier,
            "parcel": parcel,
            "address": self.address,
            "carrying": self.carrying,
        }


def make():
    """What `shoal train` calls for each copy of the environment."""
    return Delivery()


class Policy(nn.Module):
    """Looks at the way to the parcel and to the address rather than at where things are."""

    def __init__(self, observation_layout, action_layout, config):
        super().__init__()
        self.layout = observation_layout
        self.num_features = config.hidden_size
        self.body = nn.Sequential(
            linear(5, config.hidden_size), nn.Tanh(), linear(config.hidden_size, config.hidden_size)
        )
        self.head = ActionHead(config.hidden_size, action_layout)
        self.value = linear(config.hidden_size, 1, gain=1)

    def encode(self, observations):
        """Rows as the environments wrote them; `view` finds the dict in them without a copy."""
        seen = self.layout.view(observations)
        to_parcel = seen["parcel"] - seen["courier"]
        to_address = seen["address"] - seen["courier"]
        ways = torch.cat([to_parcel, to_address, seen["carrying"][:, None]], 1)
        return torch.tanh(self.body(ways.float() / SIDE))

    def decode(self, features):
        return self.head(features), self.value(features).squeeze(1)
