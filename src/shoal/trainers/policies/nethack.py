"""The policy for NetHack: what is near, where to go, how one is, and what the game says."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from shoal.registry.recipes.make_nethack import DOWN, GOLD, NUM_GLYPHS
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.policies import ActionHead, linear

__all__ = ["Policy"]

REACH = 4  # cells seen on each side of oneself
# Of the leaf with the map: how many codes it has, numbers that stand for one, and the codes of
# where to go: stairs or a ladder down, gold.
MAPS = {
    "glyphs": (NUM_GLYPHS, 16, (DOWN, [GOLD])),
    "chars": (256, 8, ([ord(">")], [ord("$")])),
}
TRIGRAMS = 4096  # places that the message's groups of three letters share
MESSAGE = 32  # numbers that stand for a message


class Policy(nn.Module):
    """The map around oneself as embedded glyphs, the way to the nearest of each goal, the numbers
    of the bottom line, whether the game waits for an answer or a key, and the message.

    Args:
        observation_layout: must have ``glyphs`` or ``chars`` (21, 79), of which glyphs are taken,
            ``blstats`` (27,) and ``misc`` (3,), and may have ``message`` (256,) and ``ways``
            (3, 9), see the recipe.
        action_layout: any.
        config: `hidden_size` is used.
    """

    def __init__(self, observation_layout: Layout, action_layout: ActionLayout, config: Config):
        super().__init__()
        self.layout = observation_layout
        leaves = {leaf.path: math.prod(leaf.shape) for leaf in observation_layout.leaves}
        self.map = "glyphs" if "glyphs" in leaves else "chars"
        codes, width, self.goals = MAPS[self.map]
        side = 2 * REACH + 1
        self.cells = nn.Embedding(codes, width)
        self.message = Message() if "message" in leaves else None
        self.ways = leaves.get("ways", 0)
        self.num_features = config.hidden_size + self.ways
        num_in = side * side * width + 6 * len(self.goals) + 27 + 3
        if self.map == "glyphs":  # most of thousands are rare: none may begin as loud as the rest
            nn.init.normal_(self.cells.weight, std=0.1)
        self.first = linear(num_in + MESSAGE * (self.message is not None), config.hidden_size)
        self.second = linear(self.num_features, config.hidden_size)
        self.head = ActionHead(self.num_features, action_layout)
        self.value = linear(self.num_features, 1, gain=1)

    def encode(self, observations: Tensor) -> Tensor:
        seen = self.layout.view(observations)
        stats, cells = seen["blstats"].float(), seen[self.map]
        x, y = seen["blstats"][:, 0], seen["blstats"][:, 1]
        near = self.cells(crop(cells, x, y).long()).flatten(1)
        goals = way_to([is_any(cells, codes) for codes in self.goals], x, y)
        scaled = stats.sign() * stats.abs().log1p() / 4
        parts = [near, goals, scaled, seen["misc"].float()]
        if self.message is not None:
            parts.append(self.message(seen["message"]))
        ways = [seen["ways"].flatten(1)] if self.ways else []
        # Not in the first layer, where a thousand embedded numbers would drown them.
        hidden = torch.cat([torch.relu(self.first(torch.cat(parts, 1))), *ways], 1)
        return torch.cat([torch.relu(self.second(hidden)), *ways], 1)

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(features), self.value(features).squeeze(1)


class Message(nn.Module):
    """Text, uint8 ``(n, letters)`` with zeros at its end, as the mean of its trigrams' numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.trigrams = nn.EmbeddingBag(TRIGRAMS, MESSAGE, mode="sum")
        nn.init.normal_(self.trigrams.weight, std=0.3)

    def forward(self, text: Tensor) -> Tensor:
        longest = int((text != 0).sum(1).amax()) if len(text) else 0
        letters = text[:, : max(3, longest)].long()
        # Any spread over the table does; 61 and 3721 keep neighbouring letters apart.
        codes = (letters[:, 2:] + 61 * letters[:, 1:-1] + 3721 * letters[:, :-2]) % TRIGRAMS
        there = (letters[:, 2:] != 0).float()
        share = there / there.sum(1, keepdim=True).clamp_min(1)
        return self.trigrams(codes, per_sample_weights=share)


def is_any(cells: Tensor, codes: list[int]) -> Tensor:
    """Return where one of these codes stands: bool, of the shape of the map."""
    found = cells == codes[0]
    for code in codes[1:]:
        found = found | (cells == code)
    return found


def crop(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the cells around (x, y) of each map, ``(n, side, side)``; 0 beyond its edge."""
    padded = functional.pad(cells, (REACH, REACH, REACH, REACH))
    offsets = torch.arange(2 * REACH + 1, device=cells.device)
    rows = (y[:, None] + offsets)[:, :, None]
    columns = (x[:, None] + offsets)[:, None, :]
    each = torch.arange(len(cells), device=cells.device)[:, None, None]
    return padded[each, rows, columns]


def way_to(goals: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the way to the nearest goal of each kind, across and down.

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


def nearest(there: Tensor, here: Tensor) -> Tensor:
    """Return, along one line, the nearest one's side (-1, 0, 1), how near, and if there is any.

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
