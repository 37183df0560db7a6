"""Vectors leave nothing behind: no descriptors, processes, memory, or names in /dev/shm."""

import gc
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from shoal.vectorization import vectorize
from tests.vectorization.batched_environments import TorchGuess
from tests.vectorization.faulty import Faulty

pytestmark = [
    # A timeout that strikes in the middle of a fork would leave locks held that Python takes there.
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def memory_of(pid="self"):
    """Resident bytes, of which the shared ones count too."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds())


def open_fds():
    fds = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
            fds.append(int(name))
        except OSError:  # that of the listing itself
            pass
    return fds


def mappings():
    with open("/proc/self/maps") as file:
        return sum("memfd:shoal" in line for line in file)


def children():
    found = set()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            found |= set(file.read().split())
    return found


def lasting(names):
    """Return the names in /dev/shm that are not among `names` and stay.

    Tests in other processes put files there for a moment.
    """
    for _ in range(100):
        new = set(os.listdir("/dev/shm")) - names
        if not new:
            break
        time.sleep(0.1)
    return new


def one_cycle(backend, **kwargs):
    env = {"native": "squared", "batched": TorchGuess}.get(backend, [Faulty] * 64)
    vector = vectorize(env, 64, backend=backend, **kwargs)
    vector.reset(seed=0)
    for _ in range(5):  # every block of the shared memory is used
        vector.step(np.zeros(64, np.int64))
    vector.close()
    return vector


@pytest.mark.parametrize(
    ("backend", "method", "count"),
    [
        ("serial", None, 200),
        ("native", None, 200),
        ("batched", None, 200),
        ("multiprocess", "fork", 40),
        pytest.param("multiprocess", "fork", 200, marks=pytest.mark.slow),
        pytest.param("multiprocess", "forkserver", 200, marks=pytest.mark.slow),
        pytest.param("pool", "spawn", 30, marks=pytest.mark.slow),
    ],
)
def test_create_step_close_leaves_everything_where_it_began(backend, method, count):
    # In another process: what other tests leave in this one's heap moves its size by megabytes.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(create_step_close, backend, method, count).result()


def create_step_close(backend, method, count):
    kwargs = {}
    if backend in ("multiprocess", "pool"):
        kwargs = {"num_workers": 2, "batch_size": 64, "start_method": method}
    one_cycle(backend, **kwargs)  # what is imported and allocated once
    gc.collect()
    before = descriptors(), children(), mappings()
    names = set(os.listdir("/dev/shm"))
    memory = memory_of()
    kept = [one_cycle(backend, **kwargs) for _ in range(count)]
    assert (descriptors(), children(), mappings()) == before
    assert lasting(names) == set()
    # A closed object with its spaces takes some 25 kB; the shared memory took 120 kB more.
    assert memory_of() - memory < 2_000_000 + 50_000 * count
    assert len(kept) == count


def test_open_vectors_leave_no_names_either():
    names = set(os.listdir("/dev/shm"))
    vector = vectorize([Faulty] * 4, backend="multiprocess", num_workers=2)
    vector.reset()
    assert lasting(names) == set()
    vector.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["serial", "multiprocess"])
def test_memory_stays_where_it_is_for_five_million_steps(backend):
    kwargs = {} if backend == "serial" else {"num_workers": 2}
    vector = vectorize("CartPole-v1", 64, backend=backend, seed=0, **kwargs)
    vector.reset()
    pids = ["self"]
    if backend != "serial":
        pids += [process.pid for process in vector._backend._processes]
    rng = np.random.default_rng(0)

    def advance(steps):
        for _ in range(steps // 64):
            vector.step(rng.integers(0, 2, 64))
        vector.statistics()
        gc.collect()
        return [memory_of(pid) for pid in pids]

    early = advance(500_000)
    late = advance(4_500_000)
    for one, other in zip(early, late, strict=True):
        assert other < 1.05 * one
    vector.close()
