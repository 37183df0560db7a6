"""What all benchmarks share: fair timing, a description of the machine, and tables.

Peers are timed in the same run, one short round of each after the other, so that a busy moment or a
change of clock speed meets all of them alike. What is reported are medians over the rounds.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
from pettingzoo import ParallelEnv

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Empty(gymnasium.Env):
    """Returns the same result at each step."""

    action_space = spaces.Discrete(4)

    def __init__(self, observation_space: spaces.Space):
        self.observation_space = observation_space
        self.result = observation_space.sample(), 0.0, False, False, {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        return self.result[0], {}

    def step(self, action: Any) -> tuple:
        return self.result


class EmptyParallel(ParallelEnv):
    """`Empty` for several agents that never end, in PettingZoo's parallel interface."""

    metadata = {"name": "empty", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, observation_space: spaces.Space, num_agents: int = 128):
        self.possible_agents = self.agents = [f"agent_{i}" for i in range(num_agents)]
        self.space = observation_space
        self.choices = spaces.Discrete(4)
        self.result = (
            {agent: observation_space.sample() for agent in self.agents},
            dict.fromkeys(self.agents, 0.0),
            dict.fromkeys(self.agents, False),
            dict.fromkeys(self.agents, False),
            {agent: {} for agent in self.agents},
        )

    def observation_space(self, agent: Any) -> spaces.Space:
        return self.space

    def action_space(self, agent: Any) -> spaces.Space:
        return self.choices

    def reset(self, seed: int | None = None, options: Any = None) -> tuple:
        return self.result[0], self.result[4]

    def step(self, actions: Any) -> tuple:
        return self.result


def shoal(*arguments: str) -> str:
    """What the command `shoal` prints, run in the root of the repository."""
    command = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def machine(*packages: str) -> dict[str, Any]:
    """The processor, the interpreter, and the versions of `packages` that are installed."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": model,
        "cores": cores,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions,
    }


def rounds(
    variants: dict[str, Callable[[], int]],
    seconds: float = 0.02,
    count: int = 31,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time all variants in turn, `count` times over.

    Args:
        variants: each does a fixed amount of work and returns how many steps that was.
        seconds: about how long one round of one variant takes: it is repeated until then.
        count: rounds.
        clock: `time.thread_time` leaves out the time in which another process had the core; only
            for variants that neither wait nor have threads or processes of their own.

    Returns:
        For each variant, microseconds per step in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    repeats = {}
    for name, run in variants.items():
        run()
        begin = clock()
        run()
        repeats[name] = max(1, round(seconds / max(clock() - begin, 1e-9)))
    gc.collect()
    gc.disable()
    try:
        for i in range(count):
            order = list(variants) if i % 2 else list(variants)[::-1]
            for name in order:
                run, steps = variants[name], 0
                begin = clock()
                for _ in range(repeats[name]):
                    steps += run()
                times[name].append((clock() - begin) * 1e6 / steps)
    finally:
        gc.enable()
    return times


def median_over(times: Sequence[float], base: Sequence[float]) -> float:
    """Median of the differences between rounds of two variants."""
    return statistics.median(a - b for a, b in zip(times, base))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(name: str, text: str, data: dict[str, Any]) -> None:
    """Write ``results/NAME.md`` for people and ``results/NAME.json`` for programs."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n")
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def machine_text(found: dict[str, Any]) -> str:
    packages = ", ".join(f"{k} {v or 'not installed'}" for k, v in found["packages"].items())
    cores = f"{found['cores']} core{'s' * (found['cores'] != 1)}"
    return (
        f"{found['processor']}, {cores}, {found['system']}, Python {found['python']}; {packages}."
    )
