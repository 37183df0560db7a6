"""Vectors as Stable-Baselines3's `VecEnv`, beside its own DummyVecEnv and SubprocVecEnv."""

import copy
import functools
import gc
import os
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv

import shoal
from shoal.errors import ActionError
from tests.other_python import old_gym_python
from tests.vectorization.test_info_slots import assert_same

pytest.importorskip("stable_baselines3")
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from shoal.vectorization.infos import split_infos
from shoal.wrappers.sb3 import ShoalDummyVecEnv, ShoalSubprocVecEnv, ShoalVecEnv

NUM_ENVS = 3


def shoal_vec_env(creators, copy=True, **how):
    return ShoalVecEnv(shoal.vectorize(creators, autoreset="same_step", **how), copy=copy)


WORKERS = {"backend": "multiprocess", "num_workers": 2, "start_method": "fork"}
KINDS = {
    "serial": functools.partial(shoal_vec_env, backend="serial"),
    "views": functools.partial(shoal_vec_env, copy=False, backend="serial"),
    "vector copies": lambda creators: ShoalVecEnv(
        shoal.vectorize(creators, autoreset="same_step", backend="serial", copy=True)
    ),
    "workers": functools.partial(shoal_vec_env, **WORKERS),
    "dummy": ShoalDummyVecEnv,
    "subproc": functools.partial(ShoalSubprocVecEnv, start_method="fork"),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
EXACT = ["serial", "workers", "dummy", "subproc"]
STAND_INS = {name: KINDS[name] for name in ("dummy", "subproc")}
each_stand_in = pytest.mark.parametrize("make", STAND_INS.values(), ids=STAND_INS)


class Changeable(gymnasium.Env):
    """A Dict of all kinds of arrays; infos whose keys, types and shapes change."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    observation_space = spaces.Dict(
        {
            "state": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
            "pixels": spaces.Box(0, 255, (3, 4), np.uint8),
            "card": spaces.Discrete(5),
            "dice": spaces.MultiDiscrete([3, 4]),
            "lamps": spaces.MultiBinary(6),
        }
    )
    action_space = spaces.MultiDiscrete([2, 3])
    colour = "red"

    def __init__(self, render_mode="rgb_array"):
        self.observation_space = copy.deepcopy(self.observation_space)
        self.render_mode = render_mode
        self.info = {"kept": [0]}  # the same list for ever, so that a late look shows
        self.state = np.zeros((2, 2))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.state[:] = self.np_random.normal(size=(2, 2))
        return self.observation(), {"born": float(self.state[0, 0]), "options": options}

    def observation(self):
        return {**self.observation_space.sample(), "state": self.state.copy()}

    def step(self, action):
        assert self.action_space.contains(action)
        self.state[:] += action[0] - self.np_random.random()
        drawn = self.np_random.random()
        self.info["kept"][0] += 1
        self.info["varies"] = [3, 0.5, "text", None, {"deep": 1}][int(drawn * 50) % 5]
        self.info["shape"] = np.arange(int(drawn * 40) % 4)
        ended, cut = drawn < 0.1, 0.05 < drawn < 0.2  # at times both
        return self.observation(), float(drawn), ended, cut, dict(self.info)

    def render(self):
        return np.full((4, 5, 3), int(self.state[0, 0] * 10) % 256, np.uint8)

    def area(self, width, height=1):
        return width * height


ENVS = {
    "CartPole": lambda: gymnasium.make("CartPole-v1"),
    "FrozenLake": lambda: gymnasium.make("FrozenLake-v1"),
    "Taxi": lambda: gymnasium.make("Taxi-v4", max_episode_steps=30),  # arrays in its infos
    "Hopper": lambda: gymnasium.make("Hopper-v5", max_episode_steps=20),  # cut, or falls before
    "Changeable": Changeable,
}


def same_value(got, expected):
    """Equal; a terminal observation may be a NumPy scalar where the environment had an int."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            same_value(got[key], expected[key])
    else:
        assert np.shape(got) == np.shape(expected)
        np.testing.assert_array_equal(got, expected)


def same_infos(got, expected):
    assert isinstance(got, list) and len(got) == len(expected)
    for one, other in zip(got, expected):
        one, other = dict(one), dict(other)
        if "terminal_observation" in other:
            same_value(one.pop("terminal_observation"), other.pop("terminal_observation"))
        assert one.keys() == other.keys()
        for key in other:
            assert_same(one[key], other[key], key)


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("kind", EXACT)
def test_every_step_is_that_of_dummy_vec_env(kind, name):
    make = KINDS[kind]
    ours, theirs = make([ENVS[name]] * NUM_ENVS), DummyVecEnv([ENVS[name]] * NUM_ENVS)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    space = copy.deepcopy(theirs.action_space)
    space.seed(0)
    for vec_env in (ours, theirs):
        vec_env.seed(5)
    ends = cuts = 0
    steps = 800 if kind in ("serial", "dummy") else 200  # the others are for what is in between
    for begin in range(2):
        first = [vec_env.reset() for vec_env in (ours, theirs)]
        assert_same(first[0], plain(first[1]))
        same_infos(ours.reset_infos, theirs.reset_infos)
        for _ in range(100 if begin else steps):
            actions = np.stack([space.sample() for _ in range(NUM_ENVS)])
            got, expected = ours.step(actions), theirs.step(actions)
            if kind == "subproc":  # has rewards of float64
                got = (got[0], got[1].astype(np.float32), *got[2:])
            for one, other in zip(got[:3], expected[:3]):
                assert_same(one, plain(other))
            same_infos(got[3], expected[3])
            same_infos(ours.reset_infos, theirs.reset_infos)
            ends += expected[2].sum()
            cuts += sum(info["TimeLimit.truncated"] for info in expected[3])
    assert ends > 20
    assert cuts > 5 or name in ("CartPole", "FrozenLake")
    for vec_env in (ours, theirs):
        vec_env.close()


def plain(observations):
    return dict(observations) if isinstance(observations, dict) else observations


def test_a_terminal_observation_stays_though_the_environment_reuses_its_array():
    """DummyVecEnv shows the first observation of the next episode here."""

    class Reusing(gymnasium.Env):
        observation_space = spaces.Box(0, 9, (1,), np.float32)
        action_space = spaces.Discrete(2)
        state = np.zeros(1, np.float32)

        def reset(self, *, seed=None, options=None):
            self.state[:] = 0
            return self.state, {}

        def step(self, action):
            self.state += 1
            return self.state, 0.0, self.state[0] == 3, False, {}

    vec_env = KINDS["serial"]([Reusing])
    vec_env.reset()
    for _ in range(3):
        observations, _, _, (info,) = vec_env.step(np.zeros(1, int))
    assert observations == [[0]] and info["terminal_observation"] == [3]


@each_kind
def test_attributes_and_methods(make):
    vec_env = make([lambda: Monitor(Changeable())] * NUM_ENVS)
    assert vec_env.num_envs == NUM_ENVS
    assert vec_env.render_mode == "rgb_array"
    assert vec_env.metadata["render_fps"] == 7
    assert vec_env.get_attr("colour") == ["red"] * 3
    assert vec_env.set_attr("colour", "blue", indices=[0, -1]) is None
    assert vec_env.get_attr("colour") == ["blue", "red", "blue"]
    assert vec_env.get_attr("colour", 1) == ["red"]
    vec_env.set_attr("new", [1, 2])  # the whole list, on the outermost wrapper
    assert vec_env.get_attr("new") == [[1, 2]] * 3
    assert vec_env.env_method("has_wrapper_attr", "new") == [True] * 3
    assert vec_env.env_method("area", 2, indices=[2, 0], height=5) == [10, 10]
    assert vec_env.env_method("area", 3) == [3, 3, 3]
    assert vec_env.has_attr("area") and not vec_env.has_attr("volume")
    (method,) = vec_env.get_attr("area", [0])
    assert method(2, 2) == 4  # not called
    with pytest.raises(AttributeError):
        vec_env.get_attr("volume")
    with pytest.raises(IndexError):
        vec_env.get_attr("colour", 3)
    assert vec_env.env_is_wrapped(Monitor) == [True] * 3
    assert vec_env.env_is_wrapped(gymnasium.Wrapper, [0]) == [True]
    assert vec_env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [False] * 3
    vec_env.close()


@each_kind
def test_images(make):
    vec_env = make([Changeable] * NUM_ENVS)
    vec_env.seed(0)
    vec_env.reset()
    states = vec_env.get_attr("state")
    images = vec_env.get_images()
    assert [image[0, 0, 0] for image in images] == [int(s[0, 0] * 10) % 256 for s in states]
    assert vec_env.render().shape == (8, 10, 3)
    with pytest.warns(UserWarning):
        assert vec_env.render(mode="human?") is None
    vec_env.close()
    vec_env = make([functools.partial(Changeable, render_mode=None)] * 2)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert vec_env.get_images() == [None, None]
    vec_env.close()


@each_kind
def test_seeds_and_options_are_for_the_next_reset_alone(make):
    vec_env = make([Changeable] * NUM_ENVS)
    assert vec_env.seed(7) == [7, 8, 9]
    vec_env.set_options([{"level": 1}, {}, {"level": 3}])
    first = vec_env.reset()["state"].copy()
    assert [info["options"] for info in vec_env.reset_infos] == [{"level": 1}, None, {"level": 3}]
    assert (vec_env.reset()["state"] != first).all()
    assert [info["options"] for info in vec_env.reset_infos] == [None] * 3
    vec_env.seed(7)
    vec_env.set_options({"level": 2})
    np.testing.assert_array_equal(vec_env.reset()["state"], first)
    assert [info["options"] for info in vec_env.reset_infos] == [{"level": 2}] * 3
    vec_env.close()


@each_kind
def test_a_reset_throws_a_pending_step_away(make):
    vec_env = make([ENVS["CartPole"]] * NUM_ENVS)
    vec_env.seed(0)
    first = np.array(vec_env.reset())
    vec_env.step_async(np.zeros(NUM_ENVS, int))
    vec_env.seed(0)
    np.testing.assert_array_equal(vec_env.reset(), first)
    vec_env.step(np.zeros(NUM_ENVS, int))
    vec_env.close()


def test_the_vectors_own_seed_serves_the_first_reset():
    make = functools.partial(shoal.vectorize, "CartPole-v1", 2, backend="serial", seed=3)
    expected, _ = make().reset()
    np.testing.assert_array_equal(ShoalVecEnv(make(autoreset="same_step")).reset(), expected)


@pytest.mark.parametrize("name", ["CartPole", "Changeable"])
def test_observations_stay_or_are_views(name):
    held = {}
    for kind in ("serial", "views", "vector copies"):
        vec_env = KINDS[kind]([ENVS[name]])
        vec_env.seed(0)
        seen = [vec_env.reset()]
        first = copy.deepcopy(seen[0])
        space = vec_env.action_space
        space.seed(0)
        seen += [vec_env.step([space.sample()])[0] for _ in range(4)]
        held[kind] = seen
        if kind != "views":
            same_value(seen[0], first)
    for i in (-2, -1):  # they are good until the second step after
        same_value(held["views"][i], held["serial"][i])
    with pytest.raises(AssertionError):
        same_value(held["serial"][0], held["views"][0])


class Nested(gymnasium.Env):
    """An observation that Stable-Baselines3 can't take, an action of two discrete parts."""

    observation_space = spaces.Dict(
        {
            "hand": spaces.Tuple((spaces.Discrete(3), spaces.Box(-9, 9, (2,), np.int16))),
            "name": spaces.Text(4, charset="ab"),
            "body": spaces.Dict(
                {"lamps": spaces.MultiBinary(2), "dice": spaces.Discrete(4, start=1)}
            ),
            "queue": spaces.Sequence(spaces.MultiBinary(2), stack=True),
        }
    )
    action_space = spaces.Dict(
        {"a": spaces.Discrete(3, start=-1), "b": spaces.MultiDiscrete([2, 2])}
    )

    def reset(self, *, seed=None, options=None):
        return self.observation(0), {}

    def observation(self, value):
        return {
            "hand": (value % 3, np.array([value, -1], np.int16)),
            "name": "ab"[: value % 3],
            "body": {"lamps": np.array([0, 1], np.int8), "dice": 1 + value % 4},
            "queue": np.ones((value % 2, 2), np.int8),
        }

    def step(self, action):
        assert self.action_space.contains(action)
        value = int(action["a"]) + 1 + 3 * int(action["b"][1])
        return self.observation(value), 0.0, value == 5, False, {"value": value}


def test_what_nested_spaces_become():
    vec_env = ShoalVecEnv(
        shoal.vectorize([Nested] * 2, backend="serial", autoreset="same_step", max_len=2)
    )
    Box, Discrete = spaces.Box, spaces.Discrete
    expected = {
        "hand[0]": Discrete(3),
        "hand[1]": Box(-9, 9, (2,), np.int16),
        "name/length": Box(1, 4, (1,), np.int32),
        "name/chars": Box(0, 2, (4,), np.uint8),
        "body/lamps": spaces.MultiBinary(2),
        "body/dice": Box(1, 4, (1,), np.int64),
        "queue/length": Box(0, 2, (1,), np.int32),
        "queue/items": Box(0, 1, (2, 2), np.int8),
    }
    assert vec_env.observation_space.spaces == expected
    assert vec_env.action_space == spaces.MultiDiscrete([3, 2, 2])
    observations = vec_env.reset()
    assert list(observations) == list(vec_env.observation_space.spaces)
    observations, _, dones, infos = vec_env.step(np.array([[1, 0, 1], [2, 0, 1]]))
    assert [info["value"] for info in infos] == [4, 5]
    assert dones.tolist() == [False, True]
    expected = {
        "hand[0]": 1,
        "hand[1]": [4, -1],
        "name/length": [1],
        "name/chars": [1, 0, 0, 0],
        "body/lamps": [0, 1],
        "body/dice": [1],
        "queue/length": [0],
        "queue/items": np.zeros((2, 2)),
    }
    same_value({key: value[0] for key, value in observations.items()}, expected)
    expected |= {"hand[0]": 2, "hand[1]": [5, -1], "name/length": [2], "name/chars": [1, 2, 0, 0]}
    expected |= {"body/dice": [2], "queue/length": [1], "queue/items": [[1, 1], [0, 0]]}
    same_value(infos[1]["terminal_observation"], expected)
    PPO("MultiInputPolicy", vec_env, n_steps=16, batch_size=8, n_epochs=1).learn(32)
    vec_env.close()


def test_the_float32_form_is_one_vector():
    vector = shoal.vectorize(
        [Nested], backend="serial", autoreset="same_step", max_len=2, form="float32"
    )
    vec_env = ShoalVecEnv(vector)
    assert vec_env.observation_space == vector.single_observation_space
    assert vec_env.reset().shape == (1, *vec_env.observation_space.shape)
    PPO("MlpPolicy", vec_env, n_steps=16, batch_size=8, n_epochs=1).learn(32)


def test_parts_of_the_same_name():
    class Twice(Nested):
        observation_space = spaces.Dict(
            {
                "a": spaces.Dict({"b": spaces.Discrete(2)}),
                "a/b": spaces.Discrete(2),
            }
        )

        def observation(self, value):
            return {"a": {"b": 0}, "a/b": 1}

    # ['a/b'] is no name, so the path of that part can't be taken for that of the other.
    vec_env = shoal_vec_env([Twice], backend="serial")
    same_value(vec_env.reset(), {"['a/b']": [1], "a/b": [0]})


@pytest.mark.parametrize(
    "how, message",
    [
        ({"autoreset": "next_step"}, 'autoreset="same_step"'),
        ({"autoreset": "disabled"}, 'autoreset="same_step"'),
        ({"autoreset": "same_step", "backend": "pool", "batch_size": 1}, "1 of 2"),
    ],
)
def test_vectors_that_are_no_vec_env(how, message):
    vector = shoal.vectorize("CartPole-v1", 2, **{"backend": "serial", **how})
    with pytest.raises(ValueError, match=message):
        ShoalVecEnv(vector)
    vector.close()


def test_actions_of_both_kinds_are_refused():
    class Both(ENVS["Changeable"]):
        action_space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, (2,))})

    with pytest.raises(ValueError, match=r"not both, got Dict.*shoal train"):
        shoal_vec_env([Both], backend="serial")


class FromFive(gymnasium.Env):
    """Its observations are choices that do not count from 0."""

    action_space = spaces.Discrete(3)

    def __init__(self, nested=False):
        part = spaces.Discrete(4, start=5)
        self.observation_space = spaces.Dict(a=part) if nested else part
        self.look = (lambda value: {"a": value}) if nested else (lambda value: value)

    def reset(self, *, seed=None, options=None):
        self.at = 5
        return self.look(self.at), {}

    def step(self, action):
        self.at = 5 + (self.at + action) % 4
        return self.look(self.at), 1.0, self.at == 8, False, {}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(ShoalDummyVecEnv, DummyVecEnv), (ShoalSubprocVecEnv, SubprocVecEnv)],
)
def test_stand_ins_give_choices_that_do_not_count_from_0_as_the_originals(ours, theirs, nested):
    create = functools.partial(FromFive, nested)
    vec_envs = [each([create, create]) for each in (ours, theirs)]
    played = []
    for vec_env in vec_envs:
        steps = [[vec_env.reset()]]
        for actions in ([0, 1], [2, 1], [1, 1], [0, 2], [1, 0]):
            steps.append(vec_env.step(np.array(actions))[:3])
        if nested:  # the originals have an OrderedDict
            steps = [[dict(observations), *more] for observations, *more in steps]
        played.append((vec_env.observation_space, str(steps)))
        vec_env.close()
    assert played[0] == played[1] and "True" in played[0][1]  # an episode ended


class Echo(gymnasium.Env):
    """Its info has the action."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"action": action}


def echoed(vec_env, actions):
    return [info["action"] for info in vec_env.step(actions)[3]]


@pytest.mark.parametrize("backend", ["serial", "workers"])
def test_actions_are_made_to_fit(backend):
    def make(space):
        vec_env = KINDS[backend]([functools.partial(Echo, space)] * 2)
        vec_env.reset()
        return vec_env

    vec_env = make(spaces.Box(-1, np.array([1, 0.3], np.float32)))
    got = echoed(vec_env, np.array([[-3, 0], [0.5, 0.31]], np.float32))
    np.testing.assert_array_equal(got, np.array([[-1, 0], [0.5, 0.3]], np.float32))
    for bad in (np.full((2, 2), np.nan), np.zeros((3, 2)), np.zeros(2), [[0.0], [0.0, 0.0]], None):
        with pytest.raises(ActionError):
            vec_env.step(bad)
    assert len(echoed(vec_env, np.zeros((2, 2), np.float32))) == 2  # and it goes on
    vec_env.close()

    vec_env = make(spaces.MultiBinary(3))
    lamps = np.array([[0, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(echoed(vec_env, lamps.astype(np.float32)), lamps)
    with pytest.raises(ActionError):
        vec_env.step(np.full((2, 3), 0.5))
    vec_env.close()

    vec_env = make(spaces.Discrete(3, start=5))
    assert vec_env.action_space == spaces.Discrete(3)
    assert echoed(vec_env, np.array([0, 2])) == [5, 7]
    assert echoed(vec_env, [1, 1]) == [6, 6]
    with pytest.raises(ActionError):
        vec_env.step(np.array([0, 3]))
    vec_env.close()


@pytest.mark.parametrize("masked", ["method", "observation", "info", "nothing"])
@pytest.mark.parametrize("backend", ["serial", "workers"])
def test_action_masks(backend, masked):
    class Masked(gymnasium.Env):
        observation_space = spaces.Dict(
            {
                "action_mask" if masked == "observation" else "other": spaces.MultiBinary(4),
                "time": spaces.Discrete(100),
            }
        )
        action_space = spaces.Discrete(4)

        def results(self):
            mask = (np.arange(4) <= self.time % 4).astype(np.int8)
            info = {"action_mask": mask} if masked == "info" else {}
            return {**dict.fromkeys(["action_mask", "other"], mask), "time": self.time}, info

        def reset(self, *, seed=None, options=None):
            self.time = self.np_random.integers(4) if seed is None else seed
            return self.results()

        def step(self, action):
            self.time += 1
            observation, info = self.results()
            return observation, 0.0, self.time % 5 == 0, False, info

    if masked == "method":
        Masked.action_masks = lambda env: np.arange(4) <= env.time % 4
    vec_env = KINDS[backend]([Masked] * 3)
    vec_env.seed(1)
    if masked != "nothing":
        assert vec_env.has_attr("action_masks")
    observations = vec_env.reset()
    assert vec_env.has_attr("action_masks") == (masked != "nothing")
    if masked == "nothing":
        with pytest.raises(AttributeError):
            vec_env.action_masks()
        vec_env.close()
        return
    for _ in range(20):
        expected = np.arange(4) <= observations["time"][:, None] % 4
        np.testing.assert_array_equal(vec_env.action_masks(), expected)
        np.testing.assert_array_equal(
            vec_env.env_method("action_masks", indices=[-1]), expected[2:]
        )
        before = vec_env.action_masks()
        observations = vec_env.step(np.zeros(3, int))[0]
        np.testing.assert_array_equal(before, expected)  # the caller's own
    assert VecMonitor(vec_env).action_masks().dtype == bool
    vec_env.close()


def test_several_agents_are_as_many_environments():
    from pettingzoo import ParallelEnv

    class Leaving(ParallelEnv):
        """Agent i leaves after 2 + i steps, by termination or truncation in turn."""

        metadata = {"name": "leaving"}  # noqa: RUF012
        render_mode = None
        possible_agents = ["a", "b", "c"]  # noqa: RUF012

        def observation_space(self, agent):
            return spaces.Box(-99, 99, (2,), np.float32)

        def action_space(self, agent):
            return spaces.Discrete(3)

        def observe(self):
            return {a: np.array([self.time, "abc".index(a)], np.float32) for a in self.agents}

        def reset(self, seed=None, options=None):
            self.agents, self.time = list(self.possible_agents), 0
            return self.observe(), {agent: {"seed": seed} for agent in self.agents}

        def step(self, actions):
            self.time += 1
            observations = self.observe()
            gone = {agent: self.time == 2 + "abc".index(agent) for agent in self.agents}
            terminations = {agent: gone[agent] and agent != "b" for agent in self.agents}
            truncations = {agent: gone[agent] and agent == "b" for agent in self.agents}
            rewards = {agent: float(actions[agent]) for agent in self.agents}
            infos = {agent: {"time": self.time} for agent in self.agents}
            self.agents = [agent for agent in self.agents if not gone[agent]]
            return observations, rewards, terminations, truncations, infos

    vec_env = ShoalVecEnv(shoal.vectorize([Leaving] * 2, backend="serial", autoreset="same_step"))
    assert vec_env.num_envs == 6
    vec_env.seed(3)
    observations = vec_env.reset()
    assert [info["seed"] for info in vec_env.reset_infos] == [3, 3, 3, 4, 4, 4]
    np.testing.assert_array_equal(observations, [[0, 0], [0, 1], [0, 2]] * 2)
    actions = np.array([0, 1, 2, 2, 1, 0])
    for step in range(1, 9):
        observations, rewards, dones, infos = vec_env.step(actions)
        time = (step - 1) % 4 + 1  # of the episode; the last agent ends it at 4
        present = np.array([time <= 2, time <= 3, True] * 2)
        np.testing.assert_array_equal(rewards, np.where(present, actions, 0))
        assert dones.tolist() == [time in (2, 4), time in (3, 4), time == 4] * 2
        for row, info in enumerate(infos):
            agent = row % 3
            assert info["TimeLimit.truncated"] == (agent == 1 and time == 3)
            if time == 2 + agent:
                np.testing.assert_array_equal(info["terminal_observation"], [time, agent])
                assert info["time"] == time
            if time == 4:
                np.testing.assert_array_equal(observations[row], [0, agent])
                assert vec_env.reset_infos[row] == {"seed": None}
    assert vec_env.get_attr("time", [0, 5]) == [0, 0]
    PPO("MlpPolicy", vec_env, n_steps=16, batch_size=32, n_epochs=1).learn(100)


def test_an_environment_that_was_replaced_ends_its_episode():
    class Failing(Changeable):
        def step(self, action):
            if self.np_random.random() < 0.05:
                raise RuntimeError("lost")
            return super().step(action)

    vector = shoal.vectorize(
        [Failing] * 2, backend="serial", autoreset="same_step", on_error="restart"
    )
    vec_env = ShoalVecEnv(vector)
    vec_env.seed(0)
    vec_env.reset()
    while vector.restarts < 3:
        before = vector.restarts
        _, rewards, dones, infos = vec_env.step(np.zeros((2, 2), int))
        if vector.restarts > before:
            lost = [i for i in range(2) if dones[i] and "kept" not in infos[i]]
            assert len(lost) == vector.restarts - before
            for i in lost:
                assert rewards[i] == 0 and infos[i]["TimeLimit.truncated"]
                assert not infos[i]["terminal_observation"]["state"].any()


def test_infos_of_other_vectors_are_taken_apart():
    infos = [
        {"a": 1, "deep": {"x": 0.5, "y": {"z": 1}}, "text": "t"},
        {},
        {"deep": {"y": {}}, "array": np.arange(3), "final_info": {"b": 2}},
    ]
    together, vector = {}, VectorEnv()
    vector.num_envs = 3
    for row, info in enumerate(infos):
        together = vector._add_info(together, info, row)
    together |= {"final_obs": np.full(3, None), "_final_obs": np.ones(3, bool)}
    got = split_infos(together, 3)
    assert [list(one) for one in got] == [list(one) for one in infos]
    for one, other in zip(got, infos):
        same_value(one, other)


# -- the stand-ins --------------------------------------------------------------------------------


class Recorder(gymnasium.Env):
    """Remembers what it was called with, and takes only a seed."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, action_space=None):
        self.action_space = action_space or spaces.Box(-1, 1, (1,), np.float32)
        self.calls = []
        self.closed = 0

    def reset(self, seed="none given"):
        self.calls.append(seed)
        return [0.0], {}

    def step(self, action):
        self.calls.append(action)
        return [0.5], 0.0, len(self.calls) % 7 == 0, False, {"pid": os.getpid()}

    def close(self):
        self.closed += 1


@each_stand_in
def test_actions_and_resets_arrive_as_they_were_given(make):
    ours, theirs = make([Recorder] * 2), DummyVecEnv([Recorder] * 2)
    f32 = np.float32
    batches = [
        np.array([[0.5], [-0.5]], f32),
        np.array([[0.1], [0.2]]),  # another dtype
        np.array([[7], [-7]], f32),  # out of bounds
        [[3], [4]],
        [np.nan, "text"],
        [{"a": 1}, None],
        np.zeros((2, 3), f32),
        np.array([[1], [2]], np.int8),
    ]
    for vec_env in (ours, theirs):
        for actions in batches[:3]:  # before the first reset
            vec_env.step(actions)
        vec_env.reset()
        for actions in batches:
            vec_env.step(actions)
        vec_env.seed(3)
        vec_env.reset()
    assert_same(ours.get_attr("calls"), theirs.get_attr("calls"))
    assert isinstance(ours.get_attr("calls")[0][0], np.ndarray)
    ours.close()


@each_stand_in
@pytest.mark.parametrize(
    "space", [spaces.Text(5), spaces.Tuple((spaces.Discrete(2),)), gymnasium.Space((2,), np.int64)]
)
def test_actions_of_other_spaces(make, space):
    vec_env = make([functools.partial(Recorder, space)] * 2)
    assert vec_env.action_space == space or type(vec_env.action_space) is gymnasium.Space
    vec_env.reset()
    for _ in range(3):
        vec_env.step([0, (1,)])
    assert [calls[1:] for calls in vec_env.get_attr("calls")] == [[0, 0, 0], [(1,), (1,), (1,)]]
    vec_env.close()


def test_what_gymnasium_says_of_a_step_before_the_reset():
    vec_env = ShoalDummyVecEnv([ENVS["CartPole"]])
    with pytest.raises(gymnasium.error.ResetNeeded):
        vec_env.step([0])


@each_stand_in
def test_tuples_stay_and_nested_spaces_are_refused(make):
    class Pair(Recorder):
        observation_space = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)))

        def reset(self, seed=None):
            return (1, np.zeros(2, np.float32)), {}

        def step(self, action):
            return (2, np.ones(2, np.float32)), 0.0, True, False, {}

    class Deep(Recorder):
        observation_space = spaces.Dict({"a": Pair.observation_space})

    vec_env = make([Pair] * 2)
    assert vec_env.observation_space == Pair.observation_space
    numbers, arrays = vec_env.reset()
    assert numbers.tolist() == [1, 1] and arrays.shape == (2, 2)
    observations, *_, infos = vec_env.step(np.zeros((2, 1), np.float32))
    assert type(observations) is tuple and observations[0].tolist() == [1, 1]
    assert type(infos[0]["terminal_observation"]) is tuple
    same_value(infos[0]["terminal_observation"][1], np.ones(2))
    vec_env.close()
    with pytest.raises(NotImplementedError, match="Nested"):
        make([Deep])


def test_the_environments_of_dummy_are_at_hand_and_belong_to_the_caller():
    made = [Recorder(), Monitor(Recorder())]
    vec_env = ShoalDummyVecEnv([lambda: made[0], lambda: made[1]])
    assert vec_env.envs[0] is made[0] and vec_env.envs[1] is made[1]
    assert vec_env.observation_space is made[0].observation_space
    vec_env.set_attr("colour", "blue")
    assert made[0].colour == made[1].colour == "blue"
    assert not hasattr(made[1].unwrapped, "colour")
    assert vec_env.env_is_wrapped(Monitor) == [False, True]
    vec_env.reset()
    del vec_env
    gc.collect()
    assert [env.unwrapped.closed for env in made] == [0, 0]
    vec_env = ShoalDummyVecEnv([lambda: made[0]])
    vec_env.close()
    assert made[0].closed == 1
    vec_env.reset()  # the environment doesn't mind
    with pytest.raises(ValueError, match="same"):
        ShoalDummyVecEnv([lambda: made[0]] * 2)


def test_rewards_are_as_precise_as_in_the_originals():
    class Exact(Recorder):
        def step(self, action):
            return [0.5], 2.0**24 + 1, False, False, {}

    for ours, theirs in ((ShoalDummyVecEnv, DummyVecEnv), (STAND_INS["subproc"], SubprocVecEnv)):
        rewards = []
        for make in (ours, theirs):
            vec_env = make([Exact] * 2)
            vec_env.reset()
            rewards.append(vec_env.step(np.zeros((2, 1), np.float32))[1])
            vec_env.close()
        assert rewards[0].dtype == rewards[1].dtype and (rewards[0] == rewards[1]).all()


def test_each_environment_of_subproc_has_a_process():
    vec_env = ShoalSubprocVecEnv([Recorder] * 3, start_method="fork")
    vec_env.reset()
    infos = vec_env.step(np.zeros((3, 1), np.float32))[3]
    assert len({info["pid"] for info in infos} | {os.getpid()}) == 4
    with pytest.raises(ValueError, match="expected 3, got 2"):
        vec_env.step([0, 0])
    vec_env.close()
    vec_env.close()
    vec_env = ShoalSubprocVecEnv([Recorder] * 3, start_method="fork", num_workers=1)
    vec_env.reset()
    assert len({i["pid"] for i in vec_env.step(np.zeros((3, 1), np.float32))[3]}) == 1
    vec_env.close()
    with pytest.raises(ValueError, match="cannot find context for 'no_method'"):
        ShoalSubprocVecEnv([Recorder], start_method="no_method")


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm, policy, name, how",
    [
        (A2C, "MlpPolicy", "CartPole", {"n_steps": 8}),
        (A2C, "MlpPolicy", "Hopper", {"n_steps": 8, "use_sde": True}),
        (PPO, "MultiInputPolicy", "Changeable", {"n_steps": 16, "batch_size": 16}),
        (DQN, "MlpPolicy", "CartPole", {"learning_starts": 32, "buffer_size": 500}),
        (SAC, "MlpPolicy", "Hopper", {"learning_starts": 32, "buffer_size": 500}),
    ],
)
def test_learning_is_the_same_as_on_dummy_vec_env(algorithm, policy, name, how):
    """To the bit, and on views as near as sums of strided arrays come to those of others."""
    if name == "Changeable":
        how["policy_kwargs"] = {"net_arch": [8]}
    weights = {}
    for kind in ("expected", "serial", "views", "workers"):
        make = KINDS.get(kind, DummyVecEnv)
        vec_env = make([ENVS[name]] * 2)
        model = algorithm(policy, vec_env, seed=1, device="cpu", **how).learn(100)
        weights[kind] = [w.detach().numpy().copy() for w in model.policy.parameters()]
        vec_env.close()
    for kind, tolerance in (("serial", 0), ("workers", 0), ("views", 1e-3)):
        for ours, theirs in zip(weights[kind], weights["expected"]):
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_the_wrappers_of_stable_baselines3():
    vec_env = KINDS["serial"]([ENVS["CartPole"]] * 2)
    wrapped = VecFrameStack(VecNormalize(VecMonitor(vec_env)), 2)
    model = PPO("MlpPolicy", wrapped, n_steps=64, batch_size=64, n_epochs=1).learn(256)
    assert len(model.ep_info_buffer) > 0
    evaluate_policy(model, wrapped, n_eval_episodes=2)
    vec_env.close()


def test_compiled_environments():
    vector = shoal.vectorize("cartpole", 4, autoreset="same_step", seed=0)
    vec_env = ShoalVecEnv(vector)
    assert vec_env.render_mode == vector.render_mode and vec_env.has_attr("render")
    PPO("MlpPolicy", vec_env, n_steps=32, batch_size=32, n_epochs=1).learn(256)
    vec_env.reset()
    ended = []
    while not ended:
        _, _, dones, infos = vec_env.step(np.zeros(4, int))
        ended = [info for info, done in zip(infos, dones) if done]
    assert ended[0].keys() >= {"terminal_observation", "TimeLimit.truncated"}
    vec_env.close()


def test_wrapped_vectors():
    from shoal.wrappers import ClipReward, FrameStack

    class Steady(Changeable):
        def step(self, action):
            *results, info = super().step(action)
            return *results, {"kept": info["kept"]}

    vector = shoal.vectorize([Steady] * 3, backend="serial", autoreset="same_step")
    expected = KINDS["serial"]([Steady] * 3)
    vec_env = ShoalVecEnv(ClipReward(vector, high=0.5))
    for each in (vec_env, expected):
        each.seed(1)
        each.reset()
    for _ in range(100):
        actions = np.stack([expected.action_space.sample() for _ in range(3)])
        got, plain_step = vec_env.step(actions), expected.step(actions)
        same_value(got[0], plain_step[0])
        np.testing.assert_array_equal(got[1], np.minimum(plain_step[1], np.float32(0.5)))
        np.testing.assert_array_equal(got[2], plain_step[2])
        for one, other in zip(got[3], plain_step[3]):
            assert one["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if "terminal_observation" in other:
                same_value(one["terminal_observation"], other["terminal_observation"])

    stacked = ShoalVecEnv(
        FrameStack(shoal.vectorize("CartPole-v1", 2, backend="serial", autoreset="same_step"), 3)
    )
    PPO("MlpPolicy", stacked, n_steps=16, batch_size=32, n_epochs=1).learn(64)


def test_it_trains_on_an_environment_of_old_gym():
    """Old gym in the workers, under an older Python; today's Gymnasium out here."""
    envs = shoal_vec_env("CartPole-v0", num_envs=4, python=old_gym_python(), num_workers=2, seed=0)
    assert type(envs.action_space) is gymnasium.spaces.Discrete
    assert "gym.envs" in str(envs.get_attr("unwrapped", [0])[0])
    model = PPO(
        "MlpPolicy", VecMonitor(envs), n_steps=64, batch_size=64, learning_rate=1e-3, seed=0
    )
    model.learn(6_000)
    envs.close()
    assert np.mean([episode["r"] for episode in model.ep_info_buffer][-30:]) > 40  # at random: 21


# -- what Stable-Baselines3 can't take as it is ----------------------------------------------------


class Sampled(gymnasium.Env):
    """Observations of any space, also in the info; and an info that can't be copied."""

    action_space = spaces.Discrete(2)
    lock = threading.Lock()

    def __init__(self, space):
        self.observation_space = copy.deepcopy(space)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self._result()

    def step(self, action):
        observation, info = self._result()
        return observation, 0.0, self.observation_space.np_random.random() < 0.3, False, info

    def _result(self):
        observation = self.observation_space.sample()
        return observation, {"seen": observation, "lock": self.lock}


@pytest.mark.filterwarnings("ignore:.*replaced by its repr:RuntimeWarning")
@pytest.mark.parametrize(
    "space, start",
    [
        (spaces.Discrete(4, start=3), 3),
        (spaces.MultiDiscrete([3, 4], start=[2, -7]), np.array([2, -7])),
        (spaces.Dict(a=spaces.Discrete(4, start=-2), b=spaces.Box(-1, 1, (2,))), {"a": -2, "b": 0}),
    ],
)
@pytest.mark.parametrize("name", ["serial", "views", "workers"])
def test_discrete_observations_count_from_0(name, space, start):
    vec_env = KINDS[name]([functools.partial(Sampled, space)] * NUM_ENVS)
    vec_env.seed(0)

    def check(found, seen):
        if isinstance(space, spaces.Dict):
            for key, value in seen.items():
                np.testing.assert_array_equal(found[key], value - start[key])
        else:
            np.testing.assert_array_equal(found, seen - start)

    def row(observations, i):
        if isinstance(observations, dict):
            return {key: part[i] for key, part in observations.items()}
        return observations[i]

    observations = vec_env.reset()
    for i, info in enumerate(vec_env.reset_infos):
        check(row(observations, i), info["seen"])
    ended = 0
    for _ in range(20):
        observations, _, dones, infos = vec_env.step([0] * NUM_ENVS)
        for i, info in enumerate(infos):
            last = info["terminal_observation"] if dones[i] else row(observations, i)
            check(last, info["seen"])
            assert vec_env.observation_space.contains(row(observations, i))
            assert isinstance(info["lock"], str) and "lock" in info["lock"]
            ended += dones[i]
    assert ended > 3
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    PPO(policy, vec_env, n_steps=8, batch_size=4, n_epochs=1).learn(8 * NUM_ENVS)
    vec_env.close()
