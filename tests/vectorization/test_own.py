"""Environments that reset themselves (``autoreset="own"``), and actions given as objects."""

import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from shoal import vectorize
from shoal.errors import ActionError, EmulationError, PendingCallError
from tests.vectorization.environments import Crowd

BACKENDS = [
    ("serial", {}),
    ("multiprocess", {"num_workers": 2, "start_method": "fork"}),
    pytest.param("ray", {"num_workers": 2}, marks=pytest.mark.slow),
]
BACKEND = pytest.mark.parametrize(("backend", "kwargs"), BACKENDS)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Tally(gymnasium.Env):
    """Counts steps; every fourth one ends an episode, which begins the next by itself."""

    observation_space = spaces.Box(-100, 100, (1,), np.int64)
    action_space = spaces.Discrete(5)
    count = 10

    def reset(self, *, seed=None, options=None):
        self.count = 100
        return np.array([self.count]), {}

    def step(self, action):
        self.count += 1
        told = {} if isinstance(action, np.integer) else {"told": repr(action)}
        return np.array([self.count]), 1.0, self.count % 4 == 0, False, told


@BACKEND
def test_a_step_is_always_the_environments_own(backend, kwargs):
    vector = vectorize([Tally] * 3, backend=backend, autoreset="own", **kwargs)
    seen, ends, lengths = [], [], []
    for _ in range(9):  # with no reset before
        observations, _, terminations, _, _ = vector.step(np.zeros(3, np.int64))
        assert (observations == observations[0]).all()
        seen.append(int(observations[0, 0]))
        ends.append(bool(terminations[0]))
        assert (vector.episode_returns == vector.episode_lengths).all()
        lengths.append(int(vector.episode_lengths[0]))
    assert seen == list(range(11, 20)) and ends == [n % 4 == 0 for n in seen]
    assert lengths == [1, 2, 1, 2, 3, 4, 1, 2, 3]
    assert vector.statistics()["episodes"] == 6
    assert vector.reset()[0].tolist() == [[100]] * 3
    assert vector.metadata["autoreset_mode"] is None
    vector.close()


@BACKEND
def test_actions_as_objects(backend, kwargs):
    vector = vectorize([Tally] * 3, backend=backend, autoreset="next_step", **kwargs)
    with pytest.raises(PendingCallError, match="reset"):
        vector.send_objects([1, 2, 3])
    vector.reset()
    with pytest.raises(ActionError, match="expected 3, got 2"):
        vector.send_objects([1, 2])
    given = ["left", None, {"a": [1]}]
    vector.send_objects(given)
    with pytest.raises(PendingCallError):
        vector.send_objects(given)
    batch = vector.recv()
    assert batch.infos["told"].tolist() == [repr(one) for one in given]
    assert batch.observations.tolist() == [[101]] * 3
    assert "told" not in vector.step(np.zeros(3, np.int64))[-1], "just for one step"
    vector.step(np.zeros(3, np.int64)), vector.step(np.zeros(3, np.int64))  # the end
    vector.send_objects(given)  # a reset in its place
    assert vector.recv().observations.tolist() == [[100]] * 3
    assert "told" not in vector.step(np.zeros(3, np.int64))[-1]
    vector.close()


def test_what_cannot_be_pickled_is_not_sent():
    vector = vectorize([Tally] * 2, backend="multiprocess", num_workers=2, start_method="fork")
    vector.reset()
    with pytest.raises(TypeError, match="pickle"):
        vector.send_objects([1, threading.Lock()])
    assert vector.step(np.zeros(2, np.int64))[0].tolist() == [[101]] * 2
    vector.close()


def test_only_single_agents_take_objects():
    vector = vectorize([Crowd], backend="serial")
    vector.reset(seed=0)
    vector.send_objects([0])
    with pytest.raises(EmulationError, match="single-agent"):
        vector.recv()


def test_a_pool_takes_no_objects():
    vector = vectorize([Tally] * 2, backend="pool", batch_size=1, start_method="fork")
    with pytest.raises(PendingCallError, match="batches of 1 of 2"):
        vector.send_objects([0, 0])
    vector.close()


def test_a_fork_takes_over_what_cannot_be_pickled():
    lock = threading.Lock()

    class Locked(Tally):
        def step(self, action):
            with lock:
                return super().step(action)

    vector = vectorize([Locked] * 3, backend="multiprocess", num_workers=2, start_method="fork")
    vector.reset()
    assert vector.step(np.zeros(3, np.int64))[0].tolist() == [[101]] * 3
    vector.close()
    with pytest.raises(TypeError, match="pickle"):
        vectorize([Locked] * 3, backend="multiprocess", num_workers=2, start_method="forkserver")
