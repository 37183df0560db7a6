"""The Ray backend, on a local cluster of two nodes. Slow, for Ray takes its time to start."""

import os
import signal

import gymnasium
import numpy as np
import pytest

import shoal

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False)
    yield
    ray.shutdown()
    nodes.shutdown()


class Suicidal(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return 0, {"pid": os.getpid()}

    def step(self, action):
        if action == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == 2:
            raise KeyError("on purpose")
        return 0, 0.0, False, False, {}


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_trajectories_equal_those_of_the_serial_backend(cluster, autoreset):
    vectors = [
        shoal.vectorize(
            "Taxi-v4", 5, backend=backend, num_workers=workers, seed=7, autoreset=autoreset
        )
        for backend, workers in (("ray", 3), ("serial", 0))
    ]
    resets = [vector.reset() for vector in vectors]
    np.testing.assert_array_equal(resets[0][0], resets[1][0])
    vectors[0].action_space.seed(1)
    for _ in range(300):
        actions = vectors[0].action_space.sample()
        ours, oracle = (vector.step(actions) for vector in vectors)
        for mine, other in zip(ours[:4], oracle[:4]):
            assert mine.tobytes() == other.tobytes()
        assert ours[4].keys() == oracle[4].keys()
        np.testing.assert_array_equal(ours[4]["action_mask"], oracle[4]["action_mask"])
    assert vectors[0].call("spec")[4].id == "Taxi-v4"
    for vector in vectors:
        vector.close()


def test_actors_run_on_several_processes_and_a_killed_one_is_a_clear_error(cluster):
    vector = shoal.vectorize(Suicidal, 4, backend="ray", num_workers=2)
    _, infos = vector.reset()
    assert len(set(infos["pid"])) == 2
    assert os.getpid() not in infos["pid"]
    vector.step([0, 0, 0, 0])
    with pytest.raises(shoal.WorkerDied, match="actor 1, which has environments 2 to 3"):
        vector.step([0, 0, 1, 0])
    with pytest.raises(shoal.ClosedError):
        vector.step([0, 0, 0, 0])


def test_an_exception_arrives_as_itself_and_says_where(cluster):
    vector = shoal.vectorize(Suicidal, 4, backend="ray", num_workers=2)
    vector.reset(seed=3)
    with pytest.raises(KeyError, match="on purpose") as caught:
        vector.step([0, 0, 0, 2])
    assert any("environment 3 (seed 6, step 1" in note for note in caught.value.__notes__)
