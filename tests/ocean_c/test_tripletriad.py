"""tripletriad.c beside the game written again with rows and columns."""

import numpy as np
import pytest

import shoal
from shoal.registry.creators import make_native
from tests.ocean_c.beside import mean, step_beside
from tests.ocean_c.chance import Chance

# Where the neighbour at each edge of a card lies, and the edge with which that one faces it.
ABOVE, RIGHT, BELOW, LEFT = range(4)
EDGES = {ABOVE: (-1, 0, BELOW), RIGHT: (0, 1, LEFT), BELOW: (1, 0, ABOVE), LEFT: (0, -1, RIGHT)}
CELLS = [(row, column) for row in range(3) for column in range(3)]
HAND = 5


class Game:
    """Cards are tuples of four ranks; `board` has (card, side) by cell, `hands` a place for each
    card, which is None when it has been laid."""

    def __init__(self, chance, skill=1.0, open=True, opponent=True):
        self.chance, self.skill, self.open, self.opponent = chance, skill, open, opponent

    def reset(self):
        self.hands = [
            [tuple(1 + self.chance.below(10) for _ in range(4)) for _ in range(HAND)]
            for _ in range(2)
        ]
        self.board, self.chosen, self.foul = {}, None, None
        self.turn = self.chance.below(2)
        if self.opponent and self.turn == 1:
            self.oppose()

    def captures(self, card, cell, side):
        """The cells of the other side's cards that a card would capture."""
        found = []
        for edge, (down, right, facing) in EDGES.items():
            other = cell[0] + down, cell[1] + right
            ranks, owner = self.board.get(other, (card, side))
            if owner != side and card[edge] > ranks[facing]:
                found.append(other)
        return found

    def lay(self, place, cell):
        side, card = self.turn, self.hands[self.turn][place]
        for other in self.captures(card, cell, side):
            self.board[other] = self.board[other][0], side
        self.board[cell] = card, side
        self.hands[side][place] = None
        self.turn, self.chosen = 1 - side, None

    def oppose(self):
        greedy = self.chance.between(0, 1) < self.skill
        moves = {}
        for cell in CELLS:
            for place, card in enumerate(self.hands[1]):
                if card and cell not in self.board:
                    moves[place, cell] = len(self.captures(card, cell, 1)) if greedy else 0
        best = [move for move, gain in moves.items() if gain == max(moves.values())]
        self.lay(*best[self.chance.below(len(best))])

    @property
    def full(self) -> bool:
        return len(self.board) == len(CELLS)

    def count(self, side) -> int:
        held = sum(card is not None for card in self.hands[side])
        return held + sum(owner == side for _, owner in self.board.values())

    @property
    def winner(self):
        if self.foul is not None or not self.full or self.count(0) == self.count(1):
            return None if self.foul is None else 1 - self.foul
        return int(self.count(1) > self.count(0))

    def play(self, action) -> bool:
        """A choice or a move of the side whose turn it is; whether the game is over."""
        if not self.mask(self.turn)[action]:
            self.foul = self.turn
        elif action < HAND:
            self.chosen = action
        else:
            self.lay(self.chosen, CELLS[action - HAND])
            if self.opponent and not self.full:
                self.oppose()
        return self.foul is not None or self.full

    def step(self, action):
        over = self.play(action)
        return {None: 0.0, 0: 1.0, 1: -1.0}[self.winner], over

    def mask(self, side=0):
        if self.full:
            return [True] * (HAND + len(CELLS))
        laying = self.turn == side and self.chosen is not None
        cards = [not laying and card is not None for card in self.hands[side]]
        return cards + [laying and cell not in self.board for cell in CELLS]

    def observation(self, side=0):
        rows = []
        for cell in CELLS:
            card, owner = self.board.get(cell, (None, None))
            rows.append([*card, 10 if owner == side else -10, 0] if card else [0] * 6)
        for place, card in enumerate(self.hands[side]):
            chosen = self.turn == side and self.chosen == place
            rows.append([*card, 10, 10 * chosen] if card else [0] * 6)
        for card in self.hands[1 - side]:
            ranks = card if self.open else (0, 0, 0, 0)
            rows.append([*ranks, -10, 0] if card else [0] * 6)
        return np.array(rows, np.float32) * np.float32(0.1)

    def logs(self, side=0):
        score = 0.5 if self.winner is None else float(self.winner == side)
        return {"score": score, "cards": self.count(side)}


@pytest.mark.parametrize("params", [{"skill": 0.5}, {"skill": 1.0, "open": False}])
def test_it_is_the_game(params):
    ended = step_beside("tripletriad", lambda chance: Game(chance, **params), **params)
    assert {logs["score"] for logs in ended} == {0, 0.5, 1}


@pytest.mark.slow
@pytest.mark.parametrize("skill", [0.0, 0.5, 1.0])
def test_it_is_the_game_for_100_000_steps(skill):
    ended = step_beside("tripletriad", lambda chance: Game(chance, skill), 1000, 100, skill=skill)
    assert len(ended) > 10_000


def test_a_skilled_opponent_wins_more_often():
    def legal(game, random):
        return random.choice(np.flatnonzero(game.mask()))

    scores = [
        mean(step_beside("tripletriad", lambda c, s=s: Game(c, s), 100, choose=legal, skill=s))
        for s in (0.0, 0.5, 1.0)
    ]
    assert scores[0] == pytest.approx(0.5, abs=0.08) and scores[0] > scores[1] > scores[2] > 0.05


def test_self_play_in_turns():
    """One side acts, twice in a row: it chooses, then lays. Complete is what each did last before
    it is to act again, or before the end."""
    count = 16
    vector = shoal.vectorize("tripletriad", count, env_kwargs={"self_play": True, "open": False})
    vector.reset(seed=5)
    games = [Game(Chance(5 + i), open=False, opponent=False) for i in range(count)]
    for game in games:
        game.reset()
    over, acted = np.zeros(count, bool), np.zeros((count, 2), bool)
    random, ends = np.random.default_rng(0), []
    for _ in range(600):
        actions = random.integers(0, HAND + len(CELLS), 2 * count)
        for i, game in enumerate(games):
            if random.random() < 0.97 and not over[i]:
                legal = np.flatnonzero(game.mask(game.turn))
                actions[2 * i + game.turn] = random.choice(legal)
        vector.send(actions)
        batch = vector.recv()
        for i, game in enumerate(games):
            rows = slice(2 * i, 2 * i + 2)
            if over[i]:
                game.reset()
                over[i], acted[i] = False, False
            else:
                side = game.turn
                over[i] = game.play(int(actions[2 * i + side]))
                acted[i, side] = True
                rewards = {None: [0, 0], 0: [1, -1], 1: [-1, 1]}[game.winner]
                assert batch.rewards[rows].tolist() == rewards
                assert (batch.terminations[rows] == over[i]).all()
                # Complete is the last move of whoever is to act now.
                masks = [over[i] or (game.turn == k and acted[i, k]) for k in range(2)]
                assert batch.masks[rows].tolist() == masks
                if over[i]:
                    ends.append(game.winner)
                    infos = batch.infos
                    assert [infos["score"][row] for row in (2 * i, 2 * i + 1)] == [
                        game.logs(k)["score"] for k in range(2)
                    ]
            if not over[i]:
                assert vector.acting[rows].tolist() == [game.turn == 0, game.turn == 1]
                assert vector.action_masks[2 * i + game.turn].tolist() == game.mask(game.turn)
            for side in range(2):
                np.testing.assert_array_equal(
                    batch.observations[2 * i + side], game.observation(side)
                )
    assert min(ends.count(0), ends.count(1)) > 50 and ends.count(None) > 5
    vector.close()


def test_self_play_passes_the_checks():
    report = shoal.check_env(make_native("tripletriad", self_play=True), steps=300)
    assert report.ok, report
    api = pytest.importorskip("pettingzoo.test")
    api.parallel_api_test(make_native("tripletriad", self_play=True), num_cycles=100)
