"""Workers under another interpreter, beside those under this one and beside no workers at all.

    python benchmarks/isolated.py [--python OTHER ...] [--only dungeon nmmo] [--busy]

`dungeon`: NetHack's observations, with steps that take no time and steps as long as NetHack's. Each
interpreter named needs NumPy and Gymnasium. The default is this interpreter, isolated.

Bar: 0.9 × the throughput of workers under this interpreter, with steps as long as NetHack's.

`nmmo`: Neural MMO 2, as its recipe installs it (``shoal env install nmmo``), with random legal
actions. In turns, a vector steps four copies from the beginning of their games, and then its two
workers play the same again, with the same actions, by themselves and with nothing of Shoal's
("bare"). How long a step takes depends on how many agents live and where: so both step the same
states, and those where most live, as they do when they are trained.

Bars: 0.9 × the agent steps per second of bare copies on as many cores; emulation adds no more than
0.1 of the time that the environment takes by itself.

Processor time is that of this process and of the workers together. Rates need a machine without
other work; with ``--busy`` they are left out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LEAVES = {
    "blstats": ((27,), np.int64),
    "chars": ((21, 79), np.uint8),
    "colors": ((21, 79), np.uint8),
    "glyphs": ((21, 79), np.int16),
    "inv_glyphs": ((55,), np.int16),
    "inv_letters": ((55,), np.uint8),
    "inv_oclasses": ((55,), np.uint8),
    "inv_strs": ((55, 80), np.uint8),
    "message": ((256,), np.uint8),
    "screen_descriptions": ((21, 79, 80), np.uint8),
    "specials": ((21, 79), np.uint8),
    "tty_chars": ((24, 80), np.uint8),
    "tty_colors": ((24, 80), np.int8),
    "tty_cursor": ((2,), np.uint8),
}
FILE = Path(__file__).resolve()


# -- in the workers ---------------------------------------------------------------------------


class Dungeon(gymnasium.Env):
    """Has NetHack's observations and infos; its step takes so many seconds of a core."""

    observation_space = spaces.Dict(
        {
            name: spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype)
            for name, (shape, dtype) in LEAVES.items()
        }
    )
    action_space = spaces.Discrete(23)

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        rng = np.random.default_rng(0)
        self.observation = {
            name: rng.integers(100, size=shape).astype(dtype)
            for name, (shape, dtype) in LEAVES.items()
        }

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        return self.observation, {}

    def step(self, action):  # type: ignore[no-untyped-def]
        if self.seconds:
            end = time.thread_time() + self.seconds
            while time.thread_time() < end:
                pass
        return self.observation, 0.0, False, False, {"end_status": 0, "is_ascended": False}

    def processor(self) -> float:
        return time.process_time()


class Watched:
    """Adds up the seconds that an environment's own steps and resets take."""

    def __init__(self, env: Any):
        self.env, self.seconds = env, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **kwargs: Any) -> Any:
        return self.watch(self.env.reset, **kwargs)

    def step(self, actions: Any) -> Any:
        return self.watch(self.env.step, actions)

    def watch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        self.seconds += time.perf_counter() - begin
        return result


class NeuralMMO:
    """Neural MMO as its recipe makes it, and another copy of it, which plays the same games later.

    The other is made with the same packages, but without what the recipe puts around it.
    """

    def __init__(self, create: str):
        from shoal.registry.names import creator

        make = creator(create)
        self.env, self.other = make(), make().env
        self.watched = self.env.env = Watched(self.env.env)
        self.played: list[tuple[str, Any]] = []  # since the other played last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.played.append(("reset", seed))
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        self.played.append(("step", actions))
        return self.env.step(actions)

    def processor(self) -> tuple[float, float]:
        """Processor time of this process so far, and the seconds of the environment's own steps."""
        return time.process_time(), self.watched.seconds

    def bare(self) -> tuple[float, float]:
        """Let the other copy play the same: seconds and processor time of that."""
        wall, cpu = time.perf_counter(), time.thread_time()
        for what, argument in self.played:
            if what == "step":
                self.seen = self.other.step(argument)  # as who plays holds it until the next
            else:
                self.other.reset(seed=argument)
        found = time.perf_counter() - wall, time.thread_time() - cpu
        assert list(self.other.agents) == list(self.env.agents), "it was another game"
        self.played.clear()
        return found


# -- here -------------------------------------------------------------------------------------


def dungeon(pythons: list[str], rounds: int, steps: int) -> list[list[str]]:
    """Rows of the table: how fast workers under each interpreter are."""
    import shoal

    rows = []
    for microseconds in (0, 33):
        how = {
            "num_workers": 2,
            "env_kwargs": {"seconds": microseconds / 1e6},
            "backend": "multiprocess",
        }
        vectors = [shoal.vectorize(f"{FILE}:Dungeon", 16, **how)]
        vectors += [shoal.vectorize(f"{FILE}:Dungeon", 16, python=p, **how) for p in pythons]
        actions = np.zeros(16, np.int64)
        walls: list[list[float]] = [[] for _ in vectors]
        cpus: list[list[float]] = [[] for _ in vectors]
        for vector in vectors:
            vector.reset()
        for _ in range(rounds):
            for vector, wall, cpu in zip(vectors, walls, cpus):
                before = vector.call_on([0, 15], "processor")
                begin, cpu_begin = time.perf_counter(), time.process_time()
                for _ in range(steps):
                    vector.step(actions)
                seconds, used = time.perf_counter() - begin, time.process_time() - cpu_begin
                used += sum(vector.call_on([0, 15], "processor")) - sum(before)
                wall.append(seconds / steps / 16)
                cpu.append(used / steps / 16)
        for vector in vectors:
            vector.close()
        for python, wall, cpu in zip(["this one", *map(version_of, pythons)], walls, cpus):
            rows.append(
                [
                    f"{microseconds} µs",
                    python,
                    f"{statistics.median(cpu) * 1e6:.1f} µs",
                    f"{ratio(cpus[0], cpu):.2f}",
                    f"{1 / statistics.median(wall):,.0f}",
                    f"{ratio(walls[0], wall):.2f}",
                ]
            )
    return rows


def ratio(base: list[float], mine: list[float]) -> float:
    """The median over the rounds of how much less `mine` takes."""
    return statistics.median(a / b for a, b in zip(base, mine))


def version_of(python: str) -> str:
    """What to call an interpreter."""
    code = (
        "import sys, numpy; print('Python %d.%d' % sys.version_info[:2] + ', NumPy ' + "
        "numpy.__version__)"
    )
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def nmmo(rounds: int, steps: int) -> list[list[str]]:
    """Rows of the table of Neural MMO; none if it isn't installed."""
    import shoal
    from shoal.registry.recipe import find
    from shoal.rows.actions import RandomActions

    recipe = find("nmmo")
    if recipe is None or not recipe.interpreter.exists():
        return []
    vector = shoal.vectorize(
        f"{FILE}:NeuralMMO",
        4,
        backend="multiprocess",
        num_workers=2,
        python=str(recipe.interpreter),
        env_kwargs={"create": f"{recipe.file.with_suffix('.py')}:create"},
        seed=0,
        profile=True,
    )
    layout = vector.action_layout
    rows = {"actions": layout.flat.zeros(vector.num_rows)}
    choose = RandomActions(layout, seed=0)
    bare_rates, rates, factors, parts, bare_costs, costs = [], [], [], [], [], []
    for i in range(rounds + 1):
        vector.reset(seed=10 * i)
        vector.call("bare")
        before = np.array(vector.call("processor"))
        vector.profile()
        since = time.perf_counter()
        wall = cpu = 0.0
        alive = 0
        for _ in range(steps):
            rows["action_masks"] = vector.action_masks
            choose(rows)
            begin, cpu_begin = time.perf_counter(), time.process_time()
            vector.send(rows["actions"])
            batch = vector.recv()
            wall += time.perf_counter() - begin
            cpu += time.process_time() - cpu_begin
            alive += int(batch.masks.sum())
        shares, elapsed = vector.profile(), time.perf_counter() - since
        used = np.array(vector.call("processor")) - before
        workers, own = used[[0, 2], 0].sum(), used[:, 1].sum()
        bare = np.array(vector.call("bare"))
        if i == 0:  # to warm up
            continue
        bare_rates.append(alive / max(bare[:2, 0].sum(), bare[2:, 0].sum()))
        rates.append(alive / wall)
        factors.append(rates[-1] / bare_rates[-1])
        parts.append((shares["environment"] + shares["packing"]) * 2 * elapsed / own - 1)
        bare_costs.append(bare[:, 1].sum() / alive)
        costs.append((workers + cpu) / alive)
    vector.close()

    middle = statistics.median
    cost, bare_cost = (f"{middle(values) * 1e6:.0f} µs" for values in (costs, bare_costs))
    rate, bare_rate = (f"{middle(values):,.0f}" for values in (rates, bare_rates))
    saved, factor = f"{ratio(bare_costs, costs):.2f}", f"{middle(factors):.2f}"
    return [
        ["bare, on two cores", "", bare_cost, "1.00", bare_rate, "1.00"],
        ["four in two workers", f"{middle(parts):.1%}", cost, saved, rate, factor],
    ]


def main() -> None:
    from _common import machine, machine_text, save, table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=["dungeon", "nmmo"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    if not args.python:
        args.python = [sys.executable]
    about = machine("numpy", "gymnasium")
    text = f"# Workers under another interpreter\n\n{machine_text(about)}\n"
    data: dict[str, Any] = {"machine": about}
    columns = -2 if args.busy else None  # the last two are rates
    if "dungeon" in args.only:
        head = ["a step takes", "workers under", "processor time per step", "factor"]
        rows = [[*head, "steps per second", "factor"], *dungeon(args.python, args.rounds, 100)]
        head, *data["dungeon"] = (row[:columns] for row in rows)
        text += f"\n{table(head, data['dungeon'])}\n"
    if "nmmo" in args.only and (found := nmmo(args.rounds, 30)):
        head = ["Neural MMO", "emulation adds", "processor time per agent step", "factor"]
        rows = [[*head, "agent steps per second", "factor"], *found]
        if args.busy:  # how much a step costs depends on how many agents live
            rows = [row[:2] for row in (rows[0], rows[-1])]
        head, *data["nmmo"] = rows
        text += f"\n{table(head, data['nmmo'])}\n"
    print(text)
    save("isolated", text, data)


if __name__ == "__main__":
    main()
