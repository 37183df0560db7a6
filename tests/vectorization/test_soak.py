"""Kills, stops, raises, late batches and Ctrl-C at random: healthy environments stay exact.

Some environments of each vector are healthy. Each of their rows must be, bit for bit, the row of an
undisturbed serial run of the same seeds. Only a lost environment begins that run again, after one
row that says so. Nothing hangs, and nothing is left: no process, thread, descriptor or shared
memory.

    SHOAL_SOAK_SECONDS=60 pytest -m slow tests/vectorization/test_soak.py
"""

import contextlib
import functools
import gc
import importlib.util
import os
import random
import re
import signal
import sys
import threading
import time
import uuid
from collections import Counter

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import shoal
from shoal.errors import ClosedError, PendingCallError, StepTimeoutError, WorkerDied
from shoal.registry.names import Creator
from shoal.vectorization.stepper import TOO_MANY
from tests.other_python import old_python
from tests.vectorization import soak_environments
from tests.vectorization.soak_environments import Fresh, faulty, healthy  # noqa: F401  (by name)
from tests.vectorization.test_faults import marked, wait_until
from tests.vectorization.test_trajectories import one_row

SECONDS = float(os.environ.get("SHOAL_SOAK_SECONDS", "600"))
NUM_ENVS, NUM_HEALTHY = 6, 4  # the last ones are faulty
MOST_STEPS = 400  # of each environment of one vector
WORKERS = {"backend": "multiprocess", "num_workers": 3}
PYTHONS = {"this": lambda: sys.executable, "old": old_python}


def healthy_batch(num_envs, mode):
    """Healthy environments as a batched one."""
    functions = [functools.partial(Fresh, i) for i in range(num_envs)]
    return SyncVectorEnv(functions, autoreset_mode=AutoresetMode[mode.upper()])


# With restarts, unless the environments are batched or native.
BACKENDS = {
    "serial": {"backend": "serial"},
    "fork": {**WORKERS, "start_method": "fork"},
    "forkserver": {**WORKERS, "start_method": "forkserver"},
    "spawn": {**WORKERS, "num_workers": 2, "start_method": "spawn"},
    "pool": {"backend": "pool", "num_workers": 3, "batch_size": 2},
    "fixed": {"backend": "pool", "num_workers": 2, "batch_size": 3, "order": "fixed"},
    "isolated": {"num_workers": 2, "python": "this"},
    "old": {"num_workers": 2, "python": "old"},
    "batched": {"env": healthy_batch},
    "native": {"env": "breakout"},
    "native, threads": {"env": "breakout", "num_workers": 3},
    "native, pool": {"env": "breakout", "num_workers": 2, "batch_size": 2},
    "ray": {"backend": "ray", "num_workers": 2},
}


def make(how, mode, seed):
    """A vector of healthy environments and, where they can be restarted, of two faulty ones."""
    how = dict(how)
    if how.get("env") is healthy_batch:
        return shoal.vectorize(functools.partial(healthy_batch, mode=mode), NUM_ENVS, seed=seed)
    if "env" in how:
        return shoal.vectorize(num_envs=NUM_ENVS, autoreset=mode, seed=seed, **how)
    if "python" in how:
        how["python"] = PYTHONS[how["python"]]()
    deeds = ["raise"] if how.get("backend") in ("serial", "ray") else ["raise", "exit", "kill"]
    creators = [
        Creator(f"{soak_environments.__file__}:healthy", {"index": i}) for i in range(NUM_HEALTHY)
    ] + [
        Creator(f"{soak_environments.__file__}:faulty", {"deeds": deeds})
        for _ in range(NUM_HEALTHY, NUM_ENVS)
    ]
    if "python" not in how:
        creators = [
            functools.partial(globals()[creator.name.rpartition(":")[2]], **creator.kwargs)
            for creator in creators
        ]
    return shoal.vectorize(
        creators, autoreset=mode, seed=seed, on_error="restart", timeout=90, **how
    )


def action_of(env, number):
    """The action of an environment after it has delivered `number` rows since it was made."""
    return (7 * env + number + number // 5) % 3


def rows_of(vector, batch):
    """(environment, its row as plain data) for each environment of a batch."""
    agents = vector.agents_per_env
    finals = vector.finals
    arrays = [
        *batch[:4], vector.acting, vector.occupants, vector.action_masks,
        vector.episode_returns, vector.episode_lengths, finals,
    ]  # fmt: skip
    for slot, env in enumerate(vector.env_ids.tolist()):
        at = range(slot * agents, (slot + 1) * agents)
        infos = [one_row(batch.infos, row) for row in at]
        each = [array[at.start : at.stop].tobytes() for array in arrays]
        each += [vector.final_observations[row].tobytes() for row in at if finals[row]]
        yield env, (each, infos, batch.masks[at.start : at.stop].tolist())


def actions_of(vector, env_ids, numbers):
    """The actions of these environments; `numbers` counts the rows of each environment."""
    each = [action_of(env, numbers[env]) for env in env_ids]
    return np.repeat(np.array(each), vector.agents_per_env).astype(vector.single_action_space.dtype)


@functools.lru_cache(maxsize=4)
def undisturbed(env, mode, seed):
    """The rows of healthy environments in a serial run."""
    if isinstance(env, str):  # native
        vector = shoal.vectorize(env, NUM_ENVS, backend="serial", autoreset=mode, seed=seed)
    else:
        functions = [functools.partial(healthy, i) for i in range(NUM_ENVS)]
        vector = shoal.vectorize(functions, backend="serial", autoreset=mode, seed=seed)
    records = [[] for _ in range(NUM_ENVS)]
    with contextlib.closing(vector):
        vector.async_reset()
        for number in range(1, MOST_STEPS + 1):
            for env, row in rows_of(vector, vector.recv()):
                records[env].append(row)
            vector.send(actions_of(vector, range(NUM_ENVS), [number] * NUM_ENVS))
    return records


class Trouble:
    """Disturbs a vector from another thread, and interrupts this one while it is in a call."""

    def __init__(self, vector, chance, seconds):
        self.vector, self.chance, self.seconds = vector, chance, seconds
        self.counts = Counter()
        self.inside = False
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.before = signal.signal(signal.SIGINT, self.interrupt)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        signal.signal(signal.SIGINT, self.before)

    def interrupt(self, *_):
        if self.inside:
            self.inside = False
            self.counts["interrupts"] += 1
            raise KeyboardInterrupt

    def call(self, function, *arguments):
        """Call a function; KeyboardInterrupt comes only if it has no result."""
        result = None
        try:
            self.inside = True
            result = function(*arguments)
            self.inside = False
        except KeyboardInterrupt:
            if result is None:
                raise
        finally:
            self.inside = False
        return result

    def run(self):
        pids = [os.getpid()]
        while not self.stop.wait(self.chance.uniform(0, self.seconds)):
            backend = self.vector._backend
            processes = list(getattr(backend, "_processes", []))
            deed = self.chance.choice(["interrupt"] * 3 + ["stop", "kill"] * bool(processes))
            pids = [process.pid for process in processes]
            if deed == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                continue
            pid = self.chance.choice(pids)
            server = getattr(backend._starter, "_popen", None)
            if server is not None and self.chance.random() < 0.1:
                pid = server.pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if deed == "stop" else signal.SIGKILL)
                if deed == "stop":
                    self.stop.wait(self.chance.uniform(0, 0.2))
                    os.kill(pid, signal.SIGCONT)
            self.counts[deed] += 1


def drive(vector, expected, trouble, chance, end):
    """Step a disturbed vector and compare its healthy rows."""
    call, counts, lost = trouble.call, trouble.counts, 0
    num_healthy = NUM_HEALTHY if vector.backend in ("multiprocess", "pool", "serial", "ray") else 6
    numbers = [0] * NUM_ENVS  # rows that each environment has delivered since it was made
    again = set()  # environments that were lost, and are reset by their next step
    may_lose = vector.backend in ("multiprocess", "pool")

    def post(function, *arguments):
        """Post once, whenever the interrupt comes."""
        try:
            call(function, *arguments)
        except KeyboardInterrupt:
            with contextlib.suppress(PendingCallError):  # it was posted
                function(*arguments)

    def receive():
        while True:
            try:
                return call(vector.recv, chance.choice([None, None, 0.0, 0.002]))
            except StepTimeoutError as error:
                assert "a worker died" not in str(error)
                counts["late"] += 1
            except KeyboardInterrupt:
                pass

    post(vector.async_reset)
    while time.monotonic() < end and max(numbers) < MOST_STEPS:
        batch = receive()
        for slot, (env, row) in enumerate(rows_of(vector, batch)):
            right = expected[env][numbers[env]]
            if env in again:
                again.remove(env)
                right = *right[:2], [False]  # a reset that nobody has asked for is not data
            if env < num_healthy and row != right:
                where = f"environment {env}, row {numbers[env]}: {row} instead of {right}"
                assert may_lose and batch.truncations[slot] and not batch.masks[slot], where
                lost, numbers[env] = lost + 1, 0
                again.add(env)
            else:
                counts["rows"] += env < num_healthy
                numbers[env] += 1
        env_ids = vector.env_ids.copy()
        actions = actions_of(vector, env_ids.tolist(), numbers)
        if vector.batch_size < NUM_ENVS:
            post(vector.send, actions, env_ids)
        else:
            post(vector.send, actions)
    assert lost <= vector.restarts
    counts["restarts"] += vector.restarts


def held(mark):
    """What this process and its kin hold: descriptors, threads, shared memory, processes."""
    gc.collect()
    fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return (
        sorted(re.sub(r"\d+", "", os.readlink(fd)) for fd in fds if os.path.islink(fd)),
        threading.active_count(),
        sorted(os.listdir("/dev/shm")),
        [pid for pid in marked(mark) if pid != os.getpid()],
    )


@pytest.fixture
def mark(monkeypatch):
    """A word in the environment of all processes that the test starts."""
    word = uuid.uuid4().hex
    monkeypatch.setenv("SHOAL_TEST_MARK", word)
    return word


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def soak(how, number):
    """Make a vector, disturb it, compare its rows and close it; return what happened how often."""
    chance = random.Random(number)
    mode, seed = chance.choice(["next_step", "same_step"]), chance.randrange(3)
    expected = undisturbed(how.get("env"), mode, seed)
    vector = make(how, mode, seed)
    trouble = Trouble(vector, chance, 1.0 if "python" in how else 0.2)
    try:
        with trouble:
            drive(vector, expected, trouble, chance, time.monotonic() + 20)
    except (ClosedError, WorkerDied, ZeroDivisionError) as error:
        # Five failures in a row; or a second Ctrl-C in the middle of a restart.
        assert isinstance(error, ClosedError) or TOO_MANY in getattr(error, "__notes__", []), error
        trouble.counts["ended"] += 1
    finally:
        vector.close()
    return trouble.counts


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*starting another:RuntimeWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_healthy_environments_stay_exact(backend, mark, request):
    how = BACKENDS[backend]
    if backend == "ray":
        if importlib.util.find_spec("ray") is None:
            pytest.skip("ray is not installed")
        request.getfixturevalue("cluster")
    end, number = time.monotonic() + SECONDS / len(BACKENDS), 1
    counts = soak(how, number)  # what is made once and stays, is made here
    before = held(mark)
    while time.monotonic() < end:
        number += 1
        counts += soak(how, number)
        assert backend == "ray" or wait_until(lambda: held(mark) == before), (before, held(mark))
    print(f"{backend}: {number} vectors, {dict(counts)}")
    assert counts["rows"] > 100 and counts["interrupts"]
