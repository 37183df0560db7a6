"""Makes tasks of NetHack, and can show a player the ways through the dungeon."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

__all__ = ["GOALS", "Ways", "create"]

GOALS = ("stairs down", "the unknown", "gold")
ROWS, COLUMNS = 21, 79
WIDTH = COLUMNS + 1  # a column of nothing keeps the ends of rows apart
FAR = 100  # steps that are looked ahead
PATIENCE = 30  # steps on one cell after which what lies around it is not the unknown any more

NUM_GLYPHS = 5977
# Objects and monsters come first, then what the dungeon is made of.
STONE = 2359  # not seen, or solid rock
DOORWAYS = slice(2371, 2376)  # without a door, open, closed
FLOORS = slice(2378, 2391)  # rooms, corridors, stairs, altars, fountains and the like
CORRIDORS = slice(2380, 2382)
GOLD, DOWN = 2316, [2383, 2385]  # DOWN: stairs, a ladder


def create(task: str = "NetHackScore-v0", ways: bool = False, **settings: Any) -> Any:
    """Return a task of NLE; with `ways` its observations have a part of this name: see `Ways`."""
    env = gymnasium.make(f"nle:{task}", disable_env_checker=True, **settings)
    return Ways(env) if ways else env


def kinds_of_glyphs() -> np.ndarray:
    """Return bits of each glyph: free, door, dark, corridor, other floor, stairs down, gold."""
    kinds = np.zeros(NUM_GLYPHS, np.uint8)
    kinds[:STONE] = 1
    kinds[DOORWAYS] = 3
    kinds[STONE] = 4
    kinds[FLOORS] = 1 | 16
    kinds[CORRIDORS] = 1 | 8
    kinds[DOWN] |= 32
    kinds[GOLD] |= 64
    return kinds


class Ways(gymnasium.Wrapper):
    """Shows where shortest ways through the known part of a level begin.

    They are ways to stairs down, to the unknown (ends of corridors, doorways that lead to nothing
    seen, floor on the edge of the dark; where one has not been), and to gold.

    The observation gets ``ways``, float32 ``(3, 9)``: for each of these goals, the 3 by 3 cells
    around oneself, row by row, 1 where a shortest way begins; and in their middle how near the goal
    is, from 0 (no way is known) to 1.

    The map is one integer of 21 times 80 bits, so that a search takes a few operations per step.

    Args:
        env: of NLE, with ``glyphs`` and ``blstats`` among its observations.

    Raises:
        ValueError: it lacks one of them.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        parts = dict(env.observation_space.items())  # type: ignore[attr-defined]
        if not {"glyphs", "blstats"} <= parts.keys():
            raise ValueError(f"ways: needs glyphs and blstats, observation_keys are {list(parts)}")
        ways = spaces.Box(0, 1, (len(GOALS), 9), np.float32)
        self.observation_space = spaces.Dict({**parts, "ways": ways})
        self.kinds = kinds_of_glyphs()
        self.levels: dict[tuple[int, int], Level] = {}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.levels = {}
        return self.look(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self.look(observation), float(reward), terminated, truncated, info

    def look(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return the observation with its ways."""
        stats = observation["blstats"]
        x, y, level = int(stats[0]), int(stats[1]), (int(stats[23]), int(stats[24]))
        known = self.levels.setdefault(level, Level())
        return {**observation, "ways": known.look(self.kinds[observation["glyphs"]], x, y)}


class Level:
    """What is remembered of a level: doors and stairs that something stands on, where one was."""

    def __init__(self) -> None:
        self.doors = self.down = self.visited = 0
        self.stays: dict[int, int] = {}  # steps on each cell

    def look(self, kinds: np.ndarray, x: int, y: int) -> np.ndarray:
        """Return the ways (see `Ways`) of a map ``(21, 79)`` of `kinds_of_glyphs`, from (x, y)."""
        cells = np.zeros((ROWS, WIDTH), np.uint8)
        cells[:, :COLUMNS] = kinds
        bits = np.unpackbits(cells.reshape(-1, 1), axis=1, count=7, bitorder="little")
        free, doors, dark, corridors, floors, down, gold = (
            int.from_bytes(row.tobytes(), "little")
            for row in np.packbits(bits.T, axis=1, bitorder="little")
        )
        place = y * WIDTH + x
        self.doors |= doors
        self.down |= down
        self.visited |= 1 << place
        self.stays[place] = self.stays.get(place, 0) + 1
        if self.stays[place] == PATIENCE:
            self.visited |= spread(1 << place, 0)
        # A corridor goes on at a cell whose neighbours all lie on one side of it.
        upright = free | free << WIDTH | free >> WIDTH
        flat = free | free << 1 | free >> 1
        between_two = (upright << 1 & upright >> 1) | (flat << WIDTH & flat >> WIDTH)
        by_dark = spread(dark, 0)
        unknown = (corridors & ~between_two) | (floors & by_dark)
        unknown |= doors & by_dark & ~spread(corridors, 0)
        ways = np.zeros((len(GOALS), 9), np.float32)
        for way, goal in zip(ways, (self.down, unknown & ~self.visited, gold), strict=True):
            first_steps(goal & free, free, self.doors, place, way)
        return ways


def spread(cells: int, doors: int) -> int:
    """Return cells, and those a step from them; doors are not entered or left across a corner."""
    line = (cells & ~doors) << 1 | (cells & ~doors) >> 1
    corners = (line << WIDTH | line >> WIDTH) & ~doors
    return cells | cells << 1 | cells >> 1 | cells << WIDTH | cells >> WIDTH | corners


def first_steps(goal: int, free: int, doors: int, place: int, way: np.ndarray) -> None:
    """Write to `way` (9,) where shortest ways from `place` to a goal begin, and how near it is."""
    here = 1 << place
    if goal & here:
        way[4] = 1
        return
    reached = goal
    for steps in range(FAR):
        further = spread(reached, doors)
        if further & here:
            for i in range(9):
                offset = (i // 3 - 1) * WIDTH + i % 3 - 1
                at = 1 << place + offset if place + offset >= 0 else 0
                way[i] = bool(reached & at and spread(at, doors) & here)
            way[4] = 1 - (steps + 1) / FAR
            return
        further &= free
        if further == reached:
            return
        reached = further
