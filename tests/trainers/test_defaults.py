"""How large a run is by default: one rule, and what is given goes before it."""

from dataclasses import replace

import pytest

import shoal
from shoal.errors import UnknownEnvError
from shoal.trainers.config import Config
from shoal.trainers.defaults import describe, filled


def size(config):
    return config.num_envs, config.horizon, config.minibatch_size, config.update_epochs


@pytest.mark.parametrize(
    "env, env_kwargs, expected",
    [
        ("breakout", {}, (256, 64, 1024, 4)),
        ("target", {"num_agents": 4}, (64, 64, 1024, 4)),
        ("CartPole-v1", {}, (8, 128, 256, 4)),
        ("pettingzoo.classic.tictactoe_v3", {}, (8, 128, 256, 4)),
    ],
)
def test_the_size_follows_from_the_kind_of_environment(env, env_kwargs, expected):
    config = filled(Config(env, env_kwargs=env_kwargs))
    assert size(config) == expected
    assert filled(config) == config


def test_what_is_given_stays_and_the_rest_follows_from_it():
    config = Config("breakout", num_envs=4096, update_epochs=0.5)
    assert size(filled(config)) == (4096, 16, 4096, 0.5)
    assert size(filled(replace(config, num_envs=2, minibatch_size=7))) == (2, 64, 7, 0.5)
    assert filled(Config("CartPole-v1", batch_size=6)).num_envs == 12
    assert filled(Config("CartPole-v1", num_workers=16)).num_envs == 16


def test_a_vector_that_is_there_is_not_looked_up():
    vector = shoal.vectorize("CartPole-v1", 3, backend="serial")
    assert size(filled(Config("no such name"), vector)) == (3, 128, 96, 4)
    vector.close()
    with pytest.raises(UnknownEnvError):
        filled(Config("no_such_name"))


def test_one_line_says_how_large_a_run_is():
    assert describe(filled(Config("breakout"))) == (
        "256 environments, rollouts of 64 steps, minibatches of 1,024, passes: 4, "
        "learning rate: 0.001"
    )
