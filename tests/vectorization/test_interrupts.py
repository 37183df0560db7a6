"""KeyboardInterrupt anywhere in a step, a close from another thread, and forks: nothing is lost.

After an interrupt, what was posted has been done once: `recv` returns the batch, or says that
nothing was posted. So a run that is interrupted again and again sees what an undisturbed one sees.
"""

import contextlib
import dis
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import shoal
from shoal.errors import ClosedError, EmulationError, PendingCallError

RETURN = dis.opmap["RETURN_VALUE"]
OURS = str(Path(shoal.__file__).parent / "vectorization")


class Counter(gymnasium.Env):
    """Counts its steps, in an observation, a reward and an info; an episode has seven."""

    observation_space = spaces.Box(0, 1e9, (2,), np.float64)
    action_space = spaces.Discrete(10)
    closed = 0

    def __init__(self):
        self.steps = self.total = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.array([self.steps, self.total], np.float64), {}

    def step(self, action):
        total = self.total
        for _ in range(20):  # an interrupt in here would lose the step
            total += 0.05
        self.total, self.steps = round(total), self.steps + 1
        observation = np.array([self.steps, self.total], np.float64)
        return observation, float(action), self.steps == 7, False, {"total": self.total}

    def close(self):
        type(self).closed += 1


class Counters:
    """The same as a batched environment."""

    single_observation_space = Counter.observation_space
    single_action_space = Counter.action_space
    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.envs = [Counter() for _ in range(num_envs)]

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for env in np.flatnonzero(mask):
            self.envs[env].reset()
        return np.array([[env.steps, env.total] for env in self.envs], np.float64), {}

    def step(self, actions):
        parts = list(zip(*[env.step(action) for env, action in zip(self.envs, actions)]))
        columns = [np.array(part) for part in parts[:4]]
        return *columns, {"total": np.array([info["total"] for info in parts[4]])}

    def close(self):
        for env in self.envs:
            env.close()


BACKENDS = {
    "serial": {"env": Counter, "backend": "serial"},
    "serial, copy": {"env": Counter, "backend": "serial", "copy": True},
    "multiprocess": {"env": Counter, "backend": "multiprocess", "num_workers": 2},
    "pool": {"env": Counter, "backend": "pool", "num_workers": 2, "batch_size": 2},
    "native": {"env": "squared"},
    "native, threads": {"env": "squared", "num_workers": 2},
    "native, pool": {"env": "squared", "num_workers": 2, "batch_size": 2},
    "batched": {"env": Counters},
}
NUM_ENVS = 4
by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_mode = pytest.mark.parametrize("mode", ["next_step", "same_step"])


def make(backend, mode="next_step"):
    how = BACKENDS[backend]
    return shoal.vectorize(num_envs=NUM_ENVS, seed=3, autoreset=mode, **how)


def interrupted(attempt, function):
    """Return what a call returns, or None if it was interrupted."""
    try:
        return attempt(function)
    except KeyboardInterrupt:
        return None


def reset(vector):
    if vector.batch_size < NUM_ENVS:
        return vector.async_reset()
    observations, infos = vector.reset()
    zeros = np.zeros(NUM_ENVS)
    return observations, zeros, zeros > 0, zeros > 0, infos


def play(vector, num_batches, attempt):
    """Reset a vector and step it, with the n-th action of each environment always the same.

    Args:
        attempt: is given a function to call, and calls it, perhaps with an interrupt.

    Returns:
        For each environment, all that its first steps delivered; and the statistics.
    """
    records = [[] for _ in range(NUM_ENVS)]
    whole = vector.batch_size == NUM_ENVS
    # Functions in Python: one in C that calls them, such as a partial, could be interrupted after.
    pending = lambda: reset(vector)  # noqa: E731
    while min(map(len, records)) < num_batches:
        batch = interrupted(attempt, pending)
        if whole and batch is None:
            try:
                batch = vector.recv()
            except PendingCallError:  # nothing was posted
                batch = pending() or vector.recv()
        elif not whole:
            with contextlib.suppress(PendingCallError):  # it was posted
                pending()
            batch = interrupted(attempt, lambda: vector.recv()) or vector.recv()
        infos = {key: each for key, each in batch[4].items() if isinstance(each, np.ndarray)}
        for slot, env in enumerate(vector.env_ids.tolist()):
            said = {
                key: value[slot].item()
                for key, value in infos.items()
                if key[0] != "_" and infos[f"_{key}"][slot] and value.dtype != object
            }
            records[env].append(([part[slot].tolist() for part in batch[:4]], said))
        env_ids = vector.env_ids.copy()
        actions = np.array([(len(records[env]) * 3 + env) % 5 for env in env_ids])
        if whole:
            pending = lambda actions=actions: vector.step(actions)  # noqa: E731
        else:
            pending = lambda a=actions, e=env_ids: vector.send(a, e)  # noqa: E731
    statistics = vector.statistics()
    statistics.pop("time", None)
    return [record[:num_batches] for record in records], statistics if whole else None


@functools.cache
def undisturbed(backend, mode, num_batches):
    with contextlib.closing(make(backend, mode)) as vector:
        return play(vector, num_batches, lambda function: function())


class Injector:
    """Raises KeyboardInterrupt before the n-th bytecode of shoal.vectorization in each call."""

    def __init__(self):
        self.at, self.raised = 1, 0

    def __call__(self, function):
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if not frame.f_code.co_filename.startswith(OURS):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            # The interpreter looks for signals after calls and jumps, so not before a return.
            if event == "opcode" and frame.f_code.co_code[frame.f_lasti] != RETURN:
                count += 1
                if count == self.at:
                    self.raised += 1
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            return function()
        finally:
            sys.settrace(None)
            self.at = 1 if count < self.at else self.at + 1  # 1: this call has no more


@by_mode
@by_backend
def test_an_interrupt_before_any_bytecode_loses_nothing(backend, mode):
    """Each call is interrupted one bytecode later than the call before."""
    if backend == "batched":
        pytest.skip("what runs in Python inside its wait counts as the environment")
    injector = Injector()
    steps = 250
    with contextlib.closing(make(backend, mode)) as vector:
        disturbed = play(vector, steps, injector)
    assert disturbed == undisturbed(backend, mode, steps)
    assert injector.raised >= steps - 1


class Signals:
    """Sends SIGINT to this process at a random time of each second call."""

    def __init__(self, longest):
        self.random, self.count, self.longest = random.Random(5), 0, longest

    def __call__(self, function):
        self.count += 1
        if self.count % 2:
            return function()
        result = None
        try:
            signal.setitimer(signal.ITIMER_REAL, self.random.uniform(1e-6, self.longest))
            result = function()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            if result is None:
                raise
        return result


@by_backend
def test_ctrl_c_at_any_time_loses_nothing(backend):
    raised = 0

    def alarm(*_):
        nonlocal raised
        raised += 1
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with contextlib.closing(make(backend)) as vector:
            disturbed = play(vector, 300, Signals(30e-6 if "native" in backend else 300e-6))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised
    assert disturbed == undisturbed(backend, "next_step", 300)


@pytest.mark.parametrize("backend", ["serial", "batched"])
def test_an_environment_that_is_interrupted_in_the_middle_of_a_step_ends_the_vector(backend):
    """A second Ctrl-C is answered at once, so that what never returns can be ended."""

    def sleepy(env, *_):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):  # the first one waits
            pass
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with contextlib.closing(make(backend)) as vector:
        vector.reset()
        env = vector.call(lambda env: env)[0]
        for each in getattr(env, "envs", [env]):
            each.step = functools.partial(sleepy, each)
        with pytest.raises(KeyboardInterrupt):
            vector.step(np.zeros(NUM_ENVS, int))
        with pytest.raises(EmulationError, match="was interrupted in the middle of a step"):
            vector.recv()
        with pytest.raises(ClosedError, match="middle of a step"):
            vector.recv()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_ctrl_c_waits_until_a_lost_worker_is_replaced(method):
    """A vector whose worker is killed goes on, though Ctrl-C comes while another is started."""
    vector = shoal.vectorize(
        Counter, 4, num_workers=2, start_method=method, on_error="restart", timeout=60
    )
    with contextlib.closing(vector):
        vector.reset()
        backend = vector._backend
        start = backend._starter.start

        def interrupted_start(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            return start(*arguments)

        backend._starter.start = interrupted_start
        os.kill(backend._processes[1].pid, signal.SIGKILL)
        vector.send(np.zeros(4, int))
        with pytest.raises(KeyboardInterrupt), pytest.warns(RuntimeWarning, match="another"):
            while True:  # what it has done before its end counts
                vector.recv()
                vector.send(np.zeros(4, int))
        backend._starter.start = start
        batch = vector.recv()
        assert batch.masks.tolist() == [True, True, False, False] and vector.restarts == 2
        vector.send(np.zeros(4, int))
        assert vector.recv().observations[2:].tolist() == [[0, 0], [0, 0]]


@by_backend
def test_ctrl_c_waits_until_a_vector_is_closed(backend):
    vector = make(backend)
    vector.async_reset()
    vector.recv()
    close = vector._backend.close

    def interrupted_close():
        os.kill(os.getpid(), signal.SIGINT)
        close()
        done.append(True)

    done, vector._backend.close = [], interrupted_close
    with pytest.raises(KeyboardInterrupt):
        vector.close()
    assert done
    with pytest.raises(ClosedError):
        vector.recv()


# -- close from another thread -----------------------------------------------------------------


@by_backend
def test_a_close_from_another_thread_is_a_closed_error(backend):
    for seconds in (0.0, 0.001, 0.01, 0.05):
        vector = make(backend)
        raised = []

        def drive(vector=vector, raised=raised):
            size = vector.batch_size
            try:
                vector.async_reset()
                while True:
                    vector.recv()
                    vector.send(np.zeros(size, int))
            except BaseException as error:
                raised.append(error)  # noqa: B023

        thread = threading.Thread(target=drive)
        thread.start()
        time.sleep(seconds)
        vector.close()
        thread.join(20)
        assert not thread.is_alive() and vector.closed
        assert [type(error) for error in raised] == [ClosedError], raised


# -- forks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["multiprocess", "pool", "native, threads", "native, pool"])
def test_a_fork_can_not_step_the_workers_of_its_parent(backend):
    with contextlib.closing(make(backend)) as vector:
        vector.async_reset()
        size = vector.batch_size
        vector.recv()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                said = []
                for use in (
                    lambda: vector.send(np.zeros(size, int)),
                    lambda: vector.async_reset(),
                    lambda: vector.call("steps") if backend == "multiprocess" else vector.recv(),
                ):
                    try:
                        use()
                    except ClosedError as error:
                        said.append(str(error))
                    except PendingCallError:
                        said.append("forked")
                vector.close()
                code = 0 if len(said) == 3 and all("forked" in text for text in said) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for _ in range(10):
            vector.send(np.zeros(size, int))
            assert vector.recv().rewards.shape == (size,)


# -- garbage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["serial", "batched"])
def test_environments_of_this_process_are_closed_by_close_alone(backend):
    Counter.closed = 0
    vector = make(backend)
    vector.reset()
    del vector
    gc.collect()
    assert Counter.closed == 0
    make(backend).close()
    assert Counter.closed == NUM_ENVS


# -- statistics --------------------------------------------------------------------------------


class Naming(Counter):
    """Its infos have the names of the vector's own statistics."""

    def step(self, action):
        observation, reward, over, cut, _ = super().step(action)
        info = {"episodes": 100, "return": -1.5, "length": 300, "time": 7, "info/time": 8, "x": 2}
        return observation, reward, over, cut, info


@by_mode
@pytest.mark.parametrize("how", [{"backend": "serial"}, {"num_workers": 1}], ids=str)
@pytest.mark.parametrize("as_list", [False, True])
def test_infos_do_not_meet_the_statistics_of_the_vector(how, mode, as_list):
    with contextlib.closing(shoal.vectorize(Naming, 2, autoreset=mode, **how)) as vector:
        vector.list_infos = as_list
        vector.reset()
        for _ in range(7):
            vector.step(np.ones(2, int))
        statistics = vector.statistics()
        assert 0 < statistics.pop("time") < 6
        assert statistics == {
            "episodes": 2, "return": 7.0, "length": 7.0, "x": 2.0,
            "info/episodes": 100.0, "info/return": -1.5, "info/length": 300.0, "info/time": 7.0,
            "info/info/time": 8.0,
        }  # fmt: skip
        assert vector.statistics() == {"episodes": 0}
