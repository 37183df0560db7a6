"""What a config takes, and what it says to the rest."""

import pytest

from shoal.errors import ConfigError
from shoal.trainers.config import Config, from_dict, kept, require_secrets, to_dict
from shoal.trainers.seeds import EVALUATION, TRAINING, environment_seed, generator_seed


def test_the_defaults_are_allowed_and_come_back_from_plain_values():
    config = Config("CartPole-v1", env_kwargs={"a": [1, 2]}, num_workers=2)
    assert from_dict(to_dict(config)) == config
    assert from_dict({"env": "CartPole-v1"}) == Config("CartPole-v1")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "env: missing"),
        ({"env": "x", "learning_ratee": 1}, "did you mean learning_rate"),
        ({"env": "x", "minibatch-sise": 1}, "did you mean minibatch_size"),
        ({"env": "x", "optimizer": "adamw"}, "one of adam, muon, got 'adamw'; did you mean adam"),
        ({"env": "x", "anneal": 1}, "anneal: expected one of linear, cosine, none, got 1"),
        ({"env": "x", "total_steps": 1.5}, "total_steps: expected int, got 1.5"),
        ({"env": "x", "total_steps": float("inf")}, "total_steps: expected int, got inf"),
        ({"env": "x", "learning_rate": float("inf")}, "learning_rate: expected float, got inf"),
        ({"env": "x", "total_steps": True}, "total_steps: expected int, got True"),
        ({"env": "x", "tensorboard": 1}, "tensorboard: expected bool, got 1"),
        ({"env": "x", "num_envs": 0}, "num_envs: expected at least 1, got 0"),
        ({"env": "x", "gamma": 1.01}, "gamma: expected 0 to 1"),
        ({"env": "x", "gamma": float("nan")}, "gamma: expected"),
        ({"env": "x", "learning_rate": 0}, "learning_rate: expected more than 0"),
        ({"env": "x", "vtrace_c": 1.0}, "give both, or neither"),
        ({"env": "x", "num_envs": 2, "batch_size": 3}, "batch_size: expected at most num_envs"),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_helps(values, said):
    with pytest.raises(ConfigError, match=said):
        from_dict(values)


def test_a_whole_number_may_be_written_in_any_way():
    assert from_dict({"env": "x", "total_steps": 1e8}).total_steps == 10**8
    assert isinstance(from_dict({"env": "x", "total_steps": 1e8}).total_steps, int)
    assert isinstance(from_dict({"env": "x", "gamma": 1}).gamma, float)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**40])
def test_seeds_of_training_and_evaluation_never_meet(seed):
    """Environments are in ranges of their own, that 32 bits hold; runs begin anywhere in them."""
    training, evaluation = (environment_seed(seed, stream) for stream in (TRAINING, EVALUATION))
    assert 0 <= training < 2**29
    assert 2**30 <= evaluation < 2**30 + 2**29
    assert environment_seed(seed, TRAINING) == training
    assert abs(environment_seed(seed + 1, TRAINING) - training) > 10_000
    assert environment_seed(seed, TRAINING, 7) != training


def test_generators_of_all_uses_and_processes_differ():
    uses = ("actions", "minibatches", "losses")
    seeds = {generator_seed(s, use, rank) for s in range(20) for use in uses for rank in range(8)}
    assert len(seeds) == 20 * 3 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_secrets_of_the_environment_are_masked_and_asked_for_again():
    values = {
        "api_key": "x", "token": "x", "Password": 5, "login": {"secret_id": "x", "host": "h"},
        "keyboard": "qwerty", "monkey": 1, "size": 3,
    }  # fmt: skip
    config = Config("CartPole-v1", env_kwargs=values)
    expected = {
        "api_key": "***", "token": "***", "Password": "***",
        "login": {"secret_id": "***", "host": "h"}, "keyboard": "qwerty", "monkey": 1, "size": 3,
    }  # fmt: skip
    assert kept(config)["env_kwargs"] == expected
    assert to_dict(config)["env_kwargs"] == values
    require_secrets(values)
    with pytest.raises(ConfigError, match=r"api_key was not kept.*--env-kwargs api_key=VALUE"):
        require_secrets(expected)
    with pytest.raises(ConfigError, match="secret_id was not kept"):
        require_secrets({"login": expected["login"]})
