"""The policy for NetHack: what is near, where to go, how one is, and what the game says."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shoal.emulation.actions import ActionLayout
from shoal.emulation.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.policies import ActionHead, linear

__all__ = ["Policy"]

REACH = 4  # cells seen on each side of oneself
# Of the leaf with the map: how many codes it has, numbers that stand for one, and the codes of
# where to go: stairs or a ladder down, gold.
MAPS = {
    "glyphs": (5977, 16, ((2383, 2385), (2316,))),
    "chars": (256, 8, ((ord(">"),), (ord("$"),))),
}
STONE = 2359  # what has not been seen, and solid rock; objects and monsters are before it
DOORWAYS = (2371, 2375)  # first and last: without a door, open doors, closed ones
FLOORS = (2378, 2390)  # of rooms and corridors, stairs, altars, fountains and the like
CORRIDORS = (2380, 2381)
FAR = 48  # steps that are looked ahead
TRIGRAMS = 4096  # places that the message's groups of three letters share
MESSAGE = 32  # numbers that stand for a message


class Policy(nn.Module):
    """The map around oneself as embedded glyphs, the way to the nearest of each goal, the numbers
    of the bottom line, whether the game waits for an answer or a key, and the message.

    Args:
        observation_layout: must have ``glyphs`` or ``chars`` (21, 79), of which glyphs are taken,
            ``blstats`` (27,) and ``misc`` (3,), and may have ``message`` (256,).
        action_layout: any.
        config: `hidden_size` is used.
    """

    def __init__(self, observation_layout: Layout, action_layout: ActionLayout, config: Config):
        super().__init__()
        self.layout = observation_layout
        self.num_features = config.hidden_size
        leaves = {leaf.path for leaf in observation_layout.leaves}
        self.map = "glyphs" if "glyphs" in leaves else "chars"
        codes, width, self.goals = MAPS[self.map]
        side = 2 * REACH + 1
        self.cells = nn.Embedding(codes, width)
        self.message = Message() if "message" in leaves else None
        num_in = side * side * width + 6 * len(self.goals) + 27 + 3
        if self.map == "glyphs":  # most of thousands are rare: none may begin as loud as the rest
            nn.init.normal_(self.cells.weight, std=0.1)
        self.first = linear(num_in + MESSAGE * (self.message is not None), config.hidden_size)
        num_paths = 20 * (self.map == "glyphs")
        self.second = linear(config.hidden_size + num_paths, config.hidden_size)
        self.head = ActionHead(config.hidden_size, action_layout)
        self.value = linear(config.hidden_size, 1, gain=1)

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
        parts = [torch.relu(self.first(torch.cat(parts, 1)))]
        if self.map == "glyphs":  # after the first layer, where a thousand others would drown them
            parts.append(paths(cells, x, y))
        return torch.relu(self.second(torch.cat(parts, 1)))

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


def is_any(cells: Tensor, codes: tuple[int, ...]) -> Tensor:
    """Where one of these codes stands: bool, of the same shape."""
    found = cells == codes[0]
    for code in codes[1:]:
        found = found | (cells == code)
    return found


def crop(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The cells around (x, y) of each map, ``(n, side, side)``; 0 beyond its edge."""
    padded = functional.pad(cells, (REACH, REACH, REACH, REACH))
    offsets = torch.arange(2 * REACH + 1, device=cells.device)
    rows = (y[:, None] + offsets)[:, :, None]
    columns = (x[:, None] + offsets)[:, None, :]
    each = torch.arange(len(cells), device=cells.device)[:, None, None]
    return padded[each, rows, columns]


def paths(glyphs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The first steps of the shortest paths down, and to where the map is not known yet.

    That is at ends of corridors, at doorways that lead to nothing seen, and where a floor borders
    on the dark. A column of the map is one number, whose bits are its cells: a step of the search
    is then a few operations on whole columns.

    Args:
        glyphs: int16 ``(n, 21, columns)``.
        x, y: int64 ``(n,)``: where one is.

    Returns:
        float32 ``(n, 20)``: see `first_steps`.
    """
    down, stone = is_any(glyphs, MAPS["glyphs"][2][0]), glyphs == STONE
    doors, floors = between(glyphs, DOORWAYS), between(glyphs, FLOORS)
    corridors = between(glyphs, CORRIDORS)
    masks = [down, stone, doors, corridors, floors & ~corridors, (glyphs < STONE) | doors | floors]
    down, dark, doors, corridors, floors, free = columns_of(torch.stack(masks))
    no_doors = torch.full_like(doors, -1)
    # A corridor goes on at a cell whose neighbours all lie on one side of it.
    upright = functional.pad(free | (free << 1) | (free >> 1), (1, 1))
    flat = functional.pad(free, (1, 1))
    flat = flat[:, 1:-1] | flat[:, 2:] | flat[:, :-2]
    between_two = (upright[:, 2:] & upright[:, :-2]) | ((flat << 1) & (flat >> 1))
    by_dark, by_corridors = (grown(functional.pad(m, (1, 1)), no_doors) for m in (dark, corridors))
    unknown = (corridors & ~between_two) | (floors & by_dark)
    unknown = unknown | (doors & by_dark & ~by_corridors)
    twice = [torch.cat([each, each]) for each in (free, ~doors, x, y)]
    return torch.cat(first_steps(torch.cat([down, unknown]), *twice).chunk(2), 1)


def first_steps(goal: Tensor, free: Tensor, no_doors: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which of the cells around (x, y) are nearest to a goal by the shortest path.

    Args:
        goal, free, no_doors: int32 ``(n, columns)``: cells to reach, that can be walked on, that
            can be entered and left across corners.
        x, y: int64 ``(n,)``.

    Returns:
        float32 ``(n, 10)``: for the 3 by 3 cells, column by column, 1 where one is nearest (0
        everywhere if no goal is within `FAR` steps), and how near it is, from 0 to 1.
    """
    three = x[:, None] + torch.arange(3, device=x.device)
    # A border of nothing stands on both sides of the columns, so that neither search nor (x, y)
    # leaves the map.
    reached = functional.pad(goal & free, (1, 1))
    seen = []
    for _ in range(FAR):
        seen.append(reached.gather(1, three))
        reached[:, 1:-1] = grown(reached, no_doors) & free
    rows = (y[:, None] + torch.arange(3, device=y.device))[:, None, :, None].int()
    cells = ((torch.stack(seen, 2)[:, :, None] << 1) >> rows) & 1  # (n, 3, 3, FAR)
    share = cells.sum(3).flatten(1) / FAR
    share[:, 4] = 0  # oneself
    best = share.amax(1, keepdim=True)
    return torch.cat([((share == best) & (best > 0)).float(), best], 1)


def grown(cells: Tensor, no_doors: Tensor) -> Tensor:
    """Cells, and those one step from them; doors (bits that are 0 in `no_doors`) are not entered or
    left across a corner. Bits beyond the rows may be set.

    Args:
        cells: int32 ``(n, columns + 2)``, with a border of zeros.
        no_doors: the same without the border.

    Returns:
        int32 ``(n, columns)``.
    """
    upright = (cells << 1) | (cells >> 1)
    inner = functional.pad(no_doors, (1, 1)) & cells
    corners = (inner << 1) | (inner >> 1)
    across = (corners[:, 2:] | corners[:, :-2]) & no_doors
    return (cells | upright)[:, 1:-1] | cells[:, 2:] | cells[:, :-2] | across


def columns_of(masks: Tensor) -> Tensor:
    """Bool ``(..., rows, columns)`` as int32 ``(..., columns)``: row i is bit i."""
    bits = 2.0 ** torch.arange(masks.shape[-2], device=masks.device)  # exact: 21 rows
    return (bits @ masks.float()).int()


def between(cells: Tensor, ends: tuple[int, int]) -> Tensor:
    """Where a code from the first to the last stands."""
    return (cells >= ends[0]) & (cells <= ends[1])


def way_to(goals: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
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


def nearest(there: Tensor, here: Tensor) -> Tensor:
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
