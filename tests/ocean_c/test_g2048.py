"""g2048.c beside the game written again with lists, tile by tile."""

import functools
import struct

import numpy as np
import pytest

import shoal
from shoal.ocean_c.native_env import NativeEnv
from tests.ocean_c.chance import Chance

UP, DOWN, LEFT, RIGHT = range(4)
BOARD = 16  # where it lies in the state: behind the generator


@functools.cache
def slide(row: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Four tiles after a move to the left, and the points."""
    tiles, out, points = [tile for tile in row if tile], [], 0
    while tiles:
        tile = tiles.pop(0)
        if tiles and tiles[0] == tile and tile < 2**15:
            tile += tiles.pop(0)
            points += tile
        out.append(tile)
    return tuple(out + [0] * (4 - len(out))), points


def moved(rows: list, action: int) -> tuple[list, int]:
    if action in (UP, DOWN):
        rows = list(zip(*rows))
    back = -1 if action in (DOWN, RIGHT) else 1
    slid = [slide(tuple(row[::back])) for row in rows]
    rows = [row[::back] for row, _ in slid]
    if action in (UP, DOWN):
        rows = list(zip(*rows))
    return [tuple(row) for row in rows], sum(points for _, points in slid)


class Game:
    def __init__(self, seed: int):
        self.chance = Chance(seed)

    def reset(self) -> None:
        self.rows, self.points = [(0,) * 4] * 4, 0
        self.add(), self.add()

    def add(self) -> None:
        free = [(i, j) for i in range(4) for j in range(4) if not self.rows[i][j]]
        row, column = free[self.chance.below(len(free))]
        line = list(self.rows[row])
        line[column] = 2 if self.chance.below(10) else 4
        self.rows[row] = tuple(line)

    def legal(self) -> list[bool]:
        across, down = self.rows, list(zip(*self.rows))
        moves = [(down, 1), (down, -1), (across, 1), (across, -1)]
        return [any(slide(row[::back])[0] != row[::back] for row in rows) for rows, back in moves]

    def step(self, action: int) -> int:
        rows, points = moved(self.rows, action)
        if rows != self.rows:
            self.rows = rows
            self.points += points
            self.add()
        return points


def one_hot(boards: list) -> np.ndarray:
    """Boards of tiles as the environment shows them."""
    tiles = np.array(boards)
    return (np.log2(tiles.clip(1)).astype(int)[..., None] == np.arange(16)).astype(np.uint8)


def seen(observation: np.ndarray) -> list:
    """Tiles, of one-hot powers of two."""
    assert (observation.sum(2) == 1).all() and observation.max() == 1
    power = observation.argmax(2)
    return [tuple(int(2**k) if k else 0 for k in row) for row in power]


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_it_is_the_game(count):
    steps = 1000
    vector = shoal.vectorize("g2048", count)
    observations, _ = vector.reset(seed=7)
    games = [Game(7 + i) for i in range(count)]
    for game in games:
        game.reset()
    random, over, ended = np.random.default_rng(0), [False] * count, 0
    for _ in range(steps):
        legal = [game.legal() for game in games]
        assert (observations == one_hot([game.rows for game in games])).all()
        assert vector.action_masks.tolist() == [m if any(m) else [True] * 4 for m in legal]
        actions = random.integers(0, 4, count)
        observations, rewards, terminations, _, infos = vector.step(actions)
        for i, game in enumerate(games):
            if over[i]:
                game.reset()
                assert rewards[i] == 0 and not terminations[i]
            else:
                assert rewards[i] * 256 == game.step(int(actions[i]))
            over[i] = not any(game.legal())
            assert terminations[i] == over[i]
            if over[i]:
                largest = max(map(max, game.rows))
                assert infos["points"][i] == game.points and infos["largest"][i] == largest
                assert infos["score"][i] == min(1, largest / 2048)
                ended += 1
    assert ended > 3 * count
    vector.close()


def test_boards_that_random_play_never_sees():
    """Large tiles among them: two of 2^15 stay apart."""
    env = NativeEnv("g2048")
    env.reset(seed=0)
    saved = env.get_state()[0]
    head = len(saved) - env.module_spec.state_size + BOARD
    random = np.random.default_rng(0)
    largest_pairs = 0
    for _ in range(2000):
        powers = random.choice(16, 16, p=np.r_[0.3, np.full(11, 0.02), 0.1, 0.1, 0.1, 0.18])
        rows = [tuple(int(2**k) if k else 0 for k in row) for row in powers.reshape(4, 4)]
        board = sum(int(power) << 4 * i for i, power in enumerate(powers))
        state = saved[:head] + struct.pack("<Q", board) + saved[head + 8 :]
        for action in range(4):
            env.set_state((state, False))
            observation, reward, *_ = env.step(action)
            expected, points = moved(rows, action)
            after = seen(observation)
            if expected == rows:
                assert after == rows and reward == 0
                continue
            new = [
                (a, b) for x, y in zip(after, expected) for a, b in zip(x, y) if a != b
            ]  # just one tile
            assert len(new) == 1 and new[0][0] in (2, 4) and new[0][1] == 0
            assert reward == np.float32(points / 256)
        largest_pairs += any(row[i : i + 2] == (2**15, 2**15) for row in rows for i in range(3))
    assert largest_pairs > 200
    env.close()
