"""The table of environments that work: every recipe, and those that need none.

    python benchmarks/catalogue.py [--steps 10000] [--only NAME ...]

Each environment runs in a process of its own: a check of 300 steps (`shoal.check_env`, where it
lives beside Shoal), so many steps of one copy, and as many of 4 copies in 2 workers, with random
legal actions. What fails keeps its row, with the reason. Writes results/catalogue.md and .json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from _common import RESULTS, machine, machine_text, save, table

import shoal
from shoal.emulation import recipes

SECONDS = 10  # of stepping at the most, for each of the two measurements
LIMIT = 240  # seconds for one environment

# Name, distribution, and what `shoal.vectorize` needs beside it.
PLAIN: list[tuple[str, str, dict[str, Any]]] = [
    *[
        (name, "gymnasium", {})
        for name in (
            "CartPole-v1",
            "Acrobot-v1",
            "MountainCarContinuous-v0",
            "Pendulum-v1",
            "LunarLander-v3",
            "BipedalWalker-v3",
            "Blackjack-v1",
            "FrozenLake-v1",
            "CliffWalking-v1",
            "Taxi-v4",
            "Hopper-v5",
            "HalfCheetah-v5",
            "Ant-v5",
            "Humanoid-v5",
        )
    ],
    ("nle:NetHackScore-v0", "nle", {}),
    ("nle:NetHackChallenge-v0", "nle", {}),
    ("ALE/Breakout-v5", "ale-py", {}),
    ("ALE/MontezumaRevenge-v5", "ale-py", {}),
    ("MiniGrid-MultiRoom-N6-v0", "minigrid", {"max_len": {"mission": 100}}),
    ("pettingzoo.butterfly.pistonball_v6", "pettingzoo", {}),
    ("pettingzoo.butterfly.cooperative_pong_v6", "pettingzoo", {}),
    ("pettingzoo.classic.tictactoe_v3", "pettingzoo", {}),
    ("pettingzoo.classic.connect_four_v3", "pettingzoo", {}),
    ("pettingzoo.classic.texas_holdem_v4", "pettingzoo", {}),
    ("pettingzoo.classic.leduc_holdem_v4", "pettingzoo", {}),
    ("mpe2.simple_spread_v3", "mpe2", {}),
    ("mpe2.simple_tag_v3", "mpe2", {"pad": True}),
    ("mpe2.simple_speaker_listener_v4", "mpe2", {"pad": True}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measure this one, in this process
    args = parser.parse_args()
    if args.one:
        print(json.dumps(row(args.one, args.steps)))
        return
    names = [*recipes.names(), *(name for name, _, _ in PLAIN)]
    file = RESULTS / "catalogue.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for name in args.only or names:
        rows[name] = in_process(name, args.steps)
        print(name, rows[name], flush=True)
    head = ["environment", "version", "interface", "observation", "actions", "agents", "check"]
    head += ["alone", "4 copies"]
    lines = [[name, *rows[name]] for name in names if name in rows]
    about = machine("gymnasium", "pettingzoo", "numpy")
    works = sum(len(line) == len(head) and line[-1][:1].isdigit() for line in lines)
    text = (
        f"# The catalogue\n\n{machine_text(about)}\n\n{works} of {len(lines)} environments work. "
        "The last two columns are agent steps per second with random legal actions: of one copy "
        "alone, and of 4 copies in 2 workers. Numbers in parentheses: steps that were run, where "
        f"{args.steps:,} would have taken longer than {SECONDS} seconds.\n\n{table(head, lines)}"
    )
    save("catalogue", text, {"machine": about, "rows": rows})


def in_process(name: str, steps: int) -> list[str]:
    """The columns of one environment, or the reason why there are none."""
    command = [sys.executable, __file__, "--steps", str(steps), "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        said = done.stderr.strip().splitlines() or ["ended without a word"]
        reason = next((line for line in said[::-1] if "Error" in line), said[-1])
    except subprocess.TimeoutExpired:
        reason = f"took longer than {LIMIT} seconds"
    return ["", "", "", "", "", "", "", reason.replace("|", "/")[:160]]


def row(name: str, steps: int) -> list[str]:
    """The columns of one environment."""
    how: dict[str, Any] = {}
    package = next((package for each, package, _ in PLAIN if each == name), "")
    for each, _, options in PLAIN:
        if each == name:
            how = options
    recipe = recipes.find(name)
    checked, interface = "", "Gymnasium"
    if recipe is not None:
        package = recipe.install[-1][-1]
    if recipe is None or not recipe.python:
        from shoal.emulation import is_multi_agent
        from shoal.vectorization import creator

        env = creator(recipe.creator if recipe else name, **(recipe.kwargs if recipe else {}))()
        if is_multi_agent(env):
            interface = "PettingZoo " + ("AEC" if hasattr(env, "agent_iter") else "parallel")
        report = shoal.check_env(env, steps=300)
        found = {finding.code for finding in report.findings if finding.severity == "error"}
        checked = ", ".join(sorted(found)) or "ok"
        if hasattr(env, "close"):
            env.close()
    else:
        interface = "own interpreter"
    with contextlib.closing(shoal.vectorize(name, 1, seed=0, **how)) as vector:
        alone = rate(vector, steps)
        observation = f"{len(vector.observation_layout.leaves)} leaves, "
        observation += f"{vector.observation_layout.nbytes:,} bytes"
        if len(vector.observation_layout.leaves) == 1:
            shape = "×".join(map(str, vector.observation_layout.shape)) or "scalar"
            observation = f"{shape} {vector.observation_layout.dtype}"
        actions = describe(vector.single_action_space)
        agents = str(vector.agents_per_env)
    four = {"backend": "multiprocess", "num_workers": 2}
    with contextlib.closing(shoal.vectorize(name, 4, seed=0, **four, **how)) as vector:
        together = rate(vector, steps)
    return [
        found_version(package),
        interface,
        observation,
        actions,
        agents,
        checked,
        alone,
        together,
    ]


def rate(vector: Any, steps: int) -> str:
    """Agent steps per second, and how many environment steps it was where not all were run."""
    from shoal.vectorization.auto import drive

    driven = drive(vector, seed=0)
    next(driven)  # the first warms up
    done = alive = 0
    begin = time.perf_counter()
    for batch, _ in itertools.islice(driven, -(-steps // vector.num_envs)):
        done += vector.num_envs
        alive += int(batch.masks.sum())
        if time.perf_counter() > begin + SECONDS:
            break
    text = f"{alive / (time.perf_counter() - begin):,.0f}"
    return text if done >= steps else f"{text} ({done:,})"


def describe(space: Any) -> str:
    """A space of actions in a few words."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return f"{space.n} choices"
    if isinstance(space, spaces.MultiDiscrete):
        return f"{len(space.nvec)} of {' '.join(map(str, space.nvec))} choices"
    return f"{'×'.join(map(str, space.shape or ()))} continuous"


def found_version(package: str) -> str:
    """A distribution with its version: the installed one, or that which a recipe pins."""
    name = package.partition("=")[0].partition(">")[0]
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return package.replace("==", " ")


if __name__ == "__main__":
    main()
