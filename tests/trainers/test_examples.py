"""What stands in examples/ does what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shoal

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


@pytest.mark.slow
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
