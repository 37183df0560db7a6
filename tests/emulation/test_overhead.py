"""Measuring the overhead: on every kind of environment, and of nothing but steps in an episode."""

import gymnasium
import mpe2.simple_spread_v3
import pettingzoo.classic.tictactoe_v3
import pytest
from gymnasium import spaces

import shoal
from shoal.emulation.overhead import Idle, Timed, TimedTurns, measure_overhead


class Short(gymnasium.Env):
    """Counts its calls; episodes have a given length."""

    observation_space = action_space = spaces.Discrete(2)

    def __init__(self, length):
        self.length = length
        self.steps = self.resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.at = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        self.at += 1
        return 0, 0.0, self.at == self.length, False, {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.make("CartPole-v1"),
        mpe2.simple_spread_v3.parallel_env,
        pettingzoo.classic.tictactoe_v3.env,
    ],
)
def test_any_environment_can_be_measured(make):
    found = measure_overhead(shoal.emulate(make()).core, steps=100, seconds=30)
    assert found.bare > 0 and found.noise >= 0
    assert -found.bare < found.added < 1e6


def test_only_steps_within_an_episode_count():
    env = shoal.emulate(Short(3))
    assert measure_overhead(env.core, steps=60, seconds=60) is not None
    # Two of three steps are; the last one of 60 is the second of the 30th episode.
    assert env.env.steps == 89 and env.env.resets == 30


def test_too_few_steps_are_none():
    assert measure_overhead(shoal.emulate(Short(1)).core, seconds=0.1) is None
    assert measure_overhead(shoal.emulate(Short(9)).core, steps=10) is None


def test_the_clock_runs_in_steps_only():
    timed = Timed(Idle())
    for _ in range(3):
        timed.step(0)
    assert timed.calls == 3 and timed.inside > 0
    game = TimedTurns(pettingzoo.classic.tictactoe_v3.env())
    game.reset(seed=0)
    assert game.calls == 0
    game.last(), game.observe("player_1"), game.step(0)
    assert game.calls == 3 and game.agents == ["player_1", "player_2"]
