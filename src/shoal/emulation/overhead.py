"""What emulation adds to a step of an environment, measured on any environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.emulation.core import Core
from shoal.emulation.loop import EnvLoop
from shoal.rows.actions import RandomActions
from shoal.rows.buffers import Buffers
from shoal.rows.fields import SAME_STEP, zero_rows

__all__ = ["Overhead", "measure_overhead"]

FEWEST = 50  # steps; with fewer, the noise can't be estimated


@dataclass(frozen=True)
class Overhead:
    """Microseconds per step.

    Attributes:
        added: median time of the compiled loop beyond the environment's own step.
        noise: two standard errors of `added`.
        bare: median time of the environment's own step, called from Python.
    """

    added: float
    noise: float
    bare: float


class Timed:
    """An environment that sums up the time spent in its steps."""

    def __init__(self, env: Any):
        self.env = env
        self.calls = self.inside = 0

    def timed(self, method: Callable[..., Any], *args: Any) -> Any:
        begin = time.perf_counter_ns()
        result = method(*args)
        self.inside += time.perf_counter_ns() - begin
        self.calls += 1
        return result

    @property
    def agents(self) -> list:
        return self.env.agents

    def step(self, action: Any) -> Any:
        return self.timed(self.env.step, action)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)


class TimedTurns(Timed):
    """A turn-based environment that sums up the time spent in its steps, of several calls each."""

    def last(self, observe: bool = True) -> Any:
        return self.timed(self.env.last, observe)

    def observe(self, agent: Any) -> Any:
        return self.timed(self.env.observe, agent)


class Idle:
    """An environment whose step does nothing."""

    def step(self, action: Any) -> None:
        return None


def measure_overhead(
    core: Core, seed: int = 0, steps: int = 5000, seconds: float = 2.0
) -> Overhead | None:
    """Measure what the compiled loop adds to the steps of an emulated environment.

    The loop steps the environment through a clock, which separates the time inside from the time
    outside. After each step the same clock around an environment that does nothing is called from
    Python: its time outside is that of the clock and a Python loop, and is subtracted. Steps in
    which an episode ended are left out.

    Args:
        core: the environment; it is reset and stepped with random actions.
        seed: for the reset and the actions.
        steps, seconds: limits of the measurement.

    Returns:
        The overhead, or None if there were fewer than `FEWEST` steps within an episode.
    """
    layouts = core.observation_layout, core.action_layout
    driver: Any = core.driver()
    timed = (TimedTurns if hasattr(driver.env, "agent_iter") else Timed)(driver.env)
    driver.env = timed
    idle = Timed(Idle())
    loop = EnvLoop([driver], layouts[0].nbytes, SAME_STEP)
    rows = zero_rows(*layouts, core.agents_per_env)
    buffers = Buffers(*layouts, rows)
    act = RandomActions(layouts[1], seed)
    loop.reset(0, seed, None, buffers, 0)
    clock = time.perf_counter_ns
    added: list[int] = []
    bare: list[int] = []
    end = time.monotonic() + seconds
    while len(added) < steps and time.monotonic() < end:
        act(rows)
        timed.calls = timed.inside = idle.inside = 0
        begin = clock()
        loop.step(buffers)
        outside = clock() - begin - timed.inside
        begin = clock()
        idle.step(None)
        around = clock() - begin - idle.inside
        if not rows["finals"].any():
            added.append(outside - timed.calls * around)
            bare.append(timed.inside)
    if len(added) < FEWEST:
        return None
    # A median of normal values errs by 1.25 standard deviations over the root of their number;
    # the quartiles of such values lie 1.35 standard deviations apart.
    spread = np.subtract(*np.percentile(added, [75, 25])) / 1.35
    noise = 2 * 1.25 * spread / len(added) ** 0.5
    return Overhead(
        float(np.median(added)) / 1000, float(noise) / 1000, float(np.median(bare)) / 1000
    )
