"""The drop-in classes against Gymnasium's own, which are the oracle for all that is documented."""

import copy
import functools
import gc
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from shoal.errors import LayoutError, WorkerDied
from shoal.wrappers.gymnasium import (
    ShoalAsyncVectorEnv,
    ShoalSyncVectorEnv,
    make_vec,
    vector_spec,
)
from tests.vectorization.environments import Everything
from tests.vectorization.test_faults import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PAIRS = {
    "sync": (ShoalSyncVectorEnv, SyncVectorEnv),
    "shared": (ShoalAsyncVectorEnv, AsyncVectorEnv),
    "not-shared": (
        functools.partial(ShoalAsyncVectorEnv, shared_memory=False),
        functools.partial(AsyncVectorEnv, shared_memory=False),
    ),
}
PAIR = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
OURS = pytest.mark.parametrize("make", [ours for ours, _ in PAIRS.values()], ids=PAIRS)
ASYNC = pytest.mark.parametrize(
    "make", [ours for ours, _ in list(PAIRS.values())[1:]], ids=list(PAIRS)[1:]
)


class Nested(gymnasium.Env):
    """Observations of nested arrays, in the same memory for ever; random ends."""

    observation_space = spaces.Dict(
        {
            "z": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "a": spaces.Tuple((spaces.Discrete(5, start=-2), spaces.Box(0, 255, (4, 5), np.uint8))),
            "lamps": spaces.MultiBinary(6),
            "dice": spaces.MultiDiscrete([3, 4]),
        }
    )
    action_space = spaces.Box(-1, 1, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(3)
        self.time = 0
        return self.observation(), {"options": options, "seed": str(seed)}

    def observation(self):
        n = self.time
        pixels = self.np_random.integers(0, 256, (4, 5), np.uint8)
        lamps = self.np_random.integers(0, 2, 6).astype(np.int8)
        return {
            "z": self.state,
            "a": (np.int64(n % 5 - 2), pixels),
            "lamps": lamps,
            "dice": np.array([n % 3, n % 4]),
        }

    def step(self, action):
        self.time += 1
        self.state += action
        end = self.np_random.random()
        info = {"time": self.time, "type": str(action.dtype)} if end < 0.5 else {}
        return self.observation(), np.float32(end), end < 0.05, end > 0.95, info


def cartpole():
    return gymnasium.make("CartPole-v1")


ENVS = {
    "CartPole": cartpole,
    "Pendulum": functools.partial(gymnasium.make, "Pendulum-v1", max_episode_steps=13),
    "Taxi": functools.partial(gymnasium.make, "Taxi-v4", max_episode_steps=11),
    "Nested": Nested,
    "Everything": Everything,  # has spaces that no row can hold
}


def same(ours, theirs):
    """Whether results are equal to the last bit, types and dtypes included."""
    assert data_equivalence(plain(ours), plain(theirs), exact=True), f"{ours} is not {theirs}"


def plain(value):
    """For `data_equivalence`, which knows neither NaN nor graphs."""
    if isinstance(value, spaces.GraphInstance):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(plain(part) for part in value)
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(part) for part in value]
    return value


@PAIR
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", ENVS)
def test_trajectories_are_those_of_gymnasium(pair, mode, name):
    if name == "Everything" and pair is PAIRS["shared"]:
        pytest.skip("has no fixed size")
    both = [make([ENVS[name]] * 3, autoreset_mode=mode) for make in pair]
    space = both[1].action_space
    space.seed(0)
    same(*[envs.reset(seed=7, options={"a": 1}) for envs in both])
    ends = 0
    for step in range(60):
        actions = space.sample()
        if step % 5 == 4:  # not by the fast lane, which must notice
            actions = list(actions) if isinstance(actions, np.ndarray) else actions
        results = [envs.step(actions) for envs in both]
        same(*results)
        over = results[1][2] | results[1][3]
        ends += over.sum()
        if step == 30:
            same(*[envs.reset(seed=[5, None, 6]) for envs in both])
        elif mode is AutoresetMode.DISABLED and over.any():
            same(*[envs.reset(options={"reset_mask": over, "b": 2}) for envs in both])
        elif step % 7 == 6:  # between steps
            same(*[envs.call("get_wrapper_attr", "action_space") for envs in both])
    assert ends > 3
    for envs in both:
        envs.close()


@PAIR
def test_they_say_the_same_of_themselves(pair):
    ours, theirs = both = [
        make([functools.partial(gymnasium.make, "CartPole-v1", render_mode="rgb_array")] * 2)
        for make in pair
    ]
    assert isinstance(ours, SyncVectorEnv if pair is PAIRS["sync"] else AsyncVectorEnv)
    for name in ("num_envs", "metadata", "render_mode", "spec", "copy", "autoreset_mode", "closed"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("observation_space", "action_space"):
        for kind in (name, f"single_{name}"):
            assert getattr(ours, kind) == getattr(theirs, kind)
            assert type(getattr(ours, kind)) is type(getattr(theirs, kind))
    for envs in both:
        envs.reset(seed=3)
    assert ours.np_random_seed == theirs.np_random_seed == (3, 4)
    assert [g.random() for g in ours.np_random] == [g.random() for g in theirs.np_random]
    same(ours.render(), theirs.render())
    same(ours.get_attr("gravity"), theirs.get_attr("gravity"))
    for envs in both:
        envs.set_attr("gravity", [1.5, 2.5])
        envs.set_attr("length", 0.75)
        with pytest.raises(ValueError, match="length equal to the number"):
            envs.set_attr("gravity", [1.0])
    assert ours.get_attr("gravity") == (1.5, 2.5) and ours.get_attr("length") == (0.75, 0.75)
    actions = np.array([1, 0])
    same(ours.step(actions), theirs.step(actions))
    for envs in both:
        envs.close()
        envs.close()
        assert envs.closed


class Told(gymnasium.Env):
    """Says in its infos what it has been told, exactly."""

    def __init__(self, action_space):
        self.observation_space = spaces.Box(-1, 1, (2,))
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {"told": repr((seed, options))}

    def step(self, action):
        kind = getattr(action, "dtype", None)
        told = f"{type(action).__name__} {kind} {action!r}"
        return np.zeros(2, np.float32), 0.0, False, False, {"told": told}


BATCHES = [
    (spaces.Discrete(3), [np.array([0, 2]), [0, 2], (1, 1), np.array([7, -4]), [True, 0.5]]),
    (spaces.Discrete(3), [np.array([1, 2], np.int32), ["left", None], np.array([0.5, 1])]),
    (spaces.Discrete(3, dtype=np.int32), [np.array([1, 2], np.int32), np.array([1, 2])]),
    (spaces.Discrete(3, dtype=np.int8), [np.array([1, 2], np.int8)]),
    (
        spaces.Box(-1, 1, (2,), np.float32),
        [
            np.array([[9, -9], [0.5, 0.5]], np.float32),
            np.array([[9, -9], [0.1, 0.5]]),
            np.array([[np.nan, np.inf], [0, 0]], np.float32),
            np.array([[1, 2, 3], [4, 5, 6]], np.float32),
            np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2],
            [[0.1, 0.2], 5],
        ],
    ),
    (spaces.Box(-1, 1, (), np.float32), [np.array([0.5, 2], np.float32), np.array([0.1, 2])]),
    (spaces.Box(-1, 1, (2,), np.float16), [np.ones((2, 2), np.float16)]),
    (spaces.Box(0, 9, (2,), np.uint8), [np.array([[1, 2], [3, 200]], np.uint8)]),
    (spaces.MultiDiscrete([3, 4]), [np.array([[1, 2], [5, -1]])]),
    (spaces.MultiBinary(3), [np.array([[1, 0, 1], [1, 1, 9]], np.int8)]),
    (
        spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(0, 1, (2,))),
        [{"a": np.array([1, 9]), "b": np.ones((2, 2))}],
    ),
    (spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2))), [(np.array([1, 2]), [0, 1])]),
    (spaces.Text(5), [("abc", "d"), ("abc", 5)]),
]


@PAIR
def test_actions_arrive_as_they_are(pair):
    """Gymnasium checks none: neither type, nor dtype, shape or bounds."""
    for space, batches in BATCHES:
        ours, theirs = (make([functools.partial(Told, space)] * 2) for make in pair)
        same(ours.reset(seed=1, options={"x": [2]}), theirs.reset(seed=1, options={"x": [2]}))
        for actions in batches:
            same(ours.step(actions), theirs.step(actions))
        ours.close(), theirs.close()


@PAIR
def test_actions_may_come_from_an_iterator(pair):
    ours, theirs = (make([Nested] * 3) for make in pair)
    same(ours.reset(seed=0), theirs.reset(seed=0))
    rows = np.arange(9, dtype=np.float32).reshape(3, 3)
    same(ours.step(row for row in rows), theirs.step(row for row in rows))
    ours.close(), theirs.close()


@PAIR
@pytest.mark.parametrize("count", [2, 4])
def test_a_wrong_number_of_actions_steps_nobody(pair, count):
    ours, theirs = (make([Nested] * 3) for make in pair)
    for envs in (ours, theirs):
        envs.reset(seed=0)
    for actions in (np.zeros((count, 3), np.float32), [np.zeros(3, np.float32)] * count):
        with pytest.raises(ValueError, match=r"(?s)zip|actions: expected 3"):
            ours.step(actions)
    with pytest.raises(TypeError):
        ours.step(0)
    actions = np.ones((3, 3), np.float32)
    same(ours.step(actions), theirs.step(actions))
    ours.close(), theirs.close()


@OURS
@pytest.mark.parametrize("copied", [True, False])
def test_nested_observations_are_views_of_one_block(make, copied):
    envs = make([Nested] * 2, copy=copied)
    envs.reset(seed=0)
    actions = np.ones((2, 3), np.float32)
    first = envs.step(actions)[0]
    parts = [first["z"], *first["a"], first["lamps"], first["dice"]]
    starts = [part.__array_interface__["data"][0] for part in parts]
    size = envs.observation_space["z"].shape[0] * 100
    assert max(starts) - min(starts) < size
    for part in parts:
        root = part
        while isinstance(root.base, np.ndarray):
            root = root.base
        assert root.nbytes >= sum(part.nbytes for part in parts)
    kept = first["z"].copy()
    second = envs.step(actions)[0]
    assert (first["z"] == kept).all(), "two batches are held"
    assert (second["z"] == kept + 1).all()
    for _ in range(3):
        envs.step(actions)
    assert (first["z"] == kept).all() == copied
    envs.close()


@OURS
def test_a_copy_is_the_callers_own(make):
    envs = make([cartpole] * 2)
    observations, _ = envs.reset(seed=0)
    expected = envs.step(np.array([0, 1]))[0].copy()
    observations[:] = 7
    envs.step(np.array([0, 1]))[0][:] = 7
    envs.reset(seed=0)[0][:] = 7
    assert (envs.step(np.array([0, 1]))[0] == expected).all()
    envs.close()


# -- partial resets -------------------------------------------------------------------------------

MASKS = [
    [True, False, True],
    np.array([True]),
    np.array([[True, False, True]]),
    np.array([1, 0, 1]),
    np.array([1.0, 0.0, 1.0]),
    np.zeros(3, bool),
]


def failure_of(function):
    """The type and text of what a function raises, without what differs by name."""
    with pytest.raises(Exception) as caught:
        function()
    return caught.type, str(caught.value).replace("Shoal", "")


@PAIR
def test_masks_are_refused_as_by_gymnasium(pair):
    ours, theirs = (make([cartpole] * 3, autoreset_mode="Disabled") for make in pair)
    for envs in (ours, theirs):
        envs.reset(seed=0)
    for mask in MASKS:
        mine, other = (
            failure_of(lambda e=envs, m=mask: e.reset(options={"reset_mask": m}))
            for envs in (ours, theirs)
        )
        assert mine == other
    assert failure_of(lambda: ours.reset(seed=[1])) == failure_of(lambda: theirs.reset(seed=[1]))
    actions = np.array([0, 1, 1])
    same(ours.step(actions), theirs.step(actions))
    ours.close(), theirs.close()


@PAIR
def test_a_mask_leaves_the_others_alone(pair):
    ours, theirs = (make([Nested] * 3, autoreset_mode="Disabled") for make in pair)
    for envs in (ours, theirs):
        envs.reset(seed=0)
    actions = np.ones((3, 3), np.float32)
    mask = np.array([False, True, False])
    for _ in range(3):
        before, *_ = ours.step(actions)
        theirs.step(actions)
        result = ours.reset(seed=9, options={"reset_mask": mask, "x": 1})
        same(result, theirs.reset(seed=9, options={"reset_mask": mask, "x": 1}))
        assert (result[0]["z"][0] == before["z"][0]).all() and (result[0]["z"][1] == 0).all()
    ours.close(), theirs.close()


@pytest.mark.filterwarnings("ignore:.*pending call to `reset`")  # theirs, which would wait for it
@PAIR
def test_what_may_come_before_the_first_reset(pair):
    """Environments may begin by themselves, and a first reset may have a mask."""
    mask = np.array([True, False])
    ours, theirs = (make([Counter, Counter]) for make in pair)
    same(ours.step(np.array([1, 1])), theirs.step(np.array([1, 1])))
    ours.close(), theirs.close()
    ours, theirs = (make([Counter, Counter]) for make in pair)
    if pair is PAIRS["shared"]:
        options = [{"reset_mask": mask}, {"reset_mask": mask}]
        same(ours.reset(options=options[0]), theirs.reset(options=options[1]))
    else:
        for envs in (ours, theirs):
            with pytest.raises((TypeError, ValueError)):
                envs.reset(options={"reset_mask": mask})
    ours.close()
    theirs.close(**({} if pair is PAIRS["sync"] else {"terminate": True}))


class Counter(gymnasium.Env):
    """Counts from 5 on, and ends when told to."""

    observation_space = spaces.Box(0, 100, (1,), np.int64)
    action_space = spaces.Discrete(3)
    count = 5

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.array([0]), {}

    def step(self, action):
        self.count += 1
        return np.array([self.count]), 1.0, bool(action == 2), False, {"count": self.count}


def test_stepping_past_the_end_without_autoreset():
    """The synchronous class asserts that somebody has reset; the asynchronous one does not care."""
    end, go_on = np.array([2, 1]), np.array([1, 1])
    for make in (SyncVectorEnv, ShoalSyncVectorEnv):
        for last in (go_on, list(go_on)):
            envs = make([Counter] * 2, autoreset_mode="Disabled")
            envs.reset()
            envs.step(end)
            with pytest.raises(AssertionError):
                envs.step(last)
            envs.close()
    ours, theirs = (
        make([Counter] * 2, autoreset_mode="Disabled")
        for make in (ShoalAsyncVectorEnv, AsyncVectorEnv)
    )
    for envs in (ours, theirs):
        envs.reset()
    for actions in (end, go_on, list(go_on), end):
        same(ours.step(actions), theirs.step(actions))
    ours.close(), theirs.close()


# -- errors ---------------------------------------------------------------------------------------


class Broken(Exception):
    """Can't be made from one argument, as many can't."""

    def __init__(self, what, code):
        super().__init__(what, code)
        self.code = code


class HoldsLock(Exception):
    """Can't be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class Fragile(Counter):
    """Raises when told to."""

    def reset(self, *, seed=None, options=None):
        if seed == 1:
            raise KeyError("no such door")
        return super().reset(seed=seed)

    def step(self, action):
        if action == 1:
            raise Broken("a leg", 13)
        if action == 2:
            raise HoldsLock("a lock")
        return super().step(action)

    def listen(self, word):
        if word != "please":
            raise PermissionError(word)
        return word


def logged(function, error):
    """What Gymnasium logs while a function raises `error`."""
    with warnings.catch_warnings(record=True) as caught, pytest.raises(error) as raised:
        warnings.simplefilter("always")
        function()
    return [str(one.message) for one in caught], raised.value


FAILURES = {
    "reset": (lambda envs: envs.reset(seed=[0, 1, 1]), KeyError, [1, 2]),
    "step": (lambda envs: envs.step(np.array([0, 1, 0])), Broken, [1]),
    "listed": (lambda envs: envs.step([1, 1, 0]), Broken, [0, 1]),
    "unpicklable": (lambda envs: envs.step(np.array([2, 0, 0])), HoldsLock, [0]),
    "call": (lambda envs: envs.call("listen", "now"), PermissionError, [0, 1, 2]),
    "missing": (lambda envs: envs.get_attr("nothing"), AttributeError, [0, 1, 2]),
    "reserved": (lambda envs: envs.call("step", 0), ValueError, [0, 1, 2]),
}


@ASYNC
@pytest.mark.parametrize("what", FAILURES)
def test_an_error_is_logged_and_raised_as_it_is(make, what):
    function, error, failing = FAILURES[what]
    envs = make([Fragile] * 3)
    envs.reset(seed=[0, 0, 0])
    texts, raised = logged(lambda: function(envs), error)
    assert len(texts) == 2 * len(failing) + 1
    for i, index in enumerate(failing):
        assert f"Received the following error from Worker-{index} - Shutting" in texts[2 * i]
        assert re.search(rf"(?s)ERROR: Traceback.*{error.__name__}.*\n\x1b", texts[2 * i + 1])
    assert "Raising the last exception back" in texts[-1]
    assert type(raised) is error
    if error is Broken:
        assert raised.args == ("a leg", 13)
    for call in (
        lambda: envs.step(np.array([0, 0, 0])),
        envs.reset,
        lambda: envs.get_attr("count"),
        lambda: envs.set_attr("count", 0),
    ):
        with pytest.raises(ClosedEnvironmentError, match=r"environment \d has failed"):
            call()
    envs.close()
    assert envs.closed


def test_an_error_of_a_synchronous_environment_comes_as_it_is():
    for actions in (np.array([0, 2, 0]), [0, 2, 0]):
        envs = ShoalSyncVectorEnv([Fragile] * 3)
        envs.reset(seed=[0, 0, 0])
        texts, raised = logged(lambda e=envs, a=actions: e.step(a), HoldsLock)
        assert texts == [] and raised.lock is not None
        assert envs.step(np.zeros(3, int))[0].shape == (3, 1), "it goes on"
        with pytest.raises(KeyError):
            envs.reset(seed=0)
        envs.close()


class Dying(Counter):
    def step(self, action):
        os._exit(7) if action == 1 else None
        return super().step(action)


class Misfit(Counter):
    def step(self, action):
        _, *others = super().step(action)
        return np.array([0.5, 2.5]), *others


@pytest.mark.parametrize(
    ("env", "error"), [(Dying, WorkerDied), (Misfit, LayoutError)], ids=["dies", "misfit"]
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_dead_worker_and_a_misfit_end_the_vector(env, error, listed):
    envs = ShoalAsyncVectorEnv([env] * 2, max_concurrency=2)
    envs.reset()
    with pytest.raises(error):
        envs.step([0, 1] if listed else np.array([0, 1]))
    with pytest.raises(ClosedEnvironmentError, match=error.__name__):
        envs.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs.close()
    assert envs.closed


def test_what_fails_too_late_is_raised_all_the_same():
    class Late(Slow):
        def step(self, action):
            super().step(action)
            raise Broken("late", 1)

    for actions in (np.ones((2, 1), np.float32), [[1], [1]]):
        envs = ShoalAsyncVectorEnv([Late] * 2)
        envs.reset()
        envs.step_async(actions)
        with pytest.raises(multiprocessing.TimeoutError):
            envs.step_wait(timeout=0)
        with pytest.raises(Broken):
            envs.reset()
        with pytest.raises(ClosedEnvironmentError):
            envs.reset()
        envs.close()


def test_a_misfit_of_a_synchronous_environment_ends_nothing():
    class Sometimes(Misfit):
        def step(self, action):
            return super().step(action) if action == 2 else Counter.step(self, action)

    ours, theirs = (make([Sometimes] * 2) for make in (ShoalSyncVectorEnv, SyncVectorEnv))
    for envs, error in ((ours, LayoutError), (theirs, ValueError)):
        envs.reset()
        with pytest.raises(error):
            envs.step(np.array([0, 2]))
        envs.reset()
    same(ours.step(np.array([0, 1])), theirs.step(np.array([0, 1])))
    ours.close(), theirs.close()


def test_synchronous_environments_are_closed_once_and_by_nobody_else():
    class Closing(Counter):
        closed = 0

        def close(self):
            self.closed += 1

    for end in (lambda envs: envs.close(), lambda envs: None):
        envs = ShoalSyncVectorEnv([Closing] * 2)
        one = envs.envs[1]
        envs.reset()
        envs.step(np.array([0, 1]))
        end(envs)
        closed = one.closed
        del envs
        gc.collect()
        assert one.closed == closed <= 1 and one.step(0)[0] == 2


@LINUX
def test_what_fails_at_the_start_leaves_nothing():
    before = children()
    with pytest.raises(ZeroDivisionError):
        ShoalAsyncVectorEnv([Counter, lambda: 1 // 0])
    with pytest.raises(RuntimeError, match="use `observation_mode='different'`"):
        ShoalAsyncVectorEnv([cartpole, functools.partial(gymnasium.make, "Taxi-v4")])
    with pytest.raises(RuntimeError, match="action space different"):
        ShoalAsyncVectorEnv([functools.partial(Told, spaces.Discrete(n)) for n in (2, 3)])
    with pytest.raises(IndexError):
        ShoalAsyncVectorEnv([])
    assert children() == before


def children():
    """The processes that this one has started and that live."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            found |= set(file.read().split())
    return found


# -- calls in two parts ---------------------------------------------------------------------------


class Slow(Counter):
    """Waits as many tenths of a second as its action says; and when it is reset with a seed."""

    action_space = spaces.Box(0, 100, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        time.sleep((seed or 0) / 10)
        return super().reset(seed=seed)

    def step(self, action):
        time.sleep(float(np.ravel(action)[0]) / 10)
        return super().step(0)

    def dream(self, seconds):
        time.sleep(seconds)
        return seconds


@ASYNC
def test_what_comes_too_late_is_dropped(make):
    envs = make([Slow] * 3)
    quick, slow = np.zeros((3, 1), np.float32), np.array([[0], [3], [0]], np.float32)
    envs.reset()
    attempts = [
        (lambda: envs.reset_async(seed=[0, 3, 0]), envs.reset_wait),
        (lambda: envs.step_async(slow), envs.step_wait),
        (lambda: envs.step_async(list(slow)), envs.step_wait),
        (lambda: envs.call_async("dream", 0.3), envs.call_wait),
    ]
    for begin, wait in attempts:
        begin()
        with pytest.raises(multiprocessing.TimeoutError):
            wait(timeout=0.05)
        assert envs._state is AsyncState.DEFAULT
        envs.reset()
        assert (envs.step(quick)[0] == 1).all() and (envs.step(list(quick))[0] == 2).all()
        assert envs.call("dream", 0) == (0, 0, 0)
    for begin, wait in attempts[1:]:  # what is in time is as without a limit
        begin()
        wait(timeout=30)
    assert envs.get_attr("count") == (4, 4, 4)
    envs.close()


@ASYNC
def test_calls_out_of_turn(make):
    envs = make([Counter] * 2)
    begin = {
        "reset": envs.reset_async,
        "step": lambda: envs.step_async(np.array([1, 1])),
        "call": lambda: envs.call_async("count"),
    }
    wait = {name: getattr(envs, f"{name}_wait") for name in begin}
    envs.reset()
    for name, start in begin.items():
        for finish in wait.values():
            with pytest.raises(NoAsyncCallError):
                finish()
        start()
        assert envs._state is AsyncState(name)
        for other in (*begin.values(), envs.reset, lambda: envs.set_attr("count", 3)):
            with pytest.raises(AlreadyPendingCallError, match=f"pending call to `{name}`"):
                other()
        for other, finish in wait.items():
            if other != name:
                with pytest.raises(NoAsyncCallError):
                    finish()
        wait[name]()
        assert envs._state is AsyncState.DEFAULT
    assert envs.get_attr("count") == (1, 1)
    envs.close()
    for call in (*begin.values(), *wait.values(), envs.reset, envs.render):
        with pytest.raises(ClosedEnvironmentError):
            call()


@LINUX
@pytest.mark.parametrize("way", ["timeout", "terminate", "collected"])
def test_an_end_in_the_middle_of_a_step(way):
    before = children()
    envs = ShoalAsyncVectorEnv([Slow] * 2, max_concurrency=2)
    assert len(children()) >= len(before) + 2
    envs.reset()
    envs.step_async(np.array([[0], [1e5]], np.float32))  # hours
    with pytest.warns(UserWarning, match="pending call to `step`"):
        if way == "timeout":
            envs.close(timeout=0.2)
        elif way == "terminate":
            envs.close(terminate=True)
        else:
            del envs
            gc.collect()
    assert wait_until(lambda: children() <= before)


def test_close_waits_for_a_step():
    envs = ShoalAsyncVectorEnv([Slow] * 2)
    envs.reset()
    envs.step_async(np.array([[0], [2]], np.float32))
    with pytest.warns(UserWarning, match="pending call to `step`"):
        envs.close(timeout=20)


# -- spaces ---------------------------------------------------------------------------------------


class Odd(gymnasium.Space):
    """A space of which Gymnasium knows nothing."""

    def __eq__(self, other):
        return isinstance(other, Odd)


class Words(gymnasium.Env):
    observation_space = Odd()
    action_space = Odd()

    def reset(self, *, seed=None, options=None):
        return {"said": "nothing"}, {}

    def step(self, action):
        return {"said": action}, 1.0, action == "bye", False, {"n": len(action)}


@PAIR
@pytest.mark.parametrize("mode", AutoresetMode)
def test_custom_spaces(pair, mode):
    if pair is PAIRS["shared"]:
        for make in pair:
            with pytest.raises(ValueError, match="shared_memory=False"):
                make([Words] * 2)
        return
    ours, theirs = (make([Words] * 2, autoreset_mode=mode) for make in pair)
    same(ours.reset(), theirs.reset())
    for actions in (("hello", "you"), ("bye", "now")):
        same(ours.step(actions), theirs.step(actions))
    ours.close(), theirs.close()


@PAIR
@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple((spaces.Box(0, 1, (0, 3)), spaces.Discrete(2))),
        spaces.Dict({"one": spaces.Dict({}), "two": spaces.Discrete(2)}),
        spaces.Dict({("a", 1): spaces.Discrete(2)}),
        spaces.Text(4),
        spaces.OneOf((spaces.Discrete(3), spaces.Box(0, 1, (2,)))),
        spaces.Box(-1, 1, (), np.float64),
        spaces.MultiBinary((2, 3)),
    ],
    ids=str,
)
def test_rare_spaces(pair, space):
    class Rare(gymnasium.Env):
        action_space = spaces.Discrete(2)

        def __init__(self):
            self.observation_space = copy.deepcopy(space)

        def reset(self, *, seed=None, options=None):
            if seed is not None:
                self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, bool(action), False, {}

    ours, theirs = (make([Rare] * 2, autoreset_mode="SameStep") for make in pair)
    stale = pair is PAIRS["shared"] and isinstance(space, (spaces.Text, spaces.OneOf))
    results = [envs.reset(seed=0) for envs in (ours, theirs)]
    assert all(result[0] in ours.observation_space for result in results)
    if not stale:  # theirs are from before the first reset
        same(*results)
    for actions in (np.array([0, 1]), [1, 1]):
        results = [envs.step(actions) for envs in (ours, theirs)]
        assert results[0][0] in ours.observation_space
        if not stale:
            same(*results)
    ours.close(), theirs.close()


@pytest.mark.parametrize(
    "space", [spaces.Sequence(spaces.Discrete(3)), spaces.Graph(spaces.Box(0, 1, (2,)), None)]
)
def test_what_no_shared_memory_can_hold_is_refused_as_by_gymnasium(space):
    class Env(Counter):
        observation_space = space

    both = [failure_of(lambda m=make: m([Env])) for make in (ShoalAsyncVectorEnv, AsyncVectorEnv)]
    assert both[0] == both[1] and both[0][0] is TypeError


class Ranged(gymnasium.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, high, shape=(2,)):
        self.observation_space = spaces.Box(0, high, shape)

    def reset(self, *, seed=None, options=None):
        return np.full(self.observation_space.shape, self.observation_space.high), {}

    def step(self, action):
        return np.full(self.observation_space.shape, action, np.float32), 0.0, False, False, {}


@PAIR
def test_observation_modes(pair):
    ranges = [functools.partial(Ranged, high) for high in (1, 2, 3)]
    highs = np.arange(1, 4, dtype=np.float32).repeat(2).reshape(3, 2)
    custom = spaces.Box(0, highs), spaces.Box(0, 1, (2,))
    for mode in ("different", custom):
        ours, theirs = (make(ranges, observation_mode=mode) for make in pair)
        assert ours.observation_space == theirs.observation_space
        assert ours.single_observation_space == theirs.single_observation_space
        same(ours.reset(), theirs.reset())
        same(ours.step(np.array([0, 1, 1])), theirs.step(np.array([0, 1, 1])))
        ours.close(), theirs.close()
    shapes = [functools.partial(Ranged, 1, (n,)) for n in (1, 2)]
    for fns, mode in [
        (ranges, "same"),
        (ranges, "other"),
        (ranges, (custom[0], None)),
        (shapes, "different"),
        (shapes, custom),
    ]:
        mine, other = (failure_of(lambda m=make: m(fns, observation_mode=mode)) for make in pair)  # noqa: B023
        assert mine[0] is other[0], mode


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [None, "fork", "forkserver", "spawn"])
def test_contexts(context):
    envs = ShoalAsyncVectorEnv([cartpole] * 2, context=context, daemon=False)
    reference = SyncVectorEnv([cartpole] * 2)
    same(envs.reset(seed=1), reference.reset(seed=1))
    envs.close(), reference.close()
    assert (envs.context, envs.daemon) == (context, False)


def test_an_unknown_context_is_refused():
    with pytest.raises(ValueError, match="cannot find context"):
        ShoalAsyncVectorEnv([cartpole], context="osmosis")


class Where(Counter):
    def step(self, action):
        return np.array([os.getpid()]), 0.0, False, False, {}


Where.observation_space = spaces.Box(0, 2**62, (1,), np.int64)


@pytest.mark.parametrize(("limit", "workers"), [(1, 1), (2, 2), (3, 3), (np.int64(9), 4)])
def test_max_concurrency_is_the_number_of_workers(limit, workers):
    envs = ShoalAsyncVectorEnv([Where] * 4, max_concurrency=limit)
    envs.reset()
    pids = envs.step(np.zeros(4, int))[0]
    assert len(set(pids.ravel().tolist())) == workers and os.getpid() not in pids
    envs.close()


@pytest.mark.parametrize("limit", [0, -1, 2.0, "2"])
def test_what_is_no_max_concurrency(limit):
    both = [
        failure_of(lambda m=make: m([cartpole], max_concurrency=limit))
        for make in (ShoalAsyncVectorEnv, AsyncVectorEnv)
    ]
    assert both[0] == both[1] and both[0][0] is ValueError


def test_proxies_of_a_manager_work_in_environments():
    with multiprocessing.Manager() as manager:
        log = manager.list()

        class Logging(Counter):
            def step(self, action):
                log.append(int(action))
                return super().step(action)

        for context in ("fork", "forkserver"):
            envs = ShoalAsyncVectorEnv([Logging] * 2, context=context)
            envs.reset()
            envs.step(np.array([1, 0]))
            envs.close()
        assert sorted(log) == [0, 0, 1, 1]


def test_a_fork_takes_what_cannot_be_pickled():
    lock = multiprocessing.get_context("fork").Lock()

    class Locked(Counter):
        def step(self, action):
            with lock:
                return super().step(action)

    envs = ShoalAsyncVectorEnv([Locked] * 2, context="fork")
    envs.reset()
    with lock:
        envs.step_async(np.array([1, 1]))
        with pytest.raises(multiprocessing.TimeoutError):
            envs.step_wait(timeout=0.2)
    assert (envs.step(np.array([1, 1]))[0] == 2).all()
    envs.close()


def shout(index, env_fn, pipe, parent_pipe, *others):
    """A worker in Gymnasium's way, whose environment is louder."""

    def loud():
        env = env_fn()
        env.count = 50
        return env

    _async_worker(index, loud, pipe, parent_pipe, *others)


def test_a_worker_of_gymnasiums_kind():
    envs = ShoalAsyncVectorEnv([Counter] * 2, worker=shout)
    assert len(envs.processes) == 2
    assert envs.step(np.array([1, 1]))[0].tolist() == [[51], [51]]
    assert envs.call("count") == (51, 51)
    envs.step_async([1, 2])
    assert envs.step_wait(timeout=20)[2].tolist() == [False, True]
    envs.close()


def test_a_program_may_end_without_closing(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import numpy as np, gymnasium\n"
        "from shoal.wrappers.gymnasium import ShoalAsyncVectorEnv\n"
        "envs = ShoalAsyncVectorEnv([lambda: gymnasium.make('CartPole-v1')] * 2)\n"
        "envs.reset()\n"
        "envs.step(np.array([0, 1]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- the registry ---------------------------------------------------------------------------------


def lively(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: 3 * reward)


@pytest.mark.parametrize(
    ("mode", "kind", "kwargs"),
    [
        ("sync", "ShoalSyncVectorEnv", {"autoreset_mode": "SameStep"}),
        ("async", "ShoalAsyncVectorEnv", {"autoreset_mode": "SameStep"}),
        ("serial", "Vector", {"autoreset": "same_step"}),
        ("multiprocess", "Vector", {"autoreset": "same_step", "num_workers": 2}),
    ],
)
def test_make_vec(mode, kind, kwargs):
    envs = make_vec(
        "CartPole-v1",
        3,
        vectorization_mode=mode,
        vector_kwargs=kwargs,
        wrappers=[lively],
        max_episode_steps=5,
        sutton_barto_reward=True,
    )
    reference = gymnasium.make_vec(
        "CartPole-v1",
        3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": "SameStep"},
        wrappers=[lively],
        max_episode_steps=5,
        sutton_barto_reward=True,
    )
    assert type(envs).__name__ == kind and envs.num_envs == 3
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.spec.id == "CartPole-v1" and envs.spec.kwargs["num_envs"] == 3
    same(envs.reset(seed=0), reference.reset(seed=0))
    reference.action_space.seed(0)
    for _ in range(12):
        actions = reference.action_space.sample()
        ours, theirs = envs.step(actions), reference.step(actions)
        same(ours[:4], theirs[:4])
        same(*[infos.get("final_obs", np.zeros(0)) for infos in (ours[4], theirs[4])])
    envs.close(), reference.close()


def test_vector_spec_is_for_gymnasiums_own_make_vec():
    before = gymnasium.spec("FrozenLake-v1").vector_entry_point
    spec = vector_spec("FrozenLake-v1", "sync")
    envs = gymnasium.make_vec(spec, num_envs=2, map_name="4x4", is_slippery=False)
    assert type(envs) is ShoalSyncVectorEnv
    assert [env.get_wrapper_attr("desc").shape for env in envs.envs] == [(4, 4)] * 2
    assert gymnasium.spec("FrozenLake-v1").vector_entry_point is before
    envs.close()
    envs = gymnasium.make_vec(vector_spec("gymnasium.envs:FrozenLake8x8-v1", "serial"), num_envs=2)
    assert envs.get_attr("desc")[0].shape == (8, 8)
    envs.close()
    with pytest.raises(gymnasium.error.Error, match="NoSuchEnv"):
        vector_spec("NoSuchEnv-v0")
