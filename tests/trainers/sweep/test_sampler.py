"""The sampler: it explores the whole front, and neither failures nor outliers lead it astray."""

import math

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution

from shoal.trainers.sweep.models import Process
from shoal.trainers.sweep.sampler import CostSampler

SPACE = {
    "steps": FloatDistribution(0.01, 1.0, log=True),
    **{f"x{i}": FloatDistribution(0, 1) for i in range(3)},
}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def run(count, seed=0, direction="maximize", outcome=lambda params, score: score):
    """Sweep a quadratic whose score grows with the steps; return all trials."""
    study = optuna.create_study(direction=direction, sampler=CostSampler(seed, steps="steps"))
    rng = np.random.default_rng(seed)
    for _ in range(count):
        trial = study.ask(SPACE)
        cost = 100 * trial.params["steps"]
        distance = sum((trial.params[f"x{i}"] - 0.7) ** 2 for i in range(3))
        score = math.exp(-5 * distance) * (1 + math.log10(cost)) + 0.03 * rng.standard_normal()
        score = outcome(trial.params, score)
        if score is not None and direction == "minimize":
            score = -score
        if score is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        trial.set_user_attr("cost", cost)
        trial.set_user_attr("curve", [[trial.params["steps"] / 2, cost / 2, score * 0.8]])
        study.tell(trial, score)
    return study.get_trials()


def distance(trials):
    return np.median([sum((t.params[f"x{i}"] - 0.7) ** 2 for i in range(3)) for t in trials])


def test_suggestions_get_near_the_optimum_and_cover_all_costs():
    trials = run(40)
    assert distance(trials[25:]) < 0.35 * distance(trials[:10])
    late = np.log10([100 * t.params["steps"] for t in trials[15:]])
    assert (late < 0.7).any() and (late > 1.3).any()  # costs are 1 to 100: it doesn't collapse


def test_what_is_to_be_small_is_minimised():
    trials = run(30, direction="minimize")
    assert distance(trials[22:]) < 0.5 * distance(trials[:10])


def test_the_same_seed_gives_the_same_suggestions():
    assert [t.params for t in run(14)] == [t.params for t in run(14)]


@pytest.mark.slow
def test_a_region_where_runs_fail_is_avoided():
    trials = run(45, outcome=lambda params, score: None if params["x0"] > 0.8 else score)
    failed = [t.params["x0"] > 0.8 for t in trials]
    assert np.mean(failed[25:]) < 0.2
    assert distance(trials[30:]) < 0.5 * distance(trials[:10])


@pytest.mark.slow
def test_half_of_the_runs_failing_anywhere_does_not_stop_the_search():
    coin = np.random.default_rng(1)
    trials = run(50, outcome=lambda params, score: None if coin.random() < 0.5 else score)
    assert distance(trials[35:]) < 0.5 * distance(trials[:10])


@pytest.mark.slow
def test_a_score_far_below_all_others_does_not_hide_their_differences():
    coin = np.random.default_rng(2)
    trials = run(40, outcome=lambda params, score: -1e9 if coin.random() < 0.15 else score)
    assert min(distance([t]) for t in trials[10:]) < 0.02 < min(distance([t]) for t in trials[:10])


def test_a_process_learns_how_noisy_repeated_runs_are():
    rng = np.random.default_rng(0)
    points = np.repeat(rng.random((30, 2)), 4, axis=0)
    truth = np.sin(4 * points[:, 0])
    values = truth + 0.3 * rng.standard_normal(len(points))
    process = Process(points, values, np.ones(len(points)), rng)
    noise = process.scale * math.exp(float(process.kernel[-1]) / 2)
    assert 0.2 < noise < 0.4
    mean, deviation = process.predict(points)
    assert np.sqrt(((mean - truth) ** 2).mean()) < 0.15  # a value alone is off by 0.3
    assert (deviation > 0).all() and torch.get_num_threads() >= 1


def test_a_process_returns_to_the_middle_far_from_what_it_has_seen():
    rng = np.random.default_rng(0)
    points = 0.1 * rng.random((40, 2))
    process = Process(points, np.sin(60 * points[:, 0]), np.ones(40), rng)
    near, far = process.predict(points)[1], process.predict(np.ones((1, 2)))[1]
    assert far[0] > 3 * near.mean()
