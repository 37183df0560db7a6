"""What the commands `shoal describe` and `check` ask of a batched environment.

The environments of a batch can't be stepped one by one. So the whole batch is stepped, and every
value is checked. The functions answer as those of `shoal.emulation.check.questions` do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shoal.emulation.check.findings import ORDER, Log, Report
from shoal.rows.layout import Layout
from shoal.rows.spec import where
from shoal.vectorization.auto import drive
from shoal.vectorization.vector import Batch, Vector

__all__ = ["faults_of", "layouts_of", "show_overhead"]

REPLAYED = 50  # batches


def layouts_of(vector: Vector, emulation: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the observations and actions of a batched environment lie in rows.

    Args:
        vector: of the environment.
        emulation: options, which are the vector's already.
    """
    layouts = vector.observation_layout.to_json(), vector.action_layout.native.to_json()
    return {
        "agents_per_env": vector.agents_per_env,
        "nbytes": vector.observation_layout.nbytes,
        "kinds": [[[], *layouts]],
    }


def show_overhead(vector: Vector, emulation: Mapping[str, Any], seed: int) -> str:
    """Return one line: why no overhead of emulation is measured."""
    return "emulation overhead: none, because the environment steps and returns whole batches"


def faults_of(vector: Vector, steps: int, seed: int) -> dict[str, Any]:
    """Return the faults of a batched environment that show in steps with random legal actions.

    Args:
        vector: of the environment, with autoreset.
        steps: of all environments together.
        seed: of the first reset.
    """
    log = Log()
    (name,) = vector.call_on([0], lambda env: type(env).__name__)
    ended = 0
    num_batches = max(2, -(-steps // vector.num_envs))
    try:
        for batch in played(vector, seed, num_batches, seed):
            log.advance()
            ended += int(((batch.terminations | batch.truncations) & batch.masks).sum())
            check_batch(vector.observation_layout, batch, log)
        check_seeding(vector, seed, min(num_batches, REPLAYED), log)
    except Exception as error:
        log.report("exception", "step", f"{type(error).__name__}: {error}", at=(0, 0))
    if not ended:
        text = f"no episode ended within {log.steps:,} steps of {vector.num_envs} environments"
        log.report("never-ends", "episode", text, at=(0, 0))
    found = sorted(log.found.values(), key=lambda each: (ORDER.index(each.severity), each.code))
    return dataclasses.asdict(Report(name, log.steps * vector.num_envs, ended, seed, tuple(found)))


def played(vector: Vector, seed: int, num_batches: int, actions: int) -> Iterator[Batch]:
    """Yield batches of random legal actions after a reset; `actions` seeds the actions."""
    for _, (batch, _) in zip(range(num_batches), drive(vector, seed, actions)):
        yield batch


def check_batch(layout: Layout, batch: Batch, log: Log) -> None:
    """Report rewards that are not finite, and observations that are not in their space."""
    for i in np.flatnonzero(~np.isfinite(batch.rewards))[:1]:
        log.report("reward-nan", "reward", f"environment {i}: {batch.rewards[i]}", at=(0, 0))
    views = layout.view_leaves(batch.observations)
    for leaf in layout.leaves:
        values = views[leaf.path]
        outside = (values < leaf.low) | (values > leaf.high)
        for code, wrong in (("nan", values != values), ("bounds", outside)):
            for first in np.argwhere(wrong)[:1].tolist():
                text = f"environment {first[0]}: {values[tuple(first)]} in batch {log.step}"
                place = where(layout.name, leaf.path) + (str(first[1:]) if first[1:] else "")
                log.report(code, place, text, at=(0, 0))


def check_seeding(vector: Vector, seed: int, num_batches: int, log: Log) -> None:
    """Report an environment whose seed does not decide what happens."""

    def trajectory(seed: int) -> list[bytes]:
        batches = played(vector, seed, num_batches, actions=0)
        return [batch.observations.tobytes() + batch.rewards.tobytes() for batch in batches]

    far = seed + vector.num_envs  # the seeds of no environment are the same
    first, again, other = (trajectory(each) for each in (seed, seed, far))
    if first != again:
        number = [one == two for one, two in zip(first, again)].index(False) + 1
        text = f"reset twice with seed {seed}, batch {number} differs"
        log.report("not-reproducible", "reset", text, at=(0, 0))
    elif first == other:
        log.report("seed-no-effect", "reset", f"seeds {seed} and {far} give the same", at=(0, 0))
