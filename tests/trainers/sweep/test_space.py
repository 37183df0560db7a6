"""Spaces of sweeps: what TOML tables mean, and which are refused."""

import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.trainers.config import Config
from shoal.trainers.defaults import filled
from shoal.trainers.sweep.models import Cube
from shoal.trainers.sweep.space import configured, default_tables, read_space, sweepable

BREAKOUT = Config(env="breakout")
TABLES = {
    "learning_rate": {"distribution": "log", "low": 1e-4, "high": 1e-1},
    "clip": {"distribution": "uniform", "low": 0.1, "high": 0.3},
    "accumulate": {"low": 1, "high": 8},
    "total_steps": {"distribution": "log", "low": 1000, "high": 100_000},
    "num_envs": {"distribution": "power_of_two", "low": 4, "high": 64},
    "gamma": {"distribution": "logit", "low": 0.8, "high": 0.999},
    "anneal": {},
    "normalize_rewards": {},
    "env_kwargs": {"lives": {}, "ball_speed": {"low": 0.1, "high": 0.2}},
}

SPACE = {each.label: each.distribution for each in read_space(TABLES, BREAKOUT)}


def test_every_distribution_draws_values_within_its_range():
    space = {each.name: each for each in read_space(TABLES, BREAKOUT)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    drawn: dict[str, list] = {name: [] for name in space}
    for _ in range(100):
        trial = study.ask({each.label: each.distribution for each in space.values()})
        values = {n: each.decode(trial.params[each.label]) for n, each in space.items()}
        assert len(drawn["clip"]) > 5 or configured(BREAKOUT, values)
        for name, value in values.items():
            drawn[name].append(value)
    assert set(drawn["num_envs"]) == {4, 8, 16, 32, 64}
    assert set(drawn["accumulate"]) == set(range(1, 9))
    assert set(drawn["anneal"]) == {"linear", "cosine", "none"}
    assert set(drawn["normalize_rewards"]) == {False, True}
    assert all(isinstance(steps, int) for steps in drawn["total_steps"])
    assert 5_000 < np.median(drawn["total_steps"]) < 20_000  # 10,000 in the middle of a log scale
    assert min(drawn["gamma"]) >= 0.8 and max(drawn["gamma"]) <= 0.999
    middle = 1 / (1 + math.exp(-(math.log(4) + math.log(999)) / 2))
    assert abs(np.median(drawn["gamma"]) - middle) < 0.01
    assert all(isinstance(lives, int) for lives in drawn["env_kwargs.lives"])
    assert 1 <= min(drawn["env_kwargs.lives"]) < max(drawn["env_kwargs.lives"]) <= 100


def test_a_parameter_of_a_c_environment_may_be_named_alone():
    (each,) = read_space({"ball_speed": {"low": 0.1, "high": 0.2}}, BREAKOUT)
    assert each.name == "env_kwargs.ball_speed"
    assert configured(BREAKOUT, {each.name: 0.15}).env_kwargs == {"ball_speed": 0.15}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"learning_rat": {}}, "did you mean learning_rate"),
        ({"env_kwargs": {"livs": {}}}, "no such parameter; did you mean lives"),
        ({"wandb": {}}, "can't change wandb"),
        ({"env": {}}, "can't change env"),
        ({"clip": {"distribution": "unifrom", "low": 0.1, "high": 1}}, "did you mean uniform"),
        ({"clip": {"low": 0.1, "hihg": 1}}, "high must be a number, got None"),
        ({"clip": {"low": 0.1, "high": 0.2, "step": 1}}, "there is no 'step'"),
        ({"clip": {"low": 0.3, "high": 0.1}}, "low must be less than high"),
        ({"clip": {"low": -1.0, "high": 0.1}}, "sweep.clip: expected more than 0"),
        ({"accumulate": {"low": 0.5, "high": 3}}, "low must be a whole number"),
        ({"num_envs": {"distribution": "power_of_two", "low": 3, "high": 8}}, "powers of two"),
        ({"gamma": {"distribution": "logit", "low": 0.5, "high": 1.0}}, "less than 1 for logit"),
        ({"anneal": {"values": ["linear", "none", "sudden"]}}, "anneal: expected one of"),
        ({"lives": {"low": 0, "high": 5}}, "breakout takes 1 to 100, got 0"),
        ({"gamma": 0.9}, "must be a table"),
        ({"lives": {}, "env_kwargs": {"lives": {}}}, "is there twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(tables, message):
    with pytest.raises(ConfigError, match=message):
        read_space(tables, BREAKOUT)


def test_the_default_tables_holds_the_defaults_and_only_options():
    config = filled(BREAKOUT)
    space = read_space(default_tables(config), config)
    assert {each.name for each in space} <= set(sweepable())
    for each in space:
        value = getattr(config, each.name)
        assert each.decode(each.encode(value)) == pytest.approx(value)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_the_cube_and_parameters_are_the_same_thing(data):
    space = SPACE
    cube = Cube(space)
    numbers = st.floats(0, 1)
    points = np.array(data.draw(st.lists(numbers, min_size=cube.size, max_size=cube.size)))
    snapped = cube.snap(points[None])[0]
    params = cube.decode(snapped)
    for name, value in params.items():
        assert space[name]._contains(space[name].to_internal_repr(value))
    np.testing.assert_allclose(cube.encode(params), snapped, atol=1e-9)
