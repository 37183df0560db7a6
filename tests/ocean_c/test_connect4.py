"""connect4.c beside the game written again with a list of cells and a plain minimax."""

import numpy as np
import pytest

import shoal
from shoal.registry.creators import make_native
from tests.ocean_c.chance import Chance

ROWS, COLUMNS = 6, 7


def lines_through() -> list[list[tuple[int, ...]]]:
    """For each cell (row * 7 + column, the top row first) the other three cells of each four."""
    through: list[list[tuple[int, ...]]] = [[] for _ in range(ROWS * COLUMNS)]
    for row in range(ROWS):
        for column in range(COLUMNS):
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                cells = [(row + k * down, column + k * right) for k in range(4)]
                if all(0 <= r < ROWS and 0 <= c < COLUMNS for r, c in cells):
                    four = [r * COLUMNS + c for r, c in cells]
                    for cell in four:
                        through[cell].append(tuple(x for x in four if x != cell))
    return through


LINES = lines_through()
assert sum(map(len, LINES)) == 4 * 69


class Game:
    """Cells hold 0, or 1 and 2 for the two sides."""

    def __init__(self, seed: int, depth: int):
        self.chance, self.depth = Chance(seed), depth

    def reset(self) -> None:
        self.cells, self.winner, self.moves = [0] * (ROWS * COLUMNS), 0, 0
        self.turn = 1 + self.chance.below(2)

    def begin(self) -> None:
        self.reset()
        if self.turn == 2:
            self.oppose()

    def legal(self) -> list[int]:
        return [c for c in range(COLUMNS) if not self.cells[c]]

    def drop(self, column: int, side: int) -> tuple[int, bool]:
        """The cell where a disc comes to rest, and whether that wins."""
        cell = column + COLUMNS * max(
            r for r in range(ROWS) if not self.cells[COLUMNS * r + column]
        )
        self.cells[cell] = side
        for a, b, c in LINES[cell]:
            if self.cells[a] == side and self.cells[b] == side and self.cells[c] == side:
                return cell, True
        return cell, False

    def value(self, column: int, side: int, depth: int) -> int:
        """Of a move: plies left after a win plus 1, the negative for a loss."""
        cell, won = self.drop(column, side)
        best = depth if won else 0
        if not won and depth > 1 and self.legal():
            best = -max(self.value(reply, 3 - side, depth - 1) for reply in self.legal())
        self.cells[cell] = 0
        return best

    def best(self, side: int) -> list[int]:
        if self.depth == 0:
            return self.legal()
        values = {column: self.value(column, side, self.depth) for column in self.legal()}
        return [column for column, value in values.items() if value == max(values.values())]

    def play(self, column: int) -> bool:
        """Returns whether the game is over."""
        side = self.turn
        self.turn = 3 - side
        if column not in self.legal():
            self.winner = 3 - side
        else:
            self.moves += 1
            if self.drop(column, side)[1]:
                self.winner = side
        return bool(self.winner) or not self.legal()

    def oppose(self) -> bool:
        choices = self.best(2)
        return self.play(choices[self.chance.below(len(choices))])

    def planes(self, side: int) -> np.ndarray:
        cells = np.reshape(self.cells, (ROWS, COLUMNS))
        return np.stack([cells == side, cells == 3 - side]).astype(np.uint8)

    def mask(self) -> list[bool]:
        legal = self.legal()
        return [column in legal or not legal for column in range(COLUMNS)]


@pytest.mark.parametrize(
    "depth, steps",
    [
        (0, 150),
        (1, 150),
        pytest.param(0, 600, marks=pytest.mark.slow),
        pytest.param(1, 400, marks=pytest.mark.slow),
        (2, 15),
        (3, 5),
        pytest.param(4, 10, marks=pytest.mark.slow),
        pytest.param(5, 2, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_game(depth, steps):
    """Against a minimax of the same depth that looks at every position: the same replies, from the
    same lots. The agent plays at random, but at times as well as it can, so that games go on. Of
    100 games at a time."""
    count = 100
    vector = shoal.vectorize("connect4", count, env_kwargs={"depth": depth})
    observations, _ = vector.reset(seed=3)
    random = np.random.default_rng(depth)
    games = [Game(3 + i, depth) for i in range(count)]
    for game in games:
        game.begin()
    outcomes, over = {0: 0, 1: 0, 2: 0}, [False] * count
    for _ in range(steps):
        assert (observations == np.stack([game.planes(1) for game in games])).all()
        assert vector.action_masks.tolist() == [game.mask() for game in games]
        actions = random.integers(0, COLUMNS, count)
        for i in np.flatnonzero(random.random(count) < 0.99):  # else it may be illegal
            well = depth > 1 and random.random() < 0.5
            actions[i] = random.choice(games[i].best(1) if well else games[i].legal() or [0])
        observations, rewards, terminations, _, infos = vector.step(actions)
        for i, game in enumerate(games):
            if over[i]:
                game.begin()
                over[i] = False
            else:
                over[i] = game.play(int(actions[i])) or game.oppose()
            assert terminations[i] == over[i] and rewards[i] == {0: 0, 1: 1, 2: -1}[game.winner]
            if over[i]:
                assert infos["score"][i] == {0: 0.5, 1: 1, 2: 0}[game.winner]
                assert infos["moves"][i] == game.moves
                outcomes[game.winner] += 1
    assert depth > 2 or (outcomes[1] and outcomes[2])
    vector.close()


def test_looking_ahead_wins():
    """The random agent's share of points falls with the opponent's depth."""
    scores = []
    for depth in (0, 1, 3):
        vector = shoal.vectorize("connect4", 64, env_kwargs={"depth": depth}, seed=0)
        vector.reset()
        random, found = np.random.default_rng(0), []
        while len(found) < 300:
            legal = vector.action_masks
            *_, infos = vector.step(np.argmax(random.random(legal.shape) * legal, axis=1))
            if "score" in infos:
                found += infos["score"][infos["_score"]].tolist()
        scores.append(np.mean(found))
        vector.close()
    assert 0.4 < scores[0] < 0.6 and scores[0] > 1.5 * scores[1] and scores[1] > 3 * scores[2]


def test_self_play_in_turns():
    """Two agents, each of which sees its own discs first; one acts, and the other's transition is
    complete when its turn comes again, or at the end."""
    count = 16
    vector = shoal.vectorize("connect4", count, env_kwargs={"self_play": True})
    vector.reset(seed=5)
    games = [Game(5 + i, 0) for i in range(count)]
    for game in games:
        game.reset()
    assert vector.num_rows == 2 * count
    random, over, acted = (
        np.random.default_rng(0),
        np.zeros(count, bool),
        np.zeros((count, 2), bool),
    )
    ends = {0: 0, 1: 0, 2: 0}
    for _ in range(1500):
        actions = random.integers(0, COLUMNS, 2 * count)  # an illegal one loses
        vector.send(actions)
        batch = vector.recv()
        for i, game in enumerate(games):
            rows = slice(2 * i, 2 * i + 2)
            if over[i]:
                game.reset()
                over[i], acted[i] = False, False
                assert not batch.rewards[rows].any() and not batch.terminations[rows].any()
            else:
                side = game.turn
                over[i] = game.play(int(actions[2 * i + side - 1]))
                acted[i, side - 1] = True
                winner = game.winner
                assert batch.rewards[rows].tolist() == (
                    [0, 0] if not winner else [1, -1] if winner == 1 else [-1, 1]
                )
                assert (batch.terminations[rows] == over[i]).all()
                masks = [True, True] if over[i] else [acted[i, 0], acted[i, 1]]
                if not over[i]:
                    masks[side - 1] = False
                assert batch.masks[rows].tolist() == masks
                if over[i]:
                    ends[winner] += 1
            if not over[i]:
                assert vector.acting[rows].tolist() == [game.turn == 1, game.turn == 2]
                mover = 2 * i + game.turn - 1
                assert vector.action_masks[mover].tolist() == game.mask()
            for side in (1, 2):
                assert (batch.observations[2 * i + side - 1] == game.planes(side)).all()
    assert ends[1] > 50 and ends[2] > 50
    vector.close()


def test_self_play_passes_the_checks():
    report = shoal.check_env(make_native("connect4", self_play=True), steps=300)
    assert report.ok, report
    api = pytest.importorskip("pettingzoo.test")
    api.parallel_api_test(make_native("connect4", self_play=True), num_cycles=100)
