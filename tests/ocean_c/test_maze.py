"""maze.c beside mazes that are made again with sets of squares, and searched by breadth."""

from collections import deque

import numpy as np
import pytest

import shoal
from shoal.errors import ParameterError
from tests.ocean_c.beside import mean, step_beside

WALL, GRID = 0x4A5B73FF, 0x2A3546FF  # what walls are drawn in, near the agent and elsewhere
WAYS = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def distances(free: set, start: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Steps from a square to each that can be reached."""
    found, queue = {start: 0}, deque([start])
    while queue:
        row, column = queue.popleft()
        for down, right in WAYS:
            square = row + down, column + right
            if square in free and square not in found:
                found[square] = found[row, column] + 1
                queue.append(square)
    return found


class Game:
    """`free` are the squares that are no walls."""

    def __init__(self, chance, size=11, radius=3, loops=0.0, trail=True):
        self.chance, self.size, self.radius, self.loops = chance, size, radius, loops
        self.trail = trail
        self.rooms = [(r, c) for r in range(1, size, 2) for c in range(1, size, 2)]

    def reset(self):
        start = self.chance.below(len(self.rooms))
        others = self.rooms[:start] + self.rooms[start + 1 :]
        self.at, self.goal = self.rooms[start], others[self.chance.below(len(others))]
        self.carve()
        if self.loops:
            self.open_loops()
        self.needed = distances(self.free, self.at)[self.goal]
        self.been, self.steps = {self.at}, 0

    def carve(self):
        way = [self.rooms[self.chance.below(len(self.rooms))]]  # from the first room to this one
        self.free = {way[0]}
        while way:
            row, column = way[-1]
            closed = [
                (down, right)
                for down, right in WAYS
                if (row + 2 * down, column + 2 * right) in set(self.rooms) - self.free
            ]
            if closed:
                down, right = closed[self.chance.below(len(closed))]
                way.append((row + 2 * down, column + 2 * right))
                self.free |= {(row + down, column + right), way[-1]}
            else:
                way.pop()

    def open_loops(self):
        for row in range(1, self.size - 1):
            for column in range(1, self.size - 1):
                between = row % 2 != column % 2 and (row, column) not in self.free
                if between and self.chance.between(0, 1) < self.loops:
                    self.free.add((row, column))

    def observation(self):
        near = range(-self.radius, self.radius + 1)
        row, column = self.at
        squares = [[(row + i, column + k) for k in near] for i in near]
        planes = [
            [[square not in self.free for square in line] for line in squares],
            [[square == self.goal for square in line] for line in squares],
            [[square in self.been for square in line] for line in squares],
        ]
        return planes[: 2 + self.trail]

    def step(self, action):
        square = tuple(np.add(self.at, WAYS[action]).tolist())
        if square in self.free:
            self.at = square
        self.been.add(self.at)
        self.steps += 1
        return float(self.at == self.goal), self.at == self.goal

    def logs(self):
        reached = self.at == self.goal
        return {"score": self.needed / self.steps if reached else 0, "reached": reached}


PARAMS = [
    ({}, 300),
    ({"size": 5, "radius": 7, "loops": 1.0, "trail": False}, 100),
    ({"size": 21, "radius": 1, "loops": 0.25, "max_steps": 60}, 130),
    ({"size": 35, "max_steps": 10}, 20),
]


def nearer(game, random):
    """Half of the time the next step of the shortest way."""
    if game.at == game.goal or random.random() < 0.5:
        return None
    left = distances(game.free, game.goal)
    steps = [tuple(np.add(game.at, way).tolist()) for way in WAYS]
    return min(range(4), key=lambda way: left.get(steps[way], np.inf))


@pytest.mark.parametrize("params, steps", PARAMS)
def test_it_is_the_game(params, steps):
    own = {key: value for key, value in params.items() if key != "max_steps"}
    ended = step_beside("maze", lambda chance: Game(chance, **own), steps, 20, nearer, **params)
    assert ended and (params.get("size") == 35 or mean(ended, "reached") > 0)


@pytest.mark.slow
def test_it_is_the_game_for_100_000_steps():
    assert len(step_beside("maze", Game, 1000, 100, nearer)) > 500


@pytest.mark.parametrize("size, loops", [(5, 0), (11, 0), (11, 0.5), (35, 0), (35, 0.1), (35, 1)])
def test_every_room_is_reached(size, loops):
    """In what is drawn: by just one way without loops, and without any wall if all are opened."""
    vector = shoal.vectorize(
        "maze", 1, backend="native", env_kwargs={"size": size, "loops": loops}, seed=size
    )
    rooms = (size // 2) ** 2
    borders = 2 * (size // 2) * (size // 2 - 1)
    for _ in range(20):
        vector.reset()
        shapes = vector.call("drawing")[0][0]
        walls = {(s["y"], s["x"]) for s in shapes if s["color"] in (WALL, GRID)}
        free = {(r, c) for r in range(size) for c in range(size)} - walls
        agent = next(s for s in shapes if s["key"] == 2)
        reached = distances(free, (agent["y"], agent["x"]))
        assert reached.keys() == free
        assert min(map(min, free)) == 1 and max(map(max, free)) == size - 2
        assert sum(r % 2 == 1 == c % 2 for r, c in free) == rooms
        opened = len(free) - rooms - (rooms - 1)  # a tree has an edge less than nodes
        walled = borders - (rooms - 1)
        assert 0 <= opened <= walled
        if loops in (0, 1):
            assert opened == loops * walled
        elif walled > 100:
            assert opened == pytest.approx(loops * walled, abs=5 * walled**0.5)
    vector.close()


def test_chance_reaches_the_goal_at_times():
    vector = shoal.vectorize("maze", 200, seed=0)
    vector.reset()
    random, reached = np.random.default_rng(0), []
    for _ in range(600):
        *_, infos = vector.step(random.integers(0, 4, 200))
        if "reached" in infos:
            reached += infos["reached"][infos["_reached"]].tolist()
    assert 0.3 < np.mean(reached) < 0.9
    vector.close()


def test_the_size_must_be_odd():
    with pytest.raises(ParameterError, match="odd"):
        shoal.vectorize("maze", 1, env_kwargs={"size": 12})
