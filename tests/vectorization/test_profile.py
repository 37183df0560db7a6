"""`Vector.profile`: where the time goes."""

import time

import gymnasium
import numpy as np
import pytest

import shoal


class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seconds):
        self.seconds = seconds

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        time.sleep(self.seconds)
        return np.zeros(2, np.float32), 0.0, False, False, {}


def shares(seconds, between, **options):
    """The profile of ten steps that take so long, with so long between them."""
    vector = shoal.vectorize(lambda: Slow(seconds), 2, profile=True, **options)
    vector.reset()
    vector.profile()
    for _ in range(10):
        vector.step(np.zeros(2, np.int64))
        time.sleep(between)
    found = vector.profile()
    vector.close()
    assert found.keys() == {"environment", "packing", "waiting", "other"}
    assert sum(found.values()) == pytest.approx(1, abs=0.1)
    return found


WORKERS = {"backend": "multiprocess", "num_workers": 2}


def test_time_in_environments():
    for options in (WORKERS, {"backend": "serial"}):
        found = shares(0.02, 0, **options)
        assert found["environment"] > 0.5 > found["packing"]


def test_time_between_steps():
    found = shares(0, 0.02, **WORKERS)
    assert found["waiting"] > 0.5 > found["environment"]
    found = shares(0, 0.02, backend="serial")
    assert found["waiting"] == 0 and found["other"] > 0.5


def test_a_wait_that_began_earlier_is_no_more_than_all_of_the_time():
    """Workers count a wait when it ends."""
    vector = shoal.vectorize(lambda: Slow(0), 2, profile=True, num_workers=1)
    vector.reset()
    vector.profile()
    time.sleep(0.3)
    vector._profiled = time.perf_counter_ns(), vector._profiled[1]
    vector.step(np.zeros(2, int))
    found = vector.profile()
    vector.close()
    assert sum(found.values()) == pytest.approx(1) and found["waiting"] > 0.9


def test_nothing_was_measured():
    vector = shoal.vectorize(lambda: Slow(0), 2, backend="serial")
    vector.reset()
    with pytest.raises(ValueError, match="profile=True"):
        vector.profile()
    vector.close()
