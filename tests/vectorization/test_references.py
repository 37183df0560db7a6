"""What environments hold and write into again, and what is one object: the same in all backends."""

import collections
import enum
import functools
import threading
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import shoal
from shoal.errors import EmulationError

BACKENDS = {
    "serial": {"backend": "serial"},
    "fork": {"backend": "multiprocess", "num_workers": 2, "start_method": "fork"},
    "forkserver": {"backend": "multiprocess", "num_workers": 2},
    "pool": {"backend": "pool", "num_workers": 2, "batch_size": 4},
}
backends = pytest.mark.parametrize("options", BACKENDS.values(), ids=BACKENDS)


class Reusing(gymnasium.Env):
    """Writes into the same objects in every step; the step number is in all of them."""

    observation_space = spaces.Box(0, 99, (1,), np.int64)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self):
        self.frame = np.zeros((8, 8, 3), np.uint8)
        self.info = {
            "array": np.zeros(2, np.int64),
            "list": [0],
            "deep": {"er": {"array": np.zeros((), np.int64), "list": [[0]]}},
            "queue": collections.deque([0], maxlen=3),
            "lock": threading.Lock(),
        }
        self.at = 0

    def fill(self):
        info = self.info
        info["array"][:] = info["deep"]["er"]["array"][()] = self.at
        info["list"][0] = info["deep"]["er"]["list"][0][0] = self.at
        info["queue"].append(self.at)
        self.frame[:] = self.at
        return np.array([self.at]), info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.fill()

    def step(self, action):
        self.at += 1
        observation, info = self.fill()
        return observation, float(self.at), self.at == 3, False, info

    def render(self):
        return self.frame


def said(infos, row):
    """All numbers that an info says."""
    deep = infos["deep"]["er"]
    return {
        *infos["array"][row].tolist(),
        *infos["list"][row],
        *deep["list"][row][0],
        int(deep["array"][row]),
        infos["queue"][row][-1],
    }


@pytest.mark.filterwarnings("ignore:.*replaced by its repr")
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@backends
def test_infos_stay_as_they_were(options, autoreset):
    vector = shoal.vectorize(Reusing, 4, autoreset=autoreset, **options)
    _, infos = vector.reset(seed=0)
    held = [(infos, 0)]
    for at in (1, 2, 3):
        _, _, _, _, infos = vector.step([0] * 4)
        if at < 3 or autoreset == "next_step":
            held.append((infos, at))
        else:
            held += [(infos, 0), (infos["final_info"], 3)]
    vector.step([0] * 4)
    vector.step([0] * 4)
    for infos, at in held:
        for row in range(4):
            assert said(infos, row) == {at}
            assert "lock" in infos["lock"][row] and type(infos["lock"][row]) is str
    vector.close()


@backends
def test_frames_stay_as_they_were(options):
    options = {**options, "backend": options["backend"].replace("pool", "multiprocess")}
    vector = shoal.vectorize(Reusing, 4, **options)
    vector.reset(seed=0)
    first = vector.render()
    attribute = vector.get_attr("frame")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vector.step([0] * 4)
    assert all((frame == 0).all() for frame in (*first, *attribute))
    assert (vector.render(1) == 1).all()
    vector.close()


@pytest.mark.filterwarnings("ignore:.*replaced by its repr")
def test_sb3_gets_final_infos_that_stay_and_infos_that_cannot_be_copied():
    pytest.importorskip("stable_baselines3")
    from shoal.wrappers.sb3 import ShoalVecEnv

    env = ShoalVecEnv(shoal.vectorize(Reusing, 2, backend="serial", autoreset="same_step"))
    env.reset()
    held = []
    for _ in range(4):
        _, _, dones, infos = env.step(np.zeros(2, np.int64))
        held.append((dones, infos))
    for at, (dones, infos) in enumerate(held, 1):
        for done, info in zip(dones, infos):
            now = 1 if at == 4 else at  # the next episode
            assert done == (at == 3)
            assert info["array"].tolist() == [now] * 2 and info["list"] == [now]
            assert info["deep"]["er"]["list"] == [[now]] and type(info["lock"]) is str
    env.close()


# -- one environment, several times -----------------------------------------------------------


class Walk(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.inner = np.random.default_rng(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.inner = np.random.default_rng(seed)
        return self.step(0)[0], {}

    def step(self, action):
        drawn = [*self.np_random.normal(size=2), *self.inner.normal(size=2)]
        return np.array(drawn), 0.0, False, False, {}


@backends
def test_copies_of_a_used_environment_have_generators_of_their_own(options):
    env = shoal.emulate(Walk())
    env.reset(seed=3)
    env.step(0)
    vector = shoal.vectorize(env, 4, **options)
    observations, _ = vector.reset()
    step = vector.step([0] * 4)[0]
    # Both generators of an environment have the seed, so that each number is there twice.
    assert len(np.unique(np.concatenate([observations.ravel(), step.ravel()]))) == 16
    # With a seed they are those that any creator makes.
    other = shoal.vectorize(Walk, 4, **options)
    assert np.array_equal(vector.reset(seed=7)[0], other.reset(seed=7)[0])
    vector.close(), other.close()


ENV = Walk()


class Holder:
    def __init__(self):
        self.env = Walk()

    def make(self):
        return self.env

    def __call__(self):
        return gymnasium.wrappers.TimeLimit(self.env, 5)


def identity(env):
    return env


def one_for_all():
    """Functions that return one environment at each call."""
    env = Walk()
    emulated = shoal.emulate(env)
    return {
        "closure": lambda: env,
        "default": lambda env=env: env,
        "global": lambda: ENV,
        "partial": functools.partial(identity, env),
        "method": Holder().make,
        "object": Holder(),
        "wrapped": lambda: gymnasium.wrappers.TimeLimit(env, 5),
        "emulated": lambda held=emulated: held,
    }


@pytest.mark.parametrize("kind", one_for_all())
@pytest.mark.parametrize("num_envs", [2, 5])
@backends
def test_one_environment_returned_twice_is_refused(options, num_envs, kind):
    make = one_for_all()[kind]
    options = {**options, "batch_size": 2} if options["backend"] == "pool" else options
    with pytest.raises(
        EmulationError, match=r"env must make a new (environment|Walk) at each call"
    ):
        shoal.vectorize(make, num_envs, **options)
    if options["backend"] == "serial":
        with pytest.raises(EmulationError, match="env must make a new"):
            shoal.vectorize([make] * num_envs, **options)
        shoal.vectorize(make, 1, **options).close()


def test_one_environment_from_different_functions_is_refused():
    env = Walk()
    with pytest.raises(EmulationError, match="environments 0 and 2 are the same object"):
        shoal.vectorize([lambda: env, Walk, lambda: env], backend="serial")


@backends
def test_environments_made_beforehand_are_taken_one_each(options):
    envs = [Walk() for _ in range(4)]
    makers = [functools.partial(identity, env) for env in envs]
    vector = shoal.vectorize(makers, **options)
    assert len(np.unique(vector.reset(seed=0)[0])) == 8  # both generators have the seed
    vector.close()
    if options["backend"] == "serial":
        vector = shoal.vectorize(lambda: envs.pop(), 4, **options)
        assert vector.num_envs == 4 and not envs
        vector.close()


# -- metadata ---------------------------------------------------------------------------------


class Speed(enum.Enum):
    FAST = 1


class Described(Walk):
    metadata = {  # noqa: RUF012
        "render_modes": ("rgb_array",),
        "render_fps": np.float32(12.5),
        "count": np.int64(3),
        "palette": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "levels": {1: "one", "two": {3, 4}},
        "speed": Speed.FAST,
        "raw": b"\0\1",
        "object": threading.Lock(),
    }


@backends
def test_metadata_keep_their_types(options):
    vector = shoal.vectorize(Described, 4, **options)
    got = dict(vector.metadata)
    for name, value in Described.metadata.items():
        if name != "object":
            assert type(got[name]) is type(value) and np.array_equal(got[name], value), name
    assert got["palette"].dtype == np.uint8
    assert "lock" in str(got["object"])
    vector.close()
