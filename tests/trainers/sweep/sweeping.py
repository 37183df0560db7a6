"""A sweep over fake runs: for tests, and as a process that tests kill.

python -m tests.trainers.sweep.sweeping FOLDER RUNS PARALLEL
"""

import json
import subprocess
import sys
from pathlib import Path

from shoal.trainers.config import Config
from shoal.trainers.sweep import run
from shoal.trainers.sweep.study import Plan, create, read_plan

FAKE = Path(__file__).with_name("fake_run.py")


def start_fake(command, log, slot, parallel, device):
    """Replace `run.start`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, str(FAKE), "", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def make_plan(root, faults=None, **changes):
    """Make the folder of a sweep over fake runs."""
    (root / "faults.json").write_text(json.dumps(faults or {}))
    tables = {
        "learning_rate": {"distribution": "log", "low": 1e-4, "high": 1e-2},
        "total_steps": {"distribution": "log", "low": 1000, "high": 8000},
    }
    options = {"sampler": "random", "early_stop": False, **changes}
    plan = Plan(root / "sweep", Config(env="squared", total_steps=4000), tables, **options)
    create(plan)
    return plan


def attempts(root):
    """Return how often each run was trained from its beginning, and how often gone on with."""
    lines = (root / "attempts.txt").read_text().split("\n")[:-1]
    return [tuple(line.split()) for line in lines]


if __name__ == "__main__":
    run.start = start_fake
    run.POLL = 0.02
    folder, runs, parallel = sys.argv[1:]
    plan = read_plan(Path(folder))
    sys.exit(0 if run.sweep(plan, int(parallel)) else 130)
