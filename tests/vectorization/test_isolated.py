"""Workers under another interpreter: what old libraries need, and what can cross."""

import contextlib
import json
import subprocess
import sys
from enum import Enum
from pathlib import Path

import gymnasium
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, EmulationError, InterpreterError, ShoalError, UnknownEnvError
from shoal.vectorization.arena import Arena
from shoal.vectorization.description import Description
from shoal.vectorization.workers import json_messages
from shoal.vectorization.workers.json_messages import Foreign
from tests.other_python import old_gym_python, old_python, oldest_python
from tests.vectorization import faulty
from tests.vectorization.environments import Everything

ROOT = Path(__file__).parents[2]


def write(path, code):
    path.write_text(code)
    return f"{path}:create"


def test_an_environment_of_old_gym(tmp_path):
    """Python 3.8, gym 0.21: four values, no seed in reset, no info, rewards that are arrays."""
    code = """
import sys
import gym, numpy as np

class Old(gym.Env):
    observation_space = gym.spaces.Dict({
        "at": gym.spaces.Box(-1, 1, (2,), np.float32), "left": gym.spaces.Discrete(20)})
    action_space = gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (1,))))

    def seed(self, seed=None):
        self.random = np.random.RandomState(seed)

    def reset(self):
        self.left = 3
        return self.look()

    def look(self):
        return {"at": self.random.uniform(-1, 1, 2).astype(np.float32), "left": self.left}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        info = {"TimeLimit.truncated": bool(action[0] == 0), "python": sys.version[:3]}
        return self.look(), np.float32([action[0]]), self.left == 0, info

def create():
    return Old()
"""
    name = write(tmp_path / "old.py", code)
    vector = shoal.vectorize(name, 2, python=old_gym_python(), num_workers=2, seed=5)
    assert vector.single_action_space == gymnasium.spaces.Dict(
        continuous=gymnasium.spaces.Box(-1, 1, (1,)), discrete=gymnasium.spaces.MultiDiscrete([3])
    )
    observations, infos = vector.reset()
    view = vector.observation_layout.view(observations)
    for env in range(2):
        drawn = np.random.RandomState(5 + env).uniform(-1, 1, 2).astype(np.float32)
        assert view["at"][env].tolist() == drawn.tolist()
    assert infos == {} and view["left"].tolist() == [3, 3]
    actions = {"continuous": np.zeros((2, 1), np.float32), "discrete": np.array([[0], [2]])}
    for _ in range(3):
        _, rewards, terminations, truncations, infos = vector.step(actions)
        assert rewards.tolist() == [0, 2]
    assert terminations.tolist() == [False, True] and truncations.tolist() == [True, False]
    assert infos["python"][0] in ("3.8", "3.9")
    vector.close()


def test_a_registered_id_of_old_gym():
    vector = shoal.vectorize("CartPole-v0", 2, python=old_gym_python(), num_workers=1, seed=1)
    vector.reset()
    lengths = []
    for _ in range(100):
        _, _, terminations, truncations, _ = vector.step(np.zeros(2, np.int64))
        lengths += vector.episode_lengths[terminations | truncations].tolist()
    assert len(lengths) > 10 and max(lengths) < 15  # always to the left: it falls
    vector.close()


def test_an_environment_of_old_pettingzoo(tmp_path):
    """Dictionaries of spaces, dones, reset() without infos; agents that leave."""
    code = """
import numpy as np
from gym.spaces import Box, Discrete
from pettingzoo import ParallelEnv

class Old(ParallelEnv):
    metadata = {"name": "old"}
    possible_agents = ["a", "b", "c"]
    observation_spaces = {agent: Box(0, 9, (1,), np.float32) for agent in possible_agents}
    action_spaces = {agent: Discrete(2 + i) for i, agent in enumerate(possible_agents)}

    def seed(self, seed=None):
        self.at = seed

    def reset(self):
        self.agents, self.time = list(self.possible_agents), 0
        return self.look(self.agents)

    def look(self, agents):
        return {agent: np.float32([self.time]) for agent in agents}

    def step(self, actions):
        assert sorted(actions) == self.agents
        self.time += 1
        before, self.agents = self.agents, self.agents[:3 - self.time]
        rewards = {agent: actions[agent] for agent in before}
        dones = {agent: agent not in self.agents for agent in before}
        return self.look(before), rewards, dones, {agent: {} for agent in before}

def create():
    return Old()
"""
    name = write(tmp_path / "old_zoo.py", code)
    vector = shoal.vectorize(name, 1, python=old_gym_python(), seed=0)
    assert vector.agents == ["a", "b", "c"]
    vector.reset()
    rows = [vector.step(np.array([1, 2, 3])) for _ in range(3)]
    assert [row[1].tolist() for row in rows] == [[1, 2, 3], [1, 2, 0], [1, 0, 0]]
    assert [row[2].tolist() for row in rows] == [
        [False, False, True],
        [False, True, False],
        [True, False, False],
    ]
    assert vector.episode_lengths.tolist() == [3, 0, 0]
    vector.close()


@pytest.mark.parametrize(
    "python",
    [
        pytest.param(old_python, marks=pytest.mark.slow),
        oldest_python,
        pytest.param(old_gym_python, marks=pytest.mark.slow),
    ],
    ids=["3.9", "3.8", "gym"],
)
def test_older_interpreters_run_the_modules_by_the_stable_abi(python, tmp_path):
    code = """
import sys
try:
    from gymnasium.spaces import Discrete
except ImportError:
    from gym.spaces import Discrete

class Env:
    observation_space = action_space = Discrete(2)

    def reset(self):
        return 0

    def step(self, action):
        return 0, 0.0, False, {}

    def files(self):
        names = ["emulation.loop", "emulation.multi_loop", "vectorization.stepper"]
        return [sys.modules[f"shoal.{name}"].__file__ for name in names]

def create():
    return Env()
"""
    name = write(tmp_path / "which.py", code)
    vector = shoal.vectorize(name, 1, python=python())
    assert all(file.endswith(".abi3.so") for file in vector.call("files")[0])
    vector.close()


def script(path, lines):
    """A file that can be run like an interpreter."""
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "can't be run"),
        ("exit 0", "must be a Python interpreter"),
        ("echo 3 11", "must be a Python interpreter"),
        ("echo shoal: 3 7 numpy", "need Python 3.8 or newer, and '.*/python' is 3.7"),
    ],
)
def test_an_interpreter_that_will_not_do_is_one_clear_error(lines, said, tmp_path):
    python = str(tmp_path / "python")
    if lines is not None:
        script(tmp_path / "python", lines)
    with pytest.raises(InterpreterError, match=said):
        shoal.vectorize("CartPole-v1", python=python)


def test_an_interpreter_without_numpy(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with pytest.raises(InterpreterError, match=r"can't import NumPy.*named 'numpy'"):
        shoal.vectorize("CartPole-v1", python=str(tmp_path / "venv/bin/python"))


def test_an_interpreter_that_can_not_load_our_compiled_modules(tmp_path):
    """PyPy, another version without the GIL, or a NumPy older than 1.17."""
    (tmp_path / "sitecustomize.py").write_text("""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "shoal.emulation.loop":
            raise ImportError("undefined symbol: PyObject_Vectorcall")

sys.meta_path.insert(0, Refuse())
""")
    lines = f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"'
    said = "compiled modules, which need CPython 3.8 .* and NumPy 1.17 .*: .*PyObject_Vectorcall"
    with pytest.raises(InterpreterError, match=said):
        shoal.vectorize("CartPole-v1", python=script(tmp_path / "python", lines))


def test_an_interpreter_in_a_process_of_its_own(tmp_path):
    python = script(tmp_path / "python", f'{sys.executable} "$@"; true')
    with pytest.raises(InterpreterError, match=r"as another process.*exec"):
        shoal.vectorize("CartPole-v1", python=python)


def test_an_interpreter_that_greets(tmp_path):
    lines = f'echo Welcome to Python 2.7; echo 1 2 3; exec {sys.executable} "$@"'
    vector = shoal.vectorize("CartPole-v1", 1, python=script(tmp_path / "python", lines))
    vector.reset()
    vector.close()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"env": lambda: None}, InterpreterError, "env must be a name.*got function"),
        ({"env": ["CartPole-v1", object()]}, InterpreterError, "env must be a name.*got object"),
        (
            {"env": "CartPole-v1", "backend": "serial"},
            ConfigError,
            r'"multiprocess" or "pool" with python=.*got \'serial\'',
        ),
        (
            {"env": "CartPole-v1", "start_method": "fork"},
            ConfigError,
            r'must be "spawn" with python=.*got \'fork\'',
        ),
        ({"env": "CartPole-v1", "debug": True}, ConfigError, "debug must be False with python="),
        ({"env": "CartPole-v1", "env_kwargs": {"a": object()}}, TypeError, "can't be sent"),
        ({"env": "NoSuchThing-v3"}, UnknownEnvError, "there is no environment 'NoSuchThing-v3'"),
        ({"env": "no_such_module:Id-v0"}, UnknownEnvError, "no_such_module"),
    ],
)
def test_what_can_not_be_done_there_is_one_clear_error(arguments, error, said):
    with pytest.raises(error, match=said):
        shoal.vectorize(**arguments, python=sys.executable)


class Colour(Enum):
    RED = 1


VALUES = [
    {"a": [1, 2.5, None, True, "é", float("inf")], "$b": {3: "x"}},
    (1, (2, [3])),
    {"set": {1, 2}, "bytes": b"\0\xff"},
    np.arange(6, dtype=np.int16).reshape(2, 3),
    np.zeros((0, 3), np.float32),
    np.float32(0.1),
    np.bool_(True),
    np.array(["a", "bc"]),
    Colour.RED,
    10**30,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_messages_give_back_what_went_in(value):
    back = json_messages.loads(json_messages.dumps(value))
    assert type(back) is type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert back.dtype == value.dtype and back.shape == value.shape
        back, value = back.tolist(), value.tolist()
    assert back == value


def test_messages_make_the_vector_run_nothing():
    """Classes are looked up among what is there already; functions are for workers alone."""
    text = json_messages.loads_any(b'{"$enum": ["antigravity", "geohash", "X"]}')
    assert type(text) is json_messages.Foreign and "antigravity" not in sys.modules
    error = json_messages.load_error(b'["os", "getcwd", null, "", "os.getcwd", []]')
    assert type(error) is EmulationError
    from shoal.vectorization.workers.group import call_method

    assert json_messages.loads(json_messages.dumps(call_method)) is call_method
    assert type(json_messages.loads_any(json_messages.dumps_any(call_method))) is Foreign
    with pytest.raises(ValueError, match="unexpected tag"):
        json_messages.loads(b'{"$function": ["os", "getcwd"]}')


LIES = [
    {"$function": ["shoal.registry.install", "install"]},
    {"$function": ["shoal", "emulate"]},
    {"$array": ["|O", [1], False, "AAAAAAAAAAA="]},
    {"$array": ["|V8", [1], False, "AAAAAAAAAAA="]},
    {"$array": ["<i8,|O", [1], False, "AAAAAAAAAAAAAAAAAAAAAA=="]},
    {"$array": ["<i8", [2], False, "AAAAAAAAAAA="]},
    {"$array": ["<i8", [2**62, 4], False, ""]},
    {"$array": ["<i8", [-1], False, ""]},
    {"$array": ["<i8", 1, False, ""]},
    {"$array": []},
    {"$enum": 5},
    {"$dict": [[[], 1]]},
    {"$set": [[1]]},
    {"$bytes": "%%%"},
    {"$what": 1},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_what_no_worker_writes_is_one_clear_error(lie):
    for message in (lie, {"a": [lie]}):
        with pytest.raises(EmulationError, match="sent a message that can't be read"):
            json_messages.loads_any(json.dumps(message).encode())


def test_other_broken_messages_are_one_clear_error():
    for message in (b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000):
        with pytest.raises(EmulationError, match="can't be read"):
            json_messages.loads_any(message)
        assert type(json_messages.load_error(message)) is EmulationError


def test_values_too_deep_arrive_as_text_or_are_refused():
    value = []
    for _ in range(10_000):
        value = [value]
    assert "too deep" in repr(json_messages.loads_any(json_messages.dumps_any([value, 1])))
    with pytest.raises(TypeError, match="nested deeper than 200"):
        json_messages.dumps(value)


def test_a_worker_that_lies_about_its_infos_is_one_clear_error(tmp_path):
    """Its environment has the worker's own writer announce what isn't so."""
    code = """
import gymnasium
from shoal.vectorization.workers import json_messages
from shoal.vectorization.workers.json_messages import Foreign

class Liar(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, lie):
        self.lie = lie

    def reset(self, seed=None, options=None):
        return 0, {}

    def step(self, action):
        honest = json_messages.encode
        def encode(value, *more):
            if type(value) is tuple and len(value) == 4 and type(value[1]) is list:
                value = (value[0], [(0, self.lie)], *value[2:])
            return honest(value, *more)
        json_messages.encode = encode
        return 0, 0.0, False, False, {"x": 1.0}
"""
    name = write(tmp_path / "liar.py", code).replace("create", "Liar")
    first = (None, 0, "", 1)
    for lie in (
        (first, ("x", 5, "O", (2,))),
        (first, ("x", 5, "d", (2**40,))),
        (first, ("x", 5, "d", (-1,))),
        (first, ("x", 4, "O", ())),
        (first, ("x", 1, "d", ()), ("y", 1, "d", ())),
        (first,),
        (("x", 1, "d", ()),),
        (first, (1, 1, "d", ())),
        (first, ("x", 99, "d", ())),
        "nonsense",
    ):
        vector = shoal.vectorize(name, 1, python=sys.executable, env_kwargs={"lie": lie})
        vector.reset()
        with pytest.raises(ShoalError, match=r"infos: a worker"):
            vector.step(np.zeros(1, np.int64))
        vector.close()


DESCRIPTION = json.loads(Description.of(shoal.emulate(Everything(), max_len=3)).to_json())
DESCRIPTION["metadata"] = {"render_fps": 3, "modes": {"$tuple": ["human", None]}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3)
    | st.sampled_from([*DESCRIPTION, "object", "float64", "datetime64[s]", "Sequence", 2**31, -1]),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value, path=()):
    """Yield where each part of a JSON value lies; JSON in text counts."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        value = json.loads(value)
    yield path
    keys = range(len(value)) if isinstance(value, list) else value
    for key in keys if isinstance(value, (list, dict)) else ():
        yield from places(value[key], (*path, key))


def changed(value, path, to):
    """A JSON value with another part in one place."""
    if not path:
        return to
    if isinstance(value, str):
        return json.dumps(changed(json.loads(value), path, to))
    other = value.copy()
    other[path[0]] = changed(value[path[0]], path[1:], to)
    return other


@hypothesis.given(st.sampled_from(list(places(DESCRIPTION))), JSON)
def test_a_description_is_one_that_can_be_or_a_clear_error(path, to):
    lie = changed(DESCRIPTION, path, to)
    try:
        found = Description.from_json(json.dumps(lie))
    except EmulationError as error:
        assert str(error).startswith("a worker described")
        return
    again = Description.from_json(found.to_json())
    assert again.observation_layout == found.observation_layout
    assert found.observation_layout.zeros(1).dtype.kind in "biuf"
    Arena(found, num_envs=2, batch_size=2, num_blocks=3, num_workers=1, control_nbytes=0)
    found.observation_layout.view(found.observation_layout.zeros(1))
    assert found.observation_layout.space is not None and found.action_layout.flat_space is not None


LIARS = {
    "description": """
import shoal.vectorization.description as backend
honest = backend.Description.to_json
backend.Description.to_json = lambda self: honest(self).replace("int64", "object")
""",
    "no description": """
import shoal.vectorization.description as backend
backend.Description.to_json = lambda self: "[" * 100_000
""",
    "too large": """
import shoal.vectorization.description as backend
honest = backend.Description.to_json
fields = lambda self: {**__import__("json").loads(honest(self)), "agents_per_env": 2**20 + 1}
backend.Description.to_json = lambda self: __import__("json").dumps(fields(self))
""",
    "length": """
from shoal.vectorization.workers import worker
worker.send_message = lambda to, message, wait=None: to.send(b"\\xff" * 8)
""",
    "a message that ends early": """
import os
from shoal.vectorization.workers import channel
channel.Outbox.put = lambda self, region, message: os.pwrite(self.fd, b"\\xff\\0", region << 32)
""",
    "an answer": """
from shoal.vectorization.workers import json_messages
honest = json_messages.dumps_any
json_messages.dumps_any = lambda value: b"[1, 2]" if value == {0: 5} else honest(value)
""",
    "an error": """
from shoal.vectorization.workers import json_messages
json_messages.dump_error = lambda *arguments: b'{"a": {}}'
""",
}


@pytest.mark.parametrize("lie", LIARS)
def test_a_worker_that_lies_is_one_clear_error(lie, tmp_path):
    code = (
        LIARS[lie]
        + """
import gymnasium

class Liar(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        return 0, {"x": "y" * 10_000}

    def step(self, action):
        raise ValueError("on purpose")

    def five(self):
        return 5
"""
    )
    name = write(tmp_path / "liar.py", code).replace("create", "Liar")
    with pytest.raises(EmulationError, match=r"^(a worker|worker 0|a message of|the last)"):
        vector = shoal.vectorize(name, 1, python=sys.executable, timeout=60)
        with contextlib.closing(vector):
            vector.reset()
            vector.call("five")
            vector.step(np.zeros(1, np.int64))


def test_what_can_not_cross_arrives_as_text():
    with pytest.raises(TypeError, match=r"threading|_thread"):
        json_messages.dumps({"lock": __import__("threading").Lock()})
    back = json_messages.loads_any(json_messages.dumps_any({"thing": faulty.Faulty, "x": 1}))
    assert back["x"] == 1 and "Faulty" in back["thing"]


@pytest.mark.parametrize("python", [lambda: sys.executable, old_python], ids=["this", "old"])
def test_a_snapshot_goes_on_exactly(python, monkeypatch):
    monkeypatch.chdir(ROOT)  # from where `tests` can be imported
    name = "tests.vectorization.environments:Everything"
    vector = shoal.vectorize(name, 2, python=python(), num_workers=1, max_len=100, seed=3)
    vector.action_space.seed(0)
    vector.reset()
    actions = [vector.action_space.sample() for _ in range(12)]
    for action in actions[:4]:
        vector.step(action)
    state = vector.get_state()
    first = [vector.step(action)[0].tobytes() for action in actions[4:]]
    vector.set_state(state)
    assert [vector.step(action)[0].tobytes() for action in actions[4:]] == first
    vector.close()


def test_infos_of_all_kinds_arrive_as_from_any_worker(tmp_path):
    """Through slots and messages."""
    code = """
import enum
import gymnasium, numpy as np

class Mood(enum.Enum):
    GOOD = 1

class Chatty(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    time = 0

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {"options": options}

    def step(self, action):
        self.time += 1
        info = {"n": self.time, "f": 0.5, "b": True, "none": None, "np": np.int16(3),
                "t": "ab" * self.time, "a": np.arange(3), "deep": {"x": 1.5},
                "flag": np.bool_(False), "tuple": (1, 2)}
        if self.time % 4 == 0:
            info["mood"] = Mood.GOOD
        if self.time % 7 == 0:
            info["big"] = np.zeros(1000)
        return np.zeros(1, np.float32), 0.0, False, False, info

def create():
    return Chatty()
"""
    name = write(tmp_path / "chatty.py", code)
    runs = []
    for how in ({"backend": "serial"}, {"python": sys.executable}, {"python": old_python()}):
        vector = shoal.vectorize(name, 2, **how)
        vector.reset(options={"k": [1, 2]})
        found = [vector.step(np.zeros(2, np.int64))[4] for _ in range(20)]
        runs.append(
            [
                {
                    key: (v.dtype.str, v.tolist())
                    if isinstance(v, np.ndarray)
                    else {k: w.tolist() for k, w in v.items()}
                    for key, v in info.items()
                }
                for info in found
            ]
        )
        vector.close()
    for mine in runs[1:]:
        for step, (ours, theirs) in enumerate(zip(mine, runs[0])):
            for key in theirs:
                if key == "mood":  # of a class that is unknown here
                    assert [str(m)[-4:] for m in ours[key][1]] == ["GOOD", "GOOD"]
                else:
                    assert repr(ours[key]) == repr(theirs[key]), (step, key)
