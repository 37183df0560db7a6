"""The table of environments that work: every recipe, and those that need none.

    python benchmarks/catalogue.py [--steps 10000] [--seconds 3000] [--only NAME ...]

Each environment runs in a process of its own: a check of 300 steps (`shoal.check_env`, where the
environment is), so many steps of one copy, and at most as many of 4 copies in 2 workers, with
random legal actions. What fails keeps its row, with the reason. Writes results/catalogue.md and
.json; with ``--only``, the other rows stay as they were: each can be run where its packages are.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from _common import RESULTS, machine, machine_text, save, table

import shoal
from shoal.registry import recipe as recipes

ROOT = Path(__file__).parents[1]
SECONDS = 10  # of stepping 4 copies at the most
LIMIT = 3600  # seconds for one environment
BATCH = 256  # copies where an environment steps all of them itself
WORKERS = {"retro": 4}  # of 4 copies, where it can't be 2: a process holds one emulator
FAILED = [""] * 7

# PettingZoo's games take the ROMs that come with ale-py.
ALE = importlib.util.find_spec("ale_py")
ROMS = {"auto_rom_install_path": str(Path(ALE.origin or "").parent)} if ALE else {}
WALK = "tests/vectorization/batched_environments.py:TorchWalk"

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
    ("pettingzoo.butterfly.knights_archers_zombies_v11", "pettingzoo", {}),
    ("pettingzoo.sisl.multiwalker_v9", "pettingzoo", {}),
    ("pettingzoo.sisl.pursuit_v5", "pettingzoo", {}),
    ("pettingzoo.atari.pong_v3", "multi-agent-ale-py", {"env_kwargs": ROMS}),
    ("gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv", "gymnasium", {}),
    ("ale_py.vector_env:AtariVectorEnv", "ale-py", {"env_kwargs": {"game": "pong"}}),
    (WALK, "torch", {}),
]

# Why there is no row that works: what was said when it was tried.
ABSENT = {
    "SMACv2": "pip: no matching distribution found for smacv2; and it needs StarCraft II",
    "ManiSkill 3": "sapien: failed to find a rendering device (it needs a GPU with Vulkan)",
    "MicroRTS": "gym-microrts pins gym<0.19, whose setup.py today's setuptools reject",
    "Safety-Gymnasium": "pins pygame==2.1.0, which does not build under Python 3.11",
}

# What else there is to say of a row.
NETHACK = (
    "`reset(seed=...)` of nle leaves NetHack's own generators alone, which is a deviation of the "
    "environment. Shoal seeds them through its `seed` method, so vectors of it are reproducible"
)
NOTES = {
    "BipedalWalker-v3": "its Box2D world outlives resets, so that an episode may depend on those "
    "before it; with a new world at each reset the same seed gives the same episode",
    "nethack, minihack, nle:...": NETHACK,
    "metaworld": "the seed of a reset does not reach the generator of its starts and goals; and "
    "goals that it shows are outside of its space",
    "crafter, procgen": "they take a seed when they are made, and none at a reset",
    "pettingzoo.butterfly.knights_archers_zombies_v11": "the time until the next zombie comes "
    "outlives resets",
    "nasim": "it draws from NumPy's global generator",
    "openspiel": "shimmy makes a new generator at every reset that is given no seed",
    "pogema": "the seed of a reset does not reach the map; that of its settings does",
    "slimevolley": "what the opponent remembers outlives resets",
    "retro": "a process holds one emulator, so that its 4 copies run in 4 workers",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3000, help="of one copy at the most")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measure this one, in this process
    args = parser.parse_args()
    if args.one:
        print(json.dumps(row(args.one, args.steps, args.seconds)))
        return
    names = [*recipes.names(), *(name for name, _, _ in PLAIN)]
    file = RESULTS / "catalogue.json"
    for name in args.only or names:
        columns = in_process(name, args.steps, args.seconds)
        print(name, columns, flush=True)
        rows = json.loads(file.read_text())["rows"] if file.exists() else {}
        write(names, {**rows, name: columns}, args.steps)


def write(names: list[str], rows: dict[str, list[str]], steps: int) -> None:
    """Write the table of all rows that there are."""
    head = ["environment", "version", "interface", "observation", "actions", "agents", "check"]
    head += ["alone", "many"]
    lines = [[name, *rows[name]] for name in names if name in rows]
    lines += [[name, *FAILED, reason] for name, reason in ABSENT.items()]
    about = machine("gymnasium", "pettingzoo", "numpy")
    works = sum(line[-1][:1].isdigit() for line in lines)
    notes = "\n".join(f"- {name}: {note}" for name, note in NOTES.items())
    text = (
        f"# The catalogue\n\n{machine_text(about)}\n\n{works} of {len(lines)} environments work: "
        f"one copy of each has run {steps:,} steps with random legal actions, or as many as there "
        "are in parentheses. The last two columns are agent steps per second of that copy, and of "
        f"4 copies in 2 workers, or of {BATCH} where an environment steps all copies itself. (This "
        "run shared its 2 cores with much other work, so it tells what runs, and not how fast.)\n\n"
        f"{table(head, lines)}\n\n{notes}"
    )
    save("catalogue", text, {"machine": about, "rows": rows})


def in_process(name: str, steps: int, seconds: float) -> list[str]:
    """The columns of one environment, or the reason why there are none."""
    command = [sys.executable, __file__, "--steps", str(steps), "--seconds", str(seconds)]
    command += ["--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        said = done.stderr.strip().splitlines() or ["ended without a word"]
        reason = next((line for line in said[::-1] if "Error" in line), said[-1])
    except subprocess.TimeoutExpired:
        reason = f"took longer than {LIMIT} seconds"
    return [*FAILED, reason.replace("|", "/")[:160]]


def row(name: str, steps: int, seconds: float) -> list[str]:
    """The columns of one environment."""
    recipe = recipes.find(name)
    package, how = next(((package, how) for each, package, how in PLAIN if each == name), ("", {}))
    if recipe is not None:
        package = recipe.install[-1][-1]
    checked, interface = check(name, how, steps=300)
    with contextlib.closing(shoal.vectorize(name, 1, backend="serial", seed=0, **how)) as vector:
        layout = vector.observation_layout
        observation = f"{len(layout.leaves)} leaves, {layout.nbytes:,} bytes"
        if len(layout.leaves) == 1:
            shape = "×".join(map(str, layout.shape)) or "scalar"
            observation = f"{shape} {layout.dtype}"
        actions = describe(vector.single_action_space)
        agents = str(vector.agents_per_env)
        alone = rate(vector, steps, seconds)
    four = {"backend": "multiprocess", "num_workers": WORKERS.get(name, 2)}
    many = {"num_envs": BATCH} if interface == "batched" else {"num_envs": 4, **four}
    with contextlib.closing(shoal.vectorize(name, seed=0, **many, **how)) as vector:
        together = rate(vector, max(steps, 200 * vector.num_envs), SECONDS).partition(" ")[0]
    about = [found_version(package, recipe), interface, observation, actions, agents, checked]
    return [*about, alone, together]


def check(name: str, how: dict[str, Any], steps: int) -> tuple[str, str]:
    """The codes of the faults that checking an environment finds, and which interface it has."""
    from shoal.emulation.check.questions import faults_of, report_from
    from shoal.emulation.interfaces import is_multi_agent
    from shoal.registry.creators import find_source

    source = find_source(name, 1, how.get("env_kwargs"))
    if source.kind == "isolated":
        with contextlib.closing(shoal.vectorize(name, 1)) as vector:
            answer = vector.call_on([0], faults_of, steps, 0)[0]
        interface = "own interpreter"
    elif source.kind == "batched":  # nobody can replay one copy; its values can be checked
        with contextlib.closing(shoal.vectorize(name, 2, debug=True, seed=0, **how)) as vector:
            rate(vector, steps)
        return "ok", "batched"
    else:
        env = source.creators[0]()
        interface = "Gymnasium"
        if is_multi_agent(env):
            interface = "PettingZoo " + ("AEC" if hasattr(env, "agent_iter") else "parallel")
        answer = faults_of(env, steps, 0)
        if hasattr(env, "close"):
            env.close()
    found = {each.code for each in report_from(answer).findings if each.severity == "error"}
    return ", ".join(sorted(found)) or "ok", interface


def rate(vector: Any, steps: int, seconds: float = float("inf")) -> str:
    """Agent steps per second; and how many environment steps it was, if time was up before."""
    from shoal.vectorization.auto import drive

    driven = drive(vector, seed=0)
    next(driven)  # the first warms up
    done = alive = 0
    begin = time.perf_counter()
    for batch, _ in itertools.islice(driven, -(-steps // vector.num_envs)):
        done += vector.num_envs
        alive += int(batch.masks.sum())
        if time.perf_counter() > begin + seconds:
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
    if isinstance(space, spaces.MultiBinary):
        return f"{space.n} bits"
    if isinstance(space, spaces.Dict):
        return ", ".join(describe(part) for part in space.values())
    return f"{'×'.join(map(str, space.shape or ()))} continuous"


def found_version(package: str, recipe: recipes.Recipe | None) -> str:
    """A distribution with its version, as it is installed here or in the recipe's environment."""
    name = package.partition("=")[0].partition(">")[0]
    path = sys.path
    if recipe and recipe.python:
        path = [str(each) for each in recipe.folder.glob("venv/lib/python*/site-packages")]
    return next((f"{name} {each.version}" for each in distributions(name=name, path=path)), name)


if __name__ == "__main__":
    main()
