"""memory.c beside the same game with lists, and what those score who remember or do not."""

import numpy as np
import pytest

import shoal
from shoal.errors import ParameterError
from tests.ocean_c.beside import mean, step_beside


class Game:
    def __init__(self, chance, length=1, num_symbols=4, delay=2):
        self.chance, self.length, self.num_symbols, self.delay = chance, length, num_symbols, delay

    def reset(self):
        self.symbols = [self.chance.below(self.num_symbols) for _ in range(self.length)]
        self.time, self.answers = 0, []

    @property
    def asks(self) -> bool:
        return self.time >= self.length + self.delay

    def observation(self):
        shown = self.symbols[self.time] if self.time < self.length else None
        return [int(k == shown) for k in range(self.num_symbols)] + [int(self.asks)]

    def step(self, action):
        reward = 0.0
        if self.asks:
            reward = (action == self.symbols[len(self.answers)]) / self.length
            self.answers.append(action)
        self.time += 1
        return reward, len(self.answers) == self.length

    def logs(self):
        right = sum(a == b for a, b in zip(self.answers, self.symbols))
        return {"score": right / self.length, "complete": right == self.length}


PARAMS = [{}, {"length": 32, "num_symbols": 8, "delay": 3}, {"length": 3, "delay": 0}]


@pytest.mark.parametrize("params", PARAMS)
def test_it_is_the_game(params):
    ended = step_beside("memory", lambda chance: Game(chance, **params), **params)
    assert len(ended) >= 200
    assert mean(ended) == pytest.approx(1 / params.get("num_symbols", 4), abs=0.05)


def test_time_limits_end_it_before_the_question():
    ended = step_beside("memory", Game, 30, max_steps=3)
    assert ended and mean(ended) == 0


def test_who_remembers_what_was_seen_scores_1():
    """From observations alone."""
    vector = shoal.vectorize("memory", 8, env_kwargs={"length": 3, "delay": 5}, seed=0)
    seen, _ = vector.reset()
    kept: list[list[int]] = [[] for _ in range(8)]
    scores = []
    for _ in range(200):
        actions = np.zeros(8, np.int64)
        for i, row in enumerate(seen):
            if row[:-1].any():
                kept[i].append(int(row[:-1].argmax()))
            elif row[-1] and kept[i]:
                actions[i] = kept[i].pop(0)
        seen, _, terminations, _, infos = vector.step(actions)
        scores += infos["score"][terminations].tolist() if terminations.any() else []
    assert len(scores) > 100 and set(scores) == {1.0}
    vector.close()


def test_observations_and_actions_have_as_many_symbols_as_it_says():
    env = shoal.vectorize("memory", 1, env_kwargs={"num_symbols": 8})
    assert env.single_observation_space.shape == (9,) and env.single_action_space.n == 8
    env.close()
    with pytest.raises(ParameterError, match=r"num_symbols.*2 to 8"):
        shoal.vectorize("memory", 1, env_kwargs={"num_symbols": 1})
