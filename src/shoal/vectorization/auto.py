"""``backend="auto"``: measure, then choose.

The serial backend is tried first, with a few environments: their time predicts
that of all. Workers are tried only if they could win, with all environments. They must be faster
by a margin, so that noise can't choose them. Both are closed afterwards and the choice is made
again, so that nothing of the trial is left in any environment or generator.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from shoal.rows.actions import RandomActions
from shoal.vectorization.vector import Batch, Vector

__all__ = ["choose_workers", "drive"]

TRIAL_SECONDS = 0.25  # of stepping, for each configuration
MOST_TRIED = 8  # environments of the serial trial
ROUND_TRIP = 10e-6  # seconds that handing over a batch costs at the least
MARGIN = 0.95  # of the serial time, that workers must stay below


def choose_workers(
    make: Callable[[int, int], Vector], num_envs: int, cores: int
) -> tuple[int, str]:
    """Return how many workers to use; 0 for the serial backend.

    Args:
        make: makes a vector of so many environments with so many workers (0: serial).
        num_envs: of the vector in question.
        cores: that can be used.

    Returns:
        The number, and a sentence that says why.
    """
    most = min(cores, num_envs)
    if most < 2:
        return 0, "one environment" if num_envs == 1 else "one core"
    try:
        with own_generators():
            tried = min(num_envs, MOST_TRIED)
            serial = seconds_per_batch(make(tried, 0), TRIAL_SECONDS) * num_envs / tried
            if serial / most + ROUND_TRIP > MARGIN * serial:
                return 0, f"a batch takes {show(serial)}, too little to share"
            counts = [most] if most < 8 else [most, most // 2]
            times = {n: seconds_per_batch(make(num_envs, n), TRIAL_SECONDS) for n in counts}
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return most, f"a trial with random actions failed ({said})"
    best = min(times, key=lambda count: times[count])
    if times[best] > MARGIN * serial:
        return 0, f"a batch takes {show(serial)}, and {show(times[best])} with {best} workers"
    return best, f"a batch takes {show(times[best])}, and {show(serial)} in one process"


def seconds_per_batch(vector: Vector, seconds: float) -> float:
    """Step a vector with random legal actions for a while, and close it; the mean of a batch."""
    try:
        driven = drive(vector, seed=0)
        next(driven)  # the first warms up
        stepping, batches = 0.0, 0
        end = time.perf_counter() + seconds
        while batches < 2 or time.perf_counter() < end:
            stepping += next(driven)[1]
            batches += 1
        return stepping / batches
    finally:
        vector.close()


def drive(
    vector: Vector, seed: int, action_seed: int | None = None
) -> Iterator[tuple[Batch, float]]:
    """Reset a vector and step it without end with random legal actions, whatever its batches are.

    Yields:
        Each batch, and the seconds from sending actions until it was there.
    """
    layout = vector.action_layout
    rows = {"actions": layout.flat.zeros(vector.batch_size * vector.agents_per_env)}
    actions: Any = rows["actions"]
    if isinstance(vector.single_action_space, gymnasium.spaces.Dict):
        actions = layout.flat.view(actions)
    choose = RandomActions(layout, seed if action_seed is None else action_seed)
    vector.async_reset(seed=seed)
    vector.recv()
    while True:
        rows["action_masks"] = vector.action_masks
        choose(rows)
        start = time.perf_counter()
        vector.send(actions)
        batch = vector.recv()
        yield batch, time.perf_counter() - start


class own_generators:
    """Put the global generators of this process back as they were."""

    def __enter__(self) -> None:
        self.random, self.numpy = random.getstate(), np.random.get_state()
        torch = sys.modules.get("torch")
        self.torch = torch.get_rng_state() if torch else None

    def __exit__(self, *_: Any) -> None:
        random.setstate(self.random)
        np.random.set_state(self.numpy)
        if self.torch is not None:
            sys.modules["torch"].set_rng_state(self.torch)


def show(seconds: float) -> str:
    """Return a time for people."""
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
