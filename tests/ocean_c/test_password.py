"""password.c beside the same game with lists."""

import pytest

import shoal
from tests.ocean_c.beside import mean, step_beside
from tests.ocean_c.chance import Chance


class Game:
    def __init__(self, _chance, length=5, num_symbols=3, password=0):
        own = Chance(password)
        self.password = [own.below(num_symbols) for _ in range(length)]
        self.length, self.num_symbols = length, num_symbols

    def reset(self):
        self.entered = []

    def observation(self):
        entered = self.entered + [None] * (self.length - len(self.entered))
        return [[int(k == symbol) for k in range(self.num_symbols)] for symbol in entered]

    def step(self, action):
        self.entered.append(action)
        return float(self.entered == self.password), len(self.entered) == self.length

    def logs(self):
        right = sum(a == b for a, b in zip(self.entered, self.password))
        return {"score": self.entered == self.password, "right": right / self.length}


PARAMS = [{}, {"length": 2, "num_symbols": 8, "password": 77}, {"length": 32, "num_symbols": 2}]


@pytest.mark.parametrize("params", PARAMS)
def test_it_is_the_game(params):
    ended = step_beside("password", lambda chance: Game(chance, **params), **params)
    game = Game(None, **params)
    chance = game.num_symbols**-game.length
    assert mean(ended) == pytest.approx(chance, abs=4 * (chance / len(ended)) ** 0.5 + 1e-6)
    assert params or mean(ended) > 0  # chance finds it at times


def test_who_knows_it_scores_1():
    def know(game, random):
        return game.password[len(game.entered)] if len(game.entered) < game.length else None

    ended = step_beside("password", Game, 60, choose=know)
    assert len(ended) == 500 and mean(ended) == 1


def test_passwords_of_other_numbers_differ():
    """Whatever the seed of the environment is."""
    found = {tuple(Game(None, length=10, password=number).password) for number in range(50)}
    assert len(found) == 50
    for seed in (0, 1):
        vector = shoal.vectorize("password", 1, env_kwargs={"password": 3}, seed=seed)
        vector.reset()
        for symbol in Game(None, password=3).password:
            _, rewards, *_ = vector.step([symbol])
        assert rewards[0] == 1
        vector.close()
