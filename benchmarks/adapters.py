"""What other libraries get through Shoal's adapters, beside their own vectors.

    python benchmarks/adapters.py [--only NAME ...]

Two questions, each answered within one run, in turns, as medians over the rounds:

- What does an adapter add to each batch of a vector? Environments that do nothing are stepped
  through the vector alone, through the adapter, and then there is what the library demands of any
  vector and nobody can leave out (a list of infos, for instance), done by itself. What is left of
  the difference is the adapter's own; it may be 5 microseconds a batch.
- How fast does a library collect its own rollouts, with all else the same?

Another adapter is a function that returns the three variants, in `ADAPTERS`; another library's
collection is an entry of `COLLECTIONS`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from _common import Empty, machine, machine_text, median_over, rounds, save, table
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import shoal
from shoal.vectorization.engine import usable_cores
from shoal.wrappers.sb3 import ShoalVecEnv

NUM_ENVS = 8
WORKERS = 2
ROUNDS = 9
MOST_ADDED = 5.0  # microseconds a batch


VECTOR = spaces.Box(-1, 1, (4,), np.float32)
DICT = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (84, 84), np.uint8),
        "state": spaces.Box(-1, 1, (17,), np.float64),
        "card": spaces.Discrete(52),
    }
)


# -- what adapters add ------------------------------------------------------------------------


def sb3(space: spaces.Space) -> dict[str, Callable[[], Any]]:
    """The vector, `ShoalVecEnv`, and what Stable-Baselines3 demands."""
    vector, inside = (
        shoal.vectorize(
            lambda: Empty(space), NUM_ENVS, backend="serial", autoreset="same_step", seed=0
        )
        for _ in range(2)
    )
    vec_env = ShoalVecEnv(inside)
    vector.reset()
    vec_env.reset()
    actions = np.zeros(NUM_ENVS, np.int64)
    rows, rewards, ended, cut, _ = vector.step(actions)
    views = vector.observation_layout.view(rows)

    def demanded() -> None:
        infos: list[dict[str, Any]] = [{} for _ in range(NUM_ENVS)]
        for info in infos:
            info["TimeLimit.truncated"] = False
        rewards.astype(np.float32)
        (ended | cut).any()
        if isinstance(views, dict):
            _ = {key: view.copy() for key, view in views.items()}
        else:
            views.copy()

    return {
        "vector": lambda: vector.step(actions),
        "adapter": lambda: vec_env.step(actions),
        "demanded": demanded,
    }


ADAPTERS = {"Stable-Baselines3": sb3}


def added(name: str, what: str, space: spaces.Space) -> dict[str, Any]:
    """Microseconds that each batch takes, and those that are the adapter's own."""

    def repeated(batch: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            for _ in range(100):
                batch()
            return 100

        return run

    times = rounds({key: repeated(batch) for key, batch in ADAPTERS[name](space).items()})
    found = {key: statistics.median(values) for key, values in times.items()}
    demanded = [vector + rest for vector, rest in zip(times["vector"], times["demanded"])]
    own = median_over(times["adapter"], demanded)
    return {"library": name, "observation": what, **found, "own": own, "met": own <= MOST_ADDED}


# -- what libraries collect -------------------------------------------------------------------


def nethack() -> gymnasium.Env:
    import nle  # noqa: F401  registers it

    keys = ("chars", "colors", "blstats")
    return gymnasium.make("NetHackScore-v0", observation_keys=keys, disable_env_checker=True)


def cartpole() -> gymnasium.Env:
    return gymnasium.make("CartPole-v1")


def on_workers(creators: Sequence[Callable[[], Any]], copy: bool = True) -> VecEnv:
    how = {"backend": "multiprocess", "num_workers": WORKERS, "autoreset": "same_step"}
    return ShoalVecEnv(shoal.vectorize(list(creators), **how), copy=copy)


def views_on_workers(creators: Sequence[Callable[[], Any]]) -> VecEnv:
    return on_workers(creators, copy=False)


def in_process(creators: Sequence[Callable[[], Any]]) -> VecEnv:
    return ShoalVecEnv(shoal.vectorize(list(creators), backend="serial", autoreset="same_step"))


def collect(vec_env: VecEnv, num_steps: int) -> Callable[[], int]:
    """PPO's own collection of one rollout of `num_steps` batches."""
    vec_env.seed(0)
    nested = isinstance(vec_env.observation_space, spaces.Dict)
    policy = "MultiInputPolicy" if nested else "MlpPolicy"
    model = PPO(policy, vec_env, n_steps=num_steps, batch_size=num_steps, seed=0, device="cpu")
    _, callback = model._setup_learn(10**9)

    def run() -> int:
        model.collect_rollouts(vec_env, callback, model.rollout_buffer, num_steps)
        return num_steps * vec_env.num_envs

    return run


def step(vec_env: VecEnv, num_steps: int) -> Callable[[], int]:
    """Random actions, and no policy at all."""
    vec_env.seed(0)
    vec_env.reset()
    rng = np.random.default_rng(0)
    actions = rng.integers(vec_env.action_space.n, size=(num_steps, vec_env.num_envs))

    def run() -> int:
        for each in actions:
            vec_env.step(each)
        return num_steps * vec_env.num_envs

    return run


# Name: environment, how many, how they are stepped, our vector, the library's, the least factor.
COLLECTIONS: dict[str, tuple] = {
    "PPO on NetHack": (nethack, 8, collect, on_workers, SubprocVecEnv, 1.3),
    "PPO on NetHack, `copy=False`": (nethack, 8, collect, views_on_workers, SubprocVecEnv, 1.3),
    "PPO on more of NetHack": (nethack, 16, collect, on_workers, SubprocVecEnv, 1.3),
    "PPO on CartPole-v1": (cartpole, 8, collect, in_process, DummyVecEnv, 1.0),
    "CartPole-v1, random actions": (cartpole, 8, step, in_process, DummyVecEnv, 1.0),
}


def collected(name: str) -> dict[str, Any]:
    """Steps per second with our vector and theirs, and the factor between them."""
    create, num_envs, how, ours, theirs, least = COLLECTIONS[name]
    made = {key: make([create] * num_envs) for key, make in (("ours", ours), ("theirs", theirs))}
    times = rounds({key: how(vec_env, 64) for key, vec_env in made.items()}, 0.5, ROUNDS)
    for vec_env in made.values():
        vec_env.close()
    factor = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"]))
    rates = {key: 1e6 / statistics.median(values) for key, values in times.items()}
    return {
        "case": name,
        "num_envs": num_envs,
        **rates,
        "own vector": theirs.__name__,
        "factor": factor,
        "least": least,
        "met": factor >= least,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of cases")
    only = parser.parse_args().only
    torch.set_num_threads(1)  # the workers need the other cores
    load, begin = os.getloadavg()[0], time.perf_counter()

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    costs, rollouts = [], []
    for name in filter(wanted, ADAPTERS):
        for what, space in (("4 float32", VECTOR), ("Dict of 3, 7 kB", DICT)):
            costs.append(added(name, what, space))
            print(costs[-1], file=sys.stderr)
    for name in filter(wanted, COLLECTIONS):
        rollouts.append(collected(name))
        print(rollouts[-1], file=sys.stderr)

    found = machine("shoal", "gymnasium", "stable-baselines3", "torch", "nle")
    busy = load > 0.5
    text = [
        "# Adapters to other libraries",
        "",
        f"{machine_text(found)} {usable_cores()} of its cores were usable, and it was "
        + (f"busy with other work (load {load:.1f})." if busy else "idle otherwise."),
        "",
        f"## What an adapter adds, µs per batch of {NUM_ENVS} environments that do nothing",
        "",
        table(
            ["library", "observation", "vector", "adapter", "demanded", f"own (≤ {MOST_ADDED:g})"],
            [
                [
                    row["library"],
                    row["observation"],
                    *(f"{row[key]:.1f}" for key in ("vector", "adapter", "demanded", "own")),
                ]
                for row in costs
            ],
        ),
        "",
        "*demanded* is what the library asks of any vector, done by itself; *own* is the adapter "
        "less the vector and that.",
        "",
        "## Steps per second that Stable-Baselines3 collects",
        "",
        "PPO's `collect_rollouts` with its default networks and one thread for torch. NetHack's "
        f"observation is `chars`, `colors` and `blstats`; `ShoalVecEnv` has {WORKERS} workers, and "
        "`SubprocVecEnv` one for each environment, as always.",
        "",
        table(
            ["case", "environments", "ShoalVecEnv", "its own", "factor", "at least"],
            [
                [
                    row["case"],
                    str(row["num_envs"]),
                    f"{row['ours']:,.0f}",
                    f"{row['theirs']:,.0f} ({row['own vector']})",
                    f"{row['factor']:.2f}",
                    f"{row['least']:.1f}",
                ]
                for row in rollouts
            ],
        ),
    ]
    print("\n".join(text))
    if not only:
        data = {"machine": found, "load": load, "costs": costs, "collections": rollouts}
        save("adapters", "\n".join(text), {**data, "seconds": time.perf_counter() - begin})


if __name__ == "__main__":
    main()
