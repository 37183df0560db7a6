"""stochastic.c beside the same game in fractions, and what policies without memory get."""

from fractions import Fraction

import numpy as np
import pytest

import shoal
from tests.ocean_c.beside import mean, step_beside


class Game:
    def __init__(self, _chance, share=0.75, length=100):
        self.share, self.length = Fraction(share), length

    def reset(self):
        self.actions = []

    def observation(self):
        return [1]

    def step(self, action):
        count, due = self.actions.count(0), self.share * len(self.actions)
        pays = count <= due if action == 0 else count >= due
        self.actions.append(action)
        return float(pays * (self.share if action else 1 - self.share)), (
            len(self.actions) == self.length
        )

    def logs(self):
        share = Fraction(self.actions.count(0), len(self.actions))
        off = abs(share - self.share) / min(self.share, 1 - self.share)
        return {"score": float(max(0, 1 - off)), "share": float(share)}


@pytest.mark.parametrize("params", [{}, {"share": 0.25, "length": 7}, {"share": 0.5}])
def test_it_is_the_game(params):
    ended = step_beside("stochastic", lambda chance: Game(chance, **params), **params)
    assert mean(ended, "share") == pytest.approx(0.5, abs=0.02)


def play(share: float, chance: float) -> tuple[float, float]:
    """Mean (return of a step, score) of drawing the first action with a certain chance."""
    vector = shoal.vectorize("stochastic", 500, env_kwargs={"share": share})
    vector.reset(seed=0)
    random, total = np.random.default_rng(0), 0.0
    for _ in range(100):
        _, rewards, terminations, _, infos = vector.step(random.random(500) >= chance)
        total += rewards.mean() / 100
    assert terminations.all()
    vector.close()
    return total, infos["score"].mean()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_right_odds_pay_the_most(share):
    """Among policies without memory; the same action always scores nothing."""
    found = {chance: play(share, chance) for chance in np.arange(0, 1.01, 0.125)}
    assert max(found, key=lambda chance: found[chance][0]) == share
    assert max(found, key=lambda chance: found[chance][1]) == share
    assert found[0.0][1] == found[1.0][1] == 0
    assert found[share][0] == pytest.approx(share * (1 - share), rel=0.2)
    if share == 0.75:
        assert found[share][1] == pytest.approx(0.86, abs=0.01)  # as the table says
        assert found[0.5][1] < 0.1
