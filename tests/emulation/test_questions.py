"""Looking at environments whose recipe has an interpreter of its own: as at any other."""

import re
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.registry import recipe as recipes
from tests.other_python import old_gym_python, old_python

# Runs here and there. Its faults are the same whatever the actions are.
CODE = """
import numpy as np
try:
    from gym.spaces import Box, Dict, Discrete
except ImportError:
    from gymnasium.spaces import Box, Dict, Discrete

class Old:
    metadata = {"render.modes": ["human", "rgb_array"]}
    observation_space = Dict({"at": Box(0, 9, (2,), np.float32), "kind": Discrete(3)})
    action_space = Discrete(4)

    def seed(self, seed=None):
        self.random = np.random.RandomState(seed)

    def reset(self):
        self.time = 0
        return self.look()

    def look(self):
        at = self.random.uniform(0, 9, 2).astype(np.float32)
        return {"at": at + 9 * (self.time == 3), "kind": 1}

    def step(self, action):
        assert action in range(4)
        self.time += 1
        return self.look(), 0.5, self.time == 7, {}

    def render(self, mode="human"):
        if mode != "rgb_array":
            raise RuntimeError("no screen")
        return np.full((16, 32, 3), 10 * self.time, np.uint8)

class Pair:
    possible_agents = ["tall", "small"]

    def __init__(self):
        self.agents = list(self.possible_agents)

    def observation_space(self, agent):
        return Box(0, 1, (3 if agent == "tall" else 2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: self.look(agent) for agent in self.agents}, {}

    def look(self, agent):
        return np.zeros(self.observation_space(agent).shape, np.float32)

    def step(self, actions):
        flags = dict.fromkeys(self.agents, False)
        seen = {agent: self.look(agent) for agent in self.agents}
        return seen, dict.fromkeys(self.agents, 1.0), flags, flags, {}

    def close(self):
        pass
"""


@pytest.fixture(params=[old_gym_python, old_python], ids=["gym", "gymnasium"])
def recipe(request, tmp_path, monkeypatch):
    """A function: the recipe file of a class in `CODE`, installed in an older interpreter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    venv = Path(request.param()).parents[1]
    (tmp_path / "old_env.py").write_text(CODE)

    def write(name):
        file = tmp_path / f"{name}.toml"
        file.write_text(f'summary = "old"\nenv = "old_env.py:{name}"\npython = ["3.9"]\n')
        found = recipes.find(str(file))
        found.folder.mkdir(parents=True)
        (found.folder / "venv").symlink_to(venv)
        (found.folder / "installed").touch()
        return file

    return write


def output(capsys, *arguments, status=0):
    """What the command prints, but for the environment's name."""
    assert main([*map(str, arguments)]) == status
    return capsys.readouterr().out.replace(str(arguments[1]), "ENV")


@pytest.mark.parametrize("name", ["Old", "Pair"])
def test_it_is_described_as_any_other(name, recipe, capsys):
    file = recipe(name)
    here = output(capsys, "describe", f"{file.parent / 'old_env.py'}:{name}")
    assert output(capsys, "describe", file) == f"{name}: old\n\n{here}"
    assert "discrete" in here and ("of 2 kinds" in here) == (name == "Pair")


@pytest.mark.filterwarnings("ignore:.*old gym interface:UserWarning")
@pytest.mark.parametrize("name", ["Old", "Pair"])
def test_its_faults_are_those_of_any_other(name, recipe, capsys):
    file = recipe(name)
    status = int(name == "Old")
    command = "check", file, "--steps", "40", "--seed", "3"
    here = f"{file.parent / 'old_env.py'}:{name}"
    there = output(capsys, *command, status=status)
    assert there == output(capsys, "check", here, *command[2:], status=status)
    assert f"{name}: 40 steps" in there
    if name == "Old":
        assert re.search(r"error\[bounds\] obs\.at, episode 1, step 3: .*\(6 times\)", there)


def test_it_can_be_run(recipe, capsys, request):
    file = recipe("Old")
    steps = "--steps", "70", "--num-envs", "2"
    out = output(capsys, "run", file, *steps, "--backend", "multiprocess")
    assert out.startswith("ENV: 1 agent\n\nobservation\n")
    assert "2 environments\n140 steps in" in out
    assert "20 episodes ended: return 3.5 (3.5 to 3.5), length 7 (7 to 7)" in out
    measured = request.node.callspec.id == "gymnasium"  # which draws the actions
    why_not = "\nemulation overhead: not measured, for there is no Gymnasium"
    assert ("per step; the bare step takes" if measured else why_not) in out


@pytest.mark.parametrize("recipe", [old_gym_python], indirect=True, ids=["gym"])
def test_it_can_be_filmed(recipe, tmp_path):
    imageio = pytest.importorskip("imageio")
    from shoal.trainers.evaluate import evaluate

    evaluate(None, str(recipe("Old")), 1, video=tmp_path / "film.gif")
    frames = imageio.mimread(tmp_path / "film.gif")
    assert [int(frame[0, 0, 0]) for frame in frames] == [10 * i for i in range(8)]
