"""What stands in examples/ does what it says."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium
import pytest

import shoal
from shoal.trainers.config import from_dict

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]


def run(arguments, folder):
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_environment_and_a_policy_of_ones_own(tmp_path):
    pytest.importorskip("tyro")
    file = EXAMPLES / "train_your_own.py"
    own = [f"{file}:make", "--policy", f"{file}:Policy", "--name", "own", "--total-steps", "20_000"]
    fast = ["--num-workers=0", "--learning-rate=3e-3", "--horizon=64", "--torch-threads=1"]
    run(["train", *own, *fast], tmp_path)
    score = ["--episodes", "100", "--json", "--num-envs", "4"]
    trained = json.loads(run(["eval", "own", *score], tmp_path))
    random = json.loads(run(["eval", f"{file}:make", *score], tmp_path))
    assert trained["return"] > 1.9 and trained["length"] < 20 < random["length"]
    last = json.loads((tmp_path / "runs/own/metrics.jsonl").read_text().splitlines()[-1])
    assert last["episode/delivered"] > 0.9  # a number of its own


def test_that_environment_is_sound():
    from importlib.util import module_from_spec, spec_from_file_location

    pytest.importorskip("torch")
    spec = spec_from_file_location("train_your_own", EXAMPLES / "train_your_own.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert shoal.check_env(module.make(), steps=500).ok


def test_the_config_of_the_demo_is_one_and_its_policy_sees_nethack():
    torch = pytest.importorskip("torch")
    pytest.importorskip("nle")
    config = from_dict(tomllib.loads((EXAMPLES / "nethack.toml").read_text()))
    sys.path.insert(0, str(EXAMPLES))
    try:
        import nethack
    finally:
        sys.path.remove(str(EXAMPLES))
    env = shoal.emulate(gymnasium.make("NetHackScore-v0", **config.env_kwargs))
    policy = nethack.Policy(env.observation_layout, env.action_layout, config)
    row, _ = env.reset(seed=1)
    rows = torch.from_numpy(row[None].copy())
    seen = env.observation_layout.view(rows)
    x, y = seen["blstats"][:, 0], seen["blstats"][:, 1]
    near = nethack.crop(seen["chars"], x, y)
    assert chr(near[0, nethack.REACH, nethack.REACH]) == "@"  # oneself, in the middle
    assert (near[0] == ord("@")).sum() == 1
    parameters, values = policy.decode(policy.encode(rows))
    assert parameters.shape == (1, 23) and values.shape == (1,)

    there = torch.zeros(2, 9, dtype=torch.bool)
    there[0, [1, 5, 8]] = True
    side, near, any_ = nethack.nearest(there, torch.tensor([6, 0])).T
    assert side.tolist() == [-1, 0] and near.tolist() == [0.5, 0] and any_.tolist() == [1, 0]
