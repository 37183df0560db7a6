"""Warnings: each appears when what it speaks of is so, and not otherwise."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from shoal.rows.layout import Layout
from shoal.trainers.diagnose import ObservationWatch, diagnose

GOOD = {
    "steps": 1000.0,
    "updates": 1.0,
    "episodes": 5.0,
    "reward/nonzero": 0.1,
    "kl": 0.01,
    "explained_variance": 0.5,
    "time/environment": 0.3,
    "ratio/first_error": 1e-7,
}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"episodes": 0.0}, "No episode has ended in 1,000 steps"),
        ({"reward/nonzero": 0.0}, "The reward has always been 0"),
        ({"kl": 0.5}, "KL is 0.5: .*--target-kl"),
        ({"explained_variance": -0.1}, "Explained variance has been negative"),
        ({"time/environment": 0.72}, "The environment is the bottleneck: 72%"),
        ({"ratio/first_error": 0.1}, "other probabilities in learning than in collecting"),
    ],
)
def test_each_warning_and_no_other(wrong, said):
    (warning,) = diagnose([{**GOOD, **wrong}] * 40)
    assert re.search(said, warning)


def test_a_good_run_has_no_warnings_and_a_young_one_is_given_time():
    assert diagnose([]) == []
    assert diagnose([GOOD] * 100) == []
    for young in ({"episodes": 0.0}, {"reward/nonzero": 0.0}, {"explained_variance": -1.0}):
        assert diagnose([{**GOOD, **young}] * 5) == []


def test_what_has_come_right_is_not_spoken_of():
    bad = {**GOOD, "kl": 0.5, "explained_variance": -1.0, "reward/nonzero": 0.0}
    assert diagnose([bad] * 50 + [GOOD] * 10) == []


SPACE = spaces.Dict(
    {
        "still": spaces.Box(-1, 1, (3,), np.float32),
        "large": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "fine": spaces.Box(-1, 1, (2,), np.float32),
        "image": spaces.Box(0, 255, (4, 4), np.uint8),
        "class": spaces.Discrete(1000),
        "late": spaces.Discrete(2),
    }
)


def sample(rng, i):
    return {
        "still": np.ones(3, np.float32),
        "large": rng.normal(size=2) * 50,
        "fine": rng.random(2, np.float32),
        "image": rng.integers(0, 256, (4, 4), np.uint8),
        "class": rng.integers(1000),
        "late": int(i > 100),
    }


@pytest.mark.parametrize("form", ["bytes", "float32"])
def test_observations_that_never_change_or_are_large_are_named(form):
    rng = np.random.default_rng(0)
    layout = Layout.from_space(SPACE, form)
    watch = ObservationWatch(layout)
    for i in range(15):
        rows = layout.zeros(16)
        for j in range(16):
            layout.pack(sample(rng, 16 * i + j), rows[j])
        watch(rows)
        if i < 5:
            assert watch.warnings() == []
    still, large = watch.warnings()
    assert still.startswith("still of the observation never changes")
    assert re.match("large of the observation reaches 1[0-9][0-9]", large)
    assert "--normalize-observations" in large


def test_a_space_of_one_array():
    env = gymnasium.make("CartPole-v1")
    layout = Layout.from_space(env.observation_space)
    watch = ObservationWatch(layout)
    for _ in range(20):
        watch(np.zeros((4, 4), np.float32))
    assert watch.warnings() == ["The observation never changes: is it filled in?"]
    watch(np.full((4, 4), 101, np.float32))
    (warning,) = watch.warnings()
    assert warning.startswith("The observation reaches 101: ")


def test_a_collapsed_policy_is_named():
    good = {"steps": 1.0, "episodes": 5.0, "reward/nonzero": 0.5, "loss/entropy": 0.6}
    bad = {**good, "reward/nonzero": 0.0, "loss/entropy": 0.001}
    assert any("has collapsed" in text for text in diagnose([good] * 20 + [bad] * 50))
    for history in (
        [good] * 20 + [bad] * 49,  # not for long enough
        [good] * 20 + [{**bad, "loss/entropy": 0.6}] * 50,  # still tries other actions
        [bad] * 70,  # never had any reward: another warning
    ):
        assert not any("has collapsed" in text for text in diagnose(history))
