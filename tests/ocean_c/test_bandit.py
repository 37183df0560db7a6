"""bandit.c beside the same game, and what right learners score."""

import pytest

import shoal
from shoal.errors import ParameterError
from tests.ocean_c.beside import mean, step_beside


class Game:
    def __init__(self, chance, num_arms=4, pulls=16, arm=2, win=0.75, lose=0.25):
        self.chance, self.num_arms, self.pulls, self.arm = chance, num_arms, pulls, arm
        self.win, self.lose = win, lose

    def reset(self):
        self.best = self.chance.below(self.num_arms) if self.arm < 0 else self.arm
        self.history = []

    def observation(self):
        last, paid = self.history[-1] if self.history else (None, False)
        return [int(k == last) for k in range(self.num_arms)] + [int(paid)]

    def step(self, action):
        odds = self.win if action == self.best else self.lose
        paid = self.chance.between(0, 1) < odds
        self.history.append((action, paid))
        return float(paid), len(self.history) == self.pulls

    def logs(self):
        return {"score": sum(arm == self.best for arm, _ in self.history) / len(self.history)}


# Odds that float32 holds exactly.
PARAMS = [
    {},
    {"arm": -1, "win": 1.0, "lose": 0.0},
    {"num_arms": 10, "pulls": 5, "arm": -1, "win": 0.5, "lose": 0.125},
    {"num_arms": 2, "arm": 1, "win": 0.5, "lose": 0.5, "pulls": 40},
]


@pytest.mark.parametrize("params", PARAMS)
def test_it_is_the_game(params):
    ended = step_beside("bandit", lambda chance: Game(chance, **params), **params)
    assert mean(ended) == pytest.approx(1 / params.get("num_arms", 4), abs=0.04)


def test_who_stays_with_what_pays_and_else_tries_the_next_scores_what_the_table_says():
    """Which needs nothing but what is seen."""

    def choose(game, random):
        seen = game.observation()
        last = seen.index(1) if 1 in seen[:-1] else -1
        return last if seen[-1] else (last + 1) % game.num_arms

    sure = {"arm": -1, "win": 1.0, "lose": 0.0}
    ended = step_beside("bandit", lambda chance: Game(chance, **sure), 600, choose=choose, **sure)
    assert mean(ended) == pytest.approx(1 - 3 / (2 * 16), abs=0.01)


def test_a_fixed_arm_can_be_known():
    ended = step_beside("bandit", Game, 100, choose=lambda *_: 2)
    assert ended and mean(ended) == 1


def test_parameters_that_contradict_each_other():
    for params, words in (({"arm": 4}, "num_arms"), ({"win": 0.1, "lose": 0.2}, "lose")):
        with pytest.raises(ParameterError, match=words):
            shoal.vectorize("bandit", 1, env_kwargs=params)
