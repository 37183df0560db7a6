"""tetris.c beside the game written again with sets of cells.

Its rotation is the other published form of SRS: pieces truly turn about a cell, and each state has
five offsets; a kick is the difference of two of them.
"""

import numpy as np
import pytest

import shoal
from tests.ocean_c.chance import Chance

STAY, LEFT, RIGHT, ROTATE, ROTATE_BACK, SOFT_DROP, HARD_DROP, HOLD = range(8)
WIDTH, HEIGHT, NEXT = 10, 20, 3
I, O = 0, 1  # noqa: E741
# Cells of the pieces as they begin, about the cell that they turn about; y grows upwards.
PIECES = [
    [(-1, 0), (0, 0), (1, 0), (2, 0)],  # I
    [(0, 0), (1, 0), (0, 1), (1, 1)],  # O
    [(-1, 0), (0, 0), (1, 0), (0, 1)],  # T
    [(-1, 0), (0, 0), (0, 1), (1, 1)],  # S
    [(-1, 1), (0, 1), (0, 0), (1, 0)],  # Z
    [(-1, 1), (-1, 0), (0, 0), (1, 0)],  # J
    [(1, 1), (-1, 0), (0, 0), (1, 0)],  # L
]
OFFSETS = [
    [(0, 0)] * 5,
    [(0, 0), (1, 0), (1, -1), (0, 2), (1, 2)],
    [(0, 0)] * 5,
    [(0, 0), (-1, 0), (-1, -1), (0, 2), (-1, 2)],
]
OFFSETS_I = [
    [(0, 0), (-1, 0), (2, 0), (-1, 0), (2, 0)],
    [(-1, 0), (0, 0), (0, 0), (0, 1), (0, -2)],
    [(-1, 1), (1, 1), (-2, 1), (1, 0), (-2, 0)],
    [(0, 1), (0, 1), (0, 1), (0, -1), (0, 2)],
]
POINTS = [0, 100, 300, 500, 800]
TOP = HEIGHT - 1  # rows count from 0 at the bottom; 4 more are above the board


class Game:
    def __init__(self, seed: int, gravity: int, goal: int):
        self.chance, self.gravity, self.goal = Chance(seed), gravity, goal

    def reset(self) -> None:
        self.stack: set[tuple[int, int]] = set()
        self.bag: list[int] = []
        self.held, self.may_hold, self.lines, self.points, self.over = 7, True, 0, 0, False
        self.next = [self.draw() for _ in range(NEXT)]
        self.begin_next()

    def draw(self) -> int:
        self.bag = self.bag or list(range(7))
        return self.bag.pop(self.chance.below(len(self.bag)))

    def begin(self, piece: int) -> bool:
        self.piece, self.turn, self.wait = piece, 0, 0
        self.x, self.y = 4, TOP - 1
        return self.fits(self.x, self.y, 0)

    def begin_next(self) -> bool:
        self.next.append(self.draw())
        return self.begin(self.next.pop(0))

    def cells(self, x: int, y: int, turn: int) -> list[tuple[int, int]]:
        found = PIECES[self.piece]
        for _ in range(turn if self.piece != O else 0):
            found = [(b, -a) for a, b in found]
        return [(x + a, y + b) for a, b in found]

    def fits(self, x: int, y: int, turn: int) -> bool:
        # No piece's box (of 4 cells for I, else 3) may reach above the four rows over the board.
        if y + (2 if self.piece == I and turn >= 2 else 1) > TOP + 4:
            return False
        return all(
            0 <= a < WIDTH and b >= 0 and (a, b) not in self.stack
            for a, b in self.cells(x, y, turn)
        )

    def rotate(self, by: int) -> None:
        turn = (self.turn + by) % 4
        offsets = OFFSETS_I if self.piece == I else OFFSETS
        for (ax, ay), (bx, by_) in zip(offsets[self.turn], offsets[turn]):
            x, y = self.x + ax - bx, self.y + ay - by_
            if self.piece == O:
                return
            if self.fits(x, y, turn):
                self.x, self.y, self.turn = x, y, turn
                return

    def landing(self) -> int:
        y = self.y
        while self.fits(self.x, y - 1, self.turn):
            y -= 1
        return y

    def lock(self) -> int:
        self.stack |= set(self.cells(self.x, self.y, self.turn))
        rows = range(TOP + 4, -1, -1)
        full = [y for y in rows if all((x, y) in self.stack for x in range(WIDTH))]
        for y in full:  # from the top
            self.stack = {(a, b - (b > y)) for a, b in self.stack if b != y}
        self.lines += len(full)
        self.may_hold = True
        return POINTS[len(full)]

    def step(self, action: int) -> int:
        points, room = 0, True
        if action in (LEFT, RIGHT):
            x = self.x + (1 if action == RIGHT else -1)
            self.x = x if self.fits(x, self.y, self.turn) else self.x
        elif action in (ROTATE, ROTATE_BACK):
            self.rotate(1 if action == ROTATE else -1)
        elif action == SOFT_DROP and self.fits(self.x, self.y - 1, self.turn):
            self.y -= 1
            points = 1
        elif action == HARD_DROP:
            y = self.landing()
            points, self.y, self.wait = 2 * (self.y - y), y, self.gravity
        elif action == HOLD and self.may_hold:
            held, self.held, self.may_hold = self.held, self.piece, False
            room = self.begin_next() if held == 7 else self.begin(held)
        self.wait += room
        if room and self.wait >= self.gravity:
            self.wait = 0
            if self.fits(self.x, self.y - 1, self.turn):
                self.y -= 1
            else:
                points += self.lock()
                room = self.begin_next()
        self.points += points
        self.over = not room or self.lines >= self.goal
        return points

    def board(self) -> np.ndarray:
        found = np.zeros((HEIGHT + 4, WIDTH), np.uint8)
        for x, y in self.stack:
            found[y, x] = 1
        if not self.over:
            for y, what in ((self.landing(), 3), (self.y, 2)):
                for a, b in self.cells(self.x, y, self.turn):
                    found[b, a] = what
        return found[TOP::-1]

    def pieces(self) -> np.ndarray:
        return np.eye(8, dtype=np.uint8)[[self.piece, self.held, *self.next]]

    def rest(self) -> list[float]:
        return [self.wait / self.gravity, self.may_hold, min(1, self.lines / self.goal)]


def side_by_side(
    count: int, steps: int, gravity: int, goal: int, weights: list[float], seed=0
) -> list:
    """Steps both, with random actions of these weights; the lines of all games that ended."""
    kwargs = {"gravity": gravity, "lines": goal}
    vector = shoal.vectorize("tetris", count, env_kwargs=kwargs)
    layout = vector.observation_layout
    rows, _ = vector.reset(seed=1)
    games = [Game(1 + i, gravity, goal) for i in range(count)]
    for game in games:
        game.reset()
    random, over, lines = np.random.default_rng(seed), [False] * count, []
    chances = np.array(weights) / sum(weights)
    for _ in range(steps):
        seen = layout.view(rows)
        assert (seen["board"] == np.stack([game.board() for game in games])).all()
        expected = np.stack([game.pieces() for game in games])
        assert (seen["pieces"].reshape(expected.shape) == expected).all()
        assert (seen["rest"] == np.array([game.rest() for game in games], np.float32)).all()
        actions = random.choice(8, count, p=chances)
        rows, rewards, terminations, _, infos = vector.step(actions)
        for i, game in enumerate(games):
            if over[i]:
                game.reset()
                assert rewards[i] == 0 and not terminations[i]
            else:
                assert abs(rewards[i] - game.step(int(actions[i])) / 100) < 1e-5
            over[i] = game.over
            assert terminations[i] == over[i]
            if over[i]:
                lines.append(game.lines)
                assert infos["lines"][i] == game.lines and infos["points"][i] == game.points
                assert infos["score"][i] == np.float32(min(1, game.lines / goal))
    vector.close()
    return lines


@pytest.mark.parametrize("count, seed", [(20, 15), pytest.param(100, 0, marks=pytest.mark.slow)])
def test_it_is_the_game(count, seed):
    lines = side_by_side(count, 700, 4, 100, [1, 1, 1, 1, 1, 1, 0.3, 0.2], seed)
    lines += side_by_side(count, 300, 1, 1, [0, 3, 3, 2, 2, 0, 3, 0.1])
    assert len(lines) > 2 * count and max(lines) >= 1


def test_pieces_that_turn_all_the_time():
    """Kicks, upward ones too, deep in a stack and at the top of the board."""
    side_by_side(50, 300, 6, 100, [0, 1, 1, 6, 4, 1, 0.1, 0.1])
