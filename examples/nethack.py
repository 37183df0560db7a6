"""A policy for NetHack that looks at what matters at first: what is near, and where to go.

Trained by `make demo` with the options in nethack.toml.
"""

# run by: shoal train

import torch
from torch import nn
from torch.nn import functional

from shoal.trainers.policies import ActionHead, linear

__all__ = ["Policy"]

REACH = 4  # cells seen on each side of oneself
GOALS = (">", "$")  # stairs down, gold


class Policy(nn.Module):
    """The map around oneself as embedded characters, the way to the nearest of each of `GOALS`, the
    numbers of the bottom line, and whether the game waits for an answer or a key.

    Args:
        observation_layout: must have ``chars`` (21, 79), ``blstats`` (27,) and ``misc`` (3,).
        action_layout: any.
        config: `hidden_size` is used.
    """

    def __init__(self, observation_layout, action_layout, config):
        super().__init__()
        self.layout = observation_layout
        self.num_features = config.hidden_size
        side = 2 * REACH + 1
        self.chars = nn.Embedding(256, 8)
        self.first = linear(side * side * 8 + 6 * len(GOALS) + 27 + 3, config.hidden_size)
        self.second = linear(config.hidden_size, config.hidden_size)
        self.head = ActionHead(config.hidden_size, action_layout)
        self.value = linear(config.hidden_size, 1, gain=1)

    def encode(self, observations):
        seen = self.layout.view(observations)
        stats, chars = seen["blstats"].float(), seen["chars"]
        x, y = seen["blstats"][:, 0], seen["blstats"][:, 1]
        near = self.chars(crop(chars, x, y).long()).flatten(1)
        goals = way_to([chars == ord(goal) for goal in GOALS], x, y)
        scaled = stats.sign() * stats.abs().log1p() / 4
        features = torch.cat([near, goals, scaled, seen["misc"].float()], 1)
        return torch.relu(self.second(torch.relu(self.first(features))))

    def decode(self, features):
        return self.head(features), self.value(features).squeeze(1)


def crop(chars, x, y):
    """The cells around (x, y) of each map, ``(n, side, side)``; 0 beyond its edge."""
    padded = functional.pad(chars, (REACH, REACH, REACH, REACH))
    offsets = torch.arange(2 * REACH + 1, device=chars.device)
    rows = (y[:, None] + offsets)[:, :, None]
    columns = (x[:, None] + offsets)[:, None, :]
    each = torch.arange(len(chars), device=chars.device)[:, None, None]
    return padded[each, rows, columns]


def way_to(goals, x, y):
    """For each kind of goal: the way to the nearest one, across and down.

    Args:
        goals: bool ``(n, rows, columns)`` for each kind: where they are.
        x, y: int64 ``(n,)``: where one is.

    Returns:
        float32 ``(n, 6 * kinds)``.
    """
    ways = []
    for goal in goals:
        ways += [nearest(goal.any(1), x), nearest(goal.any(2), y)]
    return torch.cat(ways, 1)


def nearest(there, here):
    """Along one line: on which side the nearest is (-1, 0, 1), how near, and whether there is any.

    Args:
        there: bool ``(n, places)``.
        here: int64 ``(n,)``.

    Returns:
        float32 ``(n, 3)``.
    """
    steps = torch.arange(there.shape[1], device=here.device) - here[:, None]
    distance, at = steps.abs().masked_fill(~there, 1000).min(1)
    side = steps.gather(1, at[:, None]).squeeze(1).sign()
    any_ = distance < 1000
    return torch.stack([side * any_, any_ / (1.0 + distance), any_], 1).float()
