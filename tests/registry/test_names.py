"""Names of environments: what they make, here and in a fresh process, and how unknown ones fail."""

import multiprocessing
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from shoal.errors import EmulationError, UnknownEnvError
from shoal.registry import names as make
from shoal.registry.names import creator

FILE = """
from dataclasses import dataclass

import gymnasium
import beside_it

@dataclass
class Config:
    size: int

class Sized(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config):
        self.config = config

def make(size=beside_it.SIZE):
    return Sized(Config(size))

number = 3
"""


@pytest.fixture
def env_file(tmp_path):
    (tmp_path / "beside_it.py").write_text("SIZE = 7\n")
    path = tmp_path / "my_env.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("CartPole-v1", "CartPoleEnv"),
        ("gymnasium.envs.classic_control.cartpole:CartPoleEnv", "CartPoleEnv"),
        ("gymnasium.envs.classic_control.cartpole.CartPoleEnv", "CartPoleEnv"),
        ("nle:NetHackScore-v0", "NetHackScore"),
        ("NetHackScore-v0", "NetHackScore"),
        ("CliffWalking-v1", "CliffWalkingEnv"),
        ("ale_py:ALE/Pong-v5", "AtariEnv"),
        ("ALE/Pong-v5", "AtariEnv"),
        ("MiniGrid-Empty-5x5-v0", "EmptyEnv"),
    ],
)
def test_single_agent_names(name, class_name):
    env = creator(name)()
    assert isinstance(env, gymnasium.Env)
    assert type(env.unwrapped).__name__ == class_name
    env.close()


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("pettingzoo.butterfly.pistonball_v6", True),
        ("pettingzoo.butterfly.pistonball_v6.parallel_env", True),
        ("pettingzoo.butterfly.pistonball_v6:env", False),
        ("mpe2.simple_spread_v3", True),
        ("pettingzoo.classic.tictactoe_v3", False),
    ],
)
def test_multi_agent_names(name, parallel):
    env = creator(name)()
    assert env.possible_agents
    assert hasattr(env, "agent_iter") is not parallel
    env.close()


def test_arguments_reach_the_environment(env_file):
    assert creator("mpe2.simple_spread_v3", N=5)().max_num_agents == 5
    assert creator("CartPole-v1", render_mode="rgb_array")().render_mode == "rgb_array"
    assert creator(f"{env_file}:make", size=2)().config.size == 2


def test_a_file_is_found_from_elsewhere_and_loaded_once(env_file, monkeypatch, tmp_path):
    monkeypatch.chdir(env_file.parent)
    made = creator("my_env.py:make")
    monkeypatch.chdir("/")
    first, second = made(), made()
    assert first.config.size == 7
    assert type(first) is type(second) and first is not second


def _size_of(data):
    return pickle.loads(data)().config.size


def test_a_creator_travels_to_a_spawned_process(env_file):
    data = pickle.dumps(creator(f"{env_file}:make", size=9))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_size_of, (data,)) == 9


def test_a_creator_imports_the_plug_in_where_it_lands():
    data = pickle.dumps(creator("nle:NetHackScore-v0"))
    code = f"import pickle; print(type(pickle.loads({data!r})().unwrapped).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "NetHackScore", done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cartpole-v1", "did you mean CartPole-v1"),
        ("CartPole-v7", "did you mean CartPole-v1"),
        ("NetHakScore-v0", "did you mean NetHackScore-v0"),
        ("nle:NetHackScoer-v0", "did you mean NetHackScore-v0"),
        ("ale_py:ALE/Pongg-v5", "did you mean ALE/Pong-v5"),
        ("pettingzoo.butterfly.pistonball_v5", "did you mean pistonball_v6"),
        ("pettingzoo.mpe.simple_v3", "pip install mpe2"),
        ("pettingzoo.utils.conversions", "expected a module with a function parallel_env or env"),
        ("pettingzoo", "module:Id"),
        ("no_such_package_:Env-v0", "No module named 'no_such_package_'"),
        ("no.such.package", "No module named 'no'"),
        ("/no/such/file.py:make", "there is no file /no/such/file.py"),
    ],
)
def test_unknown_names_say_what_is_near(name, said):
    with pytest.raises(UnknownEnvError) as caught:
        creator(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, EmulationError)


def test_a_file_says_which_functions_it_has(env_file):
    with pytest.raises(UnknownEnvError, match=r"did you mean make\?"):
        creator(f"{env_file}:mak")
    with pytest.raises(UnknownEnvError, match="say which function"):
        creator(str(env_file))
    with pytest.raises(UnknownEnvError, match="has no environment 'number'"):
        creator(f"{env_file}:number")


def test_a_file_that_fails_raises_its_own_error_each_time(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            creator(f"{path}:make")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("NetHackScore-v0", "nle", "pip install '.[nethack]'"),
        ("nle:NetHackScore-v0", "nle", "pip install '.[nethack]'"),
        ("ALE/Pong-v5", "ale_py", "pip install '.[atari]'"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "pip install minigrid"),
        ("mpe2.simple_spread_v3", "mpe2", "pip install mpe2"),
        ("pettingzoo.butterfly.pistonball_v6", "pettingzoo", "pip install '.[pettingzoo]'"),
        ("pettingzoo.butterfly.pistonball_v6", "pymunk", "pip install 'pettingzoo[butterfly]'"),
    ],
)
def test_a_missing_package_is_named_with_what_brings_it(name, module, extra):
    """In a process of its own, in which the package can't be imported."""
    code = f"""
import importlib.abc, sys
class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Gone())
from shoal.registry.names import creator
try:
    creator({name!r})
except LookupError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert extra in done.stdout, done.stderr


def test_every_plug_in_that_is_guessed_says_how_to_install_it():
    others = set(make.PREFIXES.values()) - {"shoal.envs"}  # which is always there
    assert others <= set(make.PACKAGES)


def rollout(env, seed, steps=40):
    """Every observation of a seeded episode's beginning, and the first of the next episode."""

    def copied(observation):  # the game writes the next one into the same arrays
        return {key: value.copy() for key, value in observation.items()}

    found = [copied(env.reset(seed=seed)[0])]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        found.append(copied(env.step(rng.integers(env.action_space.n))[0]))
    found.append(copied(env.reset()[0]))
    env.close()
    return found


def test_nethack_reproduces_from_its_seed():
    made = creator("nle:NetHackScore-v0")
    first, again, other = (rollout(made(), seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(first, again) for k in a)
    assert any(not np.array_equal(a[k], b[k]) for a, b in zip(first, other) for k in a)
    assert not np.array_equal(first[0]["glyphs"], first[-1]["glyphs"])


def test_nethack_challenge_allows_no_seed_and_says_so():
    env = creator("nle:NetHackChallenge-v0")()
    with pytest.warns(UserWarning, match="seed has no effect"):
        env.reset(seed=1)
    env.close()
