"""What other libraries get through Shoal's adapters, beside their own vectors.

    python benchmarks/adapters.py [--parts added collected] [--only NAME ...]

Two questions, each answered within one run, in turns, as medians over the rounds:

- What does an adapter add to each batch of a vector? Environments that do nothing are stepped
  through the vector alone; through the vector, followed by the least that the library demands of
  any adapter and nobody can leave out (copies of the observations, a list of infos, ...); and
  through the adapter. What the third takes longer than the second is the adapter's own; it may be
  5 microseconds a batch.
- How fast does a library collect its own rollouts, with all else the same?

Another adapter is a function that returns the three variants, in `ADAPTERS`; another library's
collection is an entry of `COLLECTIONS`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
from _common import (
    RESULTS,
    Empty,
    EmptyParallel,
    machine,
    machine_text,
    median_over,
    rounds,
    save,
    table,
)
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import shoal
from shoal.wrappers.gymnasium import ShoalAsyncVectorEnv, ShoalSyncVectorEnv
from shoal.wrappers.sb3 import ShoalDummyVecEnv, ShoalVecEnv

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
SPACES = {"4 float32": VECTOR, "Dict of 3, 7 kB": DICT}
Variants = dict[str, Callable[[], Any]]


# -- what adapters add ------------------------------------------------------------------------


def creators(space: spaces.Space, num_envs: int) -> list[Callable[[], Any]]:
    return [functools.partial(Empty, space)] * num_envs


def arrays_of(vector: Any) -> Callable[[np.ndarray], Any]:
    """A function that copies each array of a batch: nested, if the space is a Dict."""
    views: dict[int, Any] = {}  # by block of the vector's memory, for making views takes time

    def copied(rows: np.ndarray) -> Any:
        _, found = views.get(id(rows), (None, None))
        if found is None:
            found = vector.observation_layout.view(rows)
            views[id(rows)] = rows, found
        if isinstance(found, dict):
            return {key: view.copy() for key, view in found.items()}
        return found.copy()

    return copied


def gymnasium_class(space: spaces.Space, num_envs: int, drop_in: Callable[..., Any]) -> Variants:
    """Gymnasium demands that observations are the caller's own, and nested as the environment's."""
    vector = shoal.vectorize(creators(space, num_envs), backend="serial")
    adapter = drop_in(creators(space, num_envs))
    vector.reset()
    adapter.reset()
    copied = arrays_of(vector)
    actions = np.zeros(num_envs, np.int64)
    return {
        "vector": lambda: vector.step(actions),
        "floor": lambda: copied(vector.step(actions)[0]),
        "adapter": lambda: adapter.step(actions),
    }


def gymnasium_sync(space: spaces.Space, num_envs: int) -> Variants:
    return gymnasium_class(space, num_envs, ShoalSyncVectorEnv)


def gymnasium_async(space: spaces.Space, num_envs: int) -> Variants:
    """With all that its workers do in this process: to wait for them takes longer than what is
    measured, and never the same time."""

    def serial(creators: Any, *, autoreset: str, **of_workers: Any) -> Any:
        return shoal.vectorize(creators, backend="serial", autoreset=autoreset)

    with mock.patch("shoal.wrappers.gymnasium.vectorize", serial):
        return gymnasium_class(space, num_envs, ShoalAsyncVectorEnv)


def sb3_class(vector: Any, adapter: VecEnv) -> Variants:
    """Stable-Baselines3 demands copies, float32 rewards, and a list of infos with an entry each."""
    vector.reset()
    adapter.reset()
    copied = arrays_of(vector)
    actions = np.zeros(vector.num_envs, np.int64)

    def floor() -> None:
        rows, rewards, terminations, truncations, _ = vector.step(actions)
        infos: list[dict[str, Any]] = [{} for _ in range(vector.num_envs)]
        for info in infos:
            info["TimeLimit.truncated"] = False
        rewards.astype(np.float32)
        (terminations | truncations).any()
        copied(rows)

    return {
        "vector": lambda: vector.step(actions),
        "floor": floor,
        "adapter": lambda: adapter.step(actions),
    }


def same_step(space: spaces.Space, num_envs: int, **how: Any) -> Any:
    return shoal.vectorize(creators(space, num_envs), autoreset="same_step", **how)


def sb3(space: spaces.Space, num_envs: int) -> Variants:
    vector, inside = (same_step(space, num_envs, backend="serial") for _ in range(2))
    return sb3_class(vector, ShoalVecEnv(inside))


def sb3_dummy(space: spaces.Space, num_envs: int) -> Variants:
    vector = same_step(space, num_envs, backend="serial")
    return sb3_class(vector, ShoalDummyVecEnv(creators(space, num_envs)))


def parallel_env(space: spaces.Space, num_agents: int) -> Variants:
    """PettingZoo demands five dicts of what each agent gets, and takes a dict of actions."""
    from shoal.wrappers.pettingzoo import ShoalParallelEnv

    create = functools.partial(EmptyParallel, space, num_agents)
    vector, inside = (shoal.vectorize([create], backend="serial") for _ in range(2))
    adapter = ShoalParallelEnv(inside)
    vector.reset()
    adapter.reset()
    agents = adapter.possible_agents
    actions = dict.fromkeys(agents, 0)

    def floor() -> tuple:
        taken = np.array([actions[agent] for agent in agents])
        rows, *results, _ = vector.step(taken)
        rewards, terminations, truncations = (result.tolist() for result in results)
        return (
            {agent: row.copy() for agent, row in zip(agents, rows)},
            dict(zip(agents, rewards)),
            dict(zip(agents, terminations)),
            dict(zip(agents, truncations)),
            {agent: {} for agent in agents},
        )

    taken = np.zeros(num_agents, np.int64)
    return {
        "vector": lambda: vector.step(taken),
        "floor": floor,
        "adapter": lambda: adapter.step(actions),
    }


def agent_rows(space: spaces.Space, num_agents: int) -> Variants:
    """Rows for libraries that know no agents: nothing is demanded."""
    from shoal.wrappers.pettingzoo import AgentRows

    create = functools.partial(EmptyParallel, space, num_agents)
    vector, inside = (shoal.vectorize([create], backend="serial") for _ in range(2))
    adapter = AgentRows(inside)
    vector.reset()
    adapter.reset()
    actions = np.zeros(num_agents, np.int64)
    step = functools.partial(vector.step, actions)
    return {"vector": step, "floor": step, "adapter": lambda: adapter.step(actions)}


def torchrl(space: spaces.Space, num_envs: int) -> Variants:
    """TorchRL demands a TensorDict of tensors of its own; what `EnvBase.step` does around it all,
    ten times as much, is in none of the three."""
    from tensordict import TensorDict

    from shoal.wrappers.torchrl import ShoalEnv

    how = {"backend": "serial", "autoreset": "disabled"}
    vector, inside = (shoal.vectorize(creators(space, num_envs), **how) for _ in range(2))
    adapter = ShoalEnv(inside)
    vector.reset()
    given = adapter.rand_action(adapter.reset())
    actions = np.zeros(num_envs, np.int64)

    def floor() -> TensorDict:
        rows, rewards, terminations, truncations, _ = vector.step(actions)
        flags = {
            "terminated": terminations,
            "truncated": truncations,
            "done": terminations | truncations,
        }
        tensors = {name: torch.from_numpy(flag).unsqueeze(-1) for name, flag in flags.items()}
        tensors["observation"] = torch.from_numpy(rows.copy())
        tensors["reward"] = torch.from_numpy(rewards.astype(np.float32)).unsqueeze(-1)
        return TensorDict(tensors, batch_size=[num_envs])

    return {
        "vector": lambda: vector.step(actions),
        "floor": floor,
        "adapter": lambda: adapter._step(given),
    }


def rllib(space: spaces.Space, num_envs: int) -> Variants:
    """RLlib takes the vector itself, and demands that observations stay."""
    from shoal.wrappers.rllib import environment

    vector = shoal.vectorize(creators(space, num_envs), backend="serial")
    create = environment(functools.partial(Empty, space), backend="serial")
    adapter = create({"num_envs": num_envs})
    vector.reset()
    adapter.reset()
    actions = np.zeros(num_envs, np.int64)
    return {
        "vector": lambda: vector.step(actions),
        "floor": lambda: vector.step(actions)[0].copy(),
        "adapter": lambda: adapter.step(actions),
    }


def tianshou(space: spaces.Space, num_envs: int) -> Variants:
    """Tianshou demands copies, and an array of infos in which each environment has its number."""
    from shoal.wrappers.tianshou import ShoalVectorEnv

    how = {"backend": "serial", "autoreset": "disabled"}
    vector, inside = (shoal.vectorize(creators(space, num_envs), **how) for _ in range(2))
    adapter = ShoalVectorEnv(inside)
    vector.reset()
    adapter.reset()
    actions, ids = np.zeros(num_envs, np.int64), np.arange(num_envs)

    def floor() -> tuple:
        rows, *results, _ = vector.step(actions)
        infos = np.array([{"env_id": i} for i in range(num_envs)], object)
        return rows.copy(), *results, infos

    return {
        "vector": lambda: vector.step(actions),
        "floor": floor,
        "adapter": lambda: adapter.step(actions, ids),  # as collectors do
    }


# Name: what it needs, its variants, and how many environments, or agents, are in a batch.
ADAPTERS: dict[str, tuple[str, Callable[[spaces.Space, int], Variants], Sequence[int]]] = {
    "Gymnasium, `ShoalSyncVectorEnv`": ("gymnasium", gymnasium_sync, (8, 32)),
    "Gymnasium, `ShoalAsyncVectorEnv`": ("gymnasium", gymnasium_async, (8, 32)),
    "Stable-Baselines3, `ShoalVecEnv`": ("stable_baselines3", sb3, (8, 32)),
    "Stable-Baselines3, `ShoalDummyVecEnv`": ("stable_baselines3", sb3_dummy, (8,)),
    "PettingZoo, `ShoalParallelEnv`": ("pettingzoo", parallel_env, (8,)),
    "PettingZoo, `AgentRows`": ("pettingzoo", agent_rows, (8, 32)),
    "TorchRL, `ShoalEnv`": ("torchrl", torchrl, (8,)),
    "RLlib, `environment`": ("gymnasium", rllib, (8,)),
    "Tianshou, `ShoalVectorEnv`": ("tianshou", tianshou, (8,)),
}


def added(name: str, what: str, size: int) -> dict[str, Any]:
    """Microseconds that each batch takes, and those that are the adapter's own."""

    def repeated(batch: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            for _ in range(100):
                batch()
            return 100

        return run

    _, variants, _ = ADAPTERS[name]
    times = rounds({key: repeated(batch) for key, batch in variants(SPACES[what], size).items()})
    found = {key: statistics.median(values) for key, values in times.items()}
    own = median_over(times["adapter"], times["floor"])
    met = own <= MOST_ADDED
    return {"adapter_of": name, "observation": what, "size": size, **found, "own": own, "met": met}


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


def measure_added(wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    rows = []
    for name in filter(wanted, ADAPTERS):
        module, _, sizes = ADAPTERS[name]
        if find_spec(module) is None:
            print(f"{name}: {module} is not installed", file=sys.stderr)
            continue
        for what, size in itertools.product(SPACES, sizes):
            rows.append(added(name, what, size))
            print(rows[-1], file=sys.stderr)
    return rows


def measure_collected(wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    rows = []
    for name in filter(wanted, COLLECTIONS):
        rows.append(collected(name))
        print(rows[-1], file=sys.stderr)
    return rows


PARTS = {"added": measure_added, "collected": measure_collected}


def told(part: dict[str, Any]) -> str:
    """Where and when a part was measured."""
    load = part["load"]
    busy = f"busy with other work (load {load:.1f})" if load > 0.5 else "idle otherwise"
    return f"{machine_text(part['machine'])} The machine was {busy}."


def text_of(results: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    columns = ("vector", "floor", "adapter", "own")
    text = ["# Adapters to other libraries"]
    if "added" in results:
        text += [
            "## What an adapter adds, µs per batch of environments that do nothing",
            told(results["added"]),
            table(
                [
                    "adapter",
                    "observation",
                    "rows",
                    "vector",
                    "and what is demanded",
                    "with the adapter",
                    f"its own (≤ {MOST_ADDED:g})",
                ],
                [
                    [
                        row["adapter_of"],
                        row["observation"],
                        str(row["size"]),
                        *(f"{row[key]:.1f}" for key in columns),
                    ]
                    for row in results["added"]["rows"]
                ],
            ),
            "*rows* are environments, or the agents of one. *demanded* is what the library asks "
            "of any adapter, done as fast as we know how; what the adapter takes longer than that "
            "is *its own*. `ShoalAsyncVectorEnv` does here in one process what its workers do "
            "beside it.",
        ]
    if "collected" in results:
        text += [
            "## Steps per second that Stable-Baselines3 collects",
            told(results["collected"]),
            "PPO's `collect_rollouts` with its default networks and one thread for torch. "
            "NetHack's observation is `chars`, `colors` and `blstats`; `ShoalVecEnv` has "
            f"{WORKERS} workers, and `SubprocVecEnv` one for each environment, as always.",
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
                    for row in results["collected"]["rows"]
                ],
            ),
        ]
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of cases")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=list(PARTS), help="the other's results stay"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # the workers need the other cores
    libraries = ("stable-baselines3", "pettingzoo", "torchrl", "tianshou")
    saved = RESULTS / "adapters.json"
    results = {} if args.only or not saved.exists() else json.loads(saved.read_text())
    for name in args.parts:
        load, begin = os.getloadavg()[0], time.perf_counter()
        rows = PARTS[name](lambda case: not args.only or any(part in case for part in args.only))
        results[name] = {
            "machine": machine("gymnasium", *libraries, "torch", "nle"),
            "load": load,
            "seconds": time.perf_counter() - begin,
            "rows": rows,
        }
    text = text_of(results)
    print(text)
    if not args.only:
        save("adapters", text, results)


if __name__ == "__main__":
    main()
