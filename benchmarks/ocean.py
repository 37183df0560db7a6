"""Compiled environments: agent steps per second, with random actions, beside EnvPool and Gymnasium.

    python benchmarks/ocean.py [--only NAME ...] [--quick]

Each environment is stepped by the engine and by `Vector.step`, which checks actions, counts
episodes and returns what Gymnasium wants, with both kinds of autoreset; and by both of them on two
threads. All of them are in place in the arena, and copying the actions there counts. A new
environment that has no line in `CASES` is measured with 1,024 copies against the common goal. With
``--only`` the others keep the figures that were saved last.

How much two threads could gain at most is measured as well: two processes that share nothing, each
with copies of its own, at the same time. And how long it takes to hand work to another core and to
get it back, which a batch that takes no longer itself can't gain from: a hypervisor may move cores
apart and together again while this runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_text, rounds, save, table

import shoal
from shoal.ocean_c.find import own_names

NUM_ACTIONS = 64  # batches of actions, made beforehand
TWO_THREADS = 1.85  # times as fast as one, from 1,024 agents up


@dataclass(frozen=True)
class Case:
    """What is measured of an environment.

    Attributes:
        goal: million agent steps per second of one thread.
        num_envs: copies.
        params: of the environment.
        peers: of the same environment elsewhere: name -> (copies -> a vector environment).
        note: what limits it.
    """

    goal: float = 2
    num_envs: int = 1024
    params: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, Callable[[int], Any]] = field(default_factory=dict)
    note: str = ""


def env_pool(name: str) -> Callable[[int], Any]:
    def make(num_envs: int) -> Any:
        import envpool

        return envpool.make(name, env_type="gymnasium", num_envs=num_envs, num_threads=1)

    return make


def gymnasium_vector(name: str) -> Callable[[int], Any]:
    def make(num_envs: int) -> Any:
        import gymnasium

        return gymnasium.make_vec(name, num_envs, vectorization_mode="vector_entry_point")

    return make


# pufferlib's figures were measured by its authors' code on this kind of machine, one thread.
CASES = {
    "squared": Case(140, 4096, note="pufferlib 3.0: 106"),
    "cartpole": Case(
        60,
        4096,
        peers={"EnvPool": env_pool("CartPole-v1"), "Gymnasium": gymnasium_vector("CartPole-v1")},
        note="pufferlib 3.0: 45.6",
    ),
    "pong": Case(15, 4096, {"frame_skip": 8}, note="frame skip 8; pufferlib 3.0: 11.0"),
    "breakout": Case(
        10, 4096, {"frame_skip": 4}, note="frame skip 4, 118 floats; pufferlib 3.0: 6.2"
    ),
    "snake": Case(10, 16, {"num_snakes": 256}, note="16 maps of 256; pufferlib 3.0: 7.0"),
    "target": Case(note="8 agents, 4 goals: square roots, and the order of distances"),
    "asteroids": Case(note="frame skip 2: distances of bullets and the ship to all rocks"),
    "drone": Case(note="2 substeps, each with 4 evaluations of the rigid body's equations"),
    "swarm": Case(num_envs=64, note="64 boids: the search for those in sight, in 9 cells"),
    "connect4": Case(1, 1024, {"depth": 3}, note="against depth 3; pufferlib 3.0: 0.06"),
}


def random_actions(vector: Any) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    space, rows = vector.single_action_space, vector.num_rows
    made = []
    for _ in range(NUM_ACTIONS):
        if hasattr(space, "nvec"):
            made.append(random.integers(0, space.nvec, (rows, len(space.nvec))))
        elif hasattr(space, "n"):
            made.append(random.integers(0, space.n, rows))
        else:
            low, high = space.low, space.high
            made.append(random.uniform(low, high, (rows, *space.shape)).astype(np.float32))
    return made


def by_engine(vector: Any, repeat: int) -> Callable[[], int]:
    """Steps of the engine alone."""
    backend, actions, turn = vector._backend, random_actions(vector), 0

    def run() -> int:
        nonlocal turn
        for _ in range(repeat):
            backend.post(0, None, None, actions[turn % NUM_ACTIONS])
            turn += 1
            backend.wait(turn, None)
        return repeat * vector.num_rows

    return run


def by_vector(vector: Any, repeat: int) -> Callable[[], int]:
    """Steps as a user takes them."""
    actions, turn = random_actions(vector), 0

    def run() -> int:
        nonlocal turn
        for _ in range(repeat):
            vector.step(actions[turn % NUM_ACTIONS])
            turn += 1
        return repeat * vector.num_rows

    return run


def by_peer(vector: Any, num_envs: int) -> Callable[[], int]:
    vector.reset()
    actions = np.random.default_rng(0).integers(0, 2, num_envs)

    def run() -> int:
        vector.step(actions)
        return num_envs

    return run


@contextlib.contextmanager
def another_process(name: str, case: Case) -> Iterator[None]:
    """Copies of the same, which are stepped on the other core meanwhile."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()

    def step_on() -> None:
        vector = shoal.vectorize(name, case.num_envs, env_kwargs=case.params, seed=1)
        vector.reset()
        run = by_engine(vector, 1)
        begun.set()
        while True:
            run()

    process = context.Process(target=step_on, daemon=True)
    process.start()
    try:
        begun.wait()
        yield
    finally:
        process.kill()
        process.join()


def measure(name: str, case: Case, count: int) -> dict[str, list[float]]:
    """Million agent steps per second of each way, in each round."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Any:
            made = shoal.vectorize(name, case.num_envs, env_kwargs=case.params, seed=0, **options)
            stack.callback(made.close)
            made.reset()
            return made

        agents = make().num_rows
        repeat = max(1, 8192 // agents)
        # What runs in this thread alone is timed by its own clock: others may have the core.
        alone = {
            "engine": by_engine(make(), repeat),
            "Vector.step": by_vector(make(), repeat),
            "Vector.step, same-step": by_vector(make(autoreset="same_step"), repeat),
        }
        beside = {
            "one thread": by_engine(make(), repeat),
            "two threads": by_engine(make(num_workers=2), repeat),
            "Vector.step, one thread": by_vector(make(), repeat),
            "Vector.step, two threads": by_vector(make(num_workers=2), repeat),
        }
        for peer, create in case.peers.items():
            try:
                vector = create(case.num_envs)
            except ImportError:
                continue
            stack.callback(vector.close)
            beside[peer] = by_peer(vector, case.num_envs)
        found = rounds(alone, count=count, clock=time.thread_time) | rounds(beside, count=count)
        with another_process(name, case):
            both = rounds({"both": by_engine(make(), repeat)}, count=count)["both"]
        found["two processes"] = [time / 2 for time in both]
    return {way: [1 / each for each in times] for way, times in found.items()}


def hand_over(count: int) -> float:
    """Microseconds by which two environments on two threads take longer than both on one."""
    one, two = (shoal.vectorize("stochastic", 2, seed=0, num_workers=n) for n in (1, 2))
    one.reset(), two.reset()
    found = rounds({"one": by_engine(one, 1000), "two": by_engine(two, 1000)}, 0.005, count)
    one.close(), two.close()
    return 2 * (statistics.median(found["two"]) - statistics.median(found["one"]))


def gain(found: dict[str, list[float]], more: str, less: str) -> float:
    """How many times as fast one way is as another, round by round."""
    return statistics.median(a / b for a, b in zip(found[more], found[less], strict=True))


def row(name: str, result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    case, rates = CASES.get(name, Case()), result["rates"]
    met = rates["engine"] >= case.goal
    scaled = result["two threads"] >= TWO_THREADS or result["agents"] < 1024
    return [
        name,
        f"{case.num_envs:,}",
        f"{result['agents']:,}",
        f"{rates['engine']:.1f} M/s",
        f"≥ {case.goal:g}{'' if met else ', missed'}",
        f"× {result['two threads']:.2f}{'' if scaled else ', missed'}",
        f"× {rates['two processes'] / rates['one thread']:.2f}",
        f"{result['hand-over']:.1f} µs",
        f"{rates['Vector.step']:.1f}",
        f"{rates['Vector.step, same-step']:.1f}",
        f"× {result['Vector.step, two threads']:.2f}",
        f"{rates['EnvPool']:.2f}" if "EnvPool" in rates else "",
        f"{rates['Gymnasium']:.2f}" if "Gymnasium" in rates else "",
        case.note,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=own_names())
    parser.add_argument("--quick", action="store_true", help="fewer rounds; nothing is saved")
    args = parser.parse_args()
    about = machine("numpy", "gymnasium", "envpool")
    print(machine_text(about), flush=True)
    head = [
        "environment",
        "copies",
        "agents",
        "engine",
        "goal",
        "2 threads",
        "2 processes",
        "hand-over",
    ]
    head += ["Vector.step", "same-step", "2 threads", "EnvPool", "Gymnasium", "note"]
    results: dict[str, Any] = {}
    saved = RESULTS / "ocean.json"
    if args.only and not args.quick and saved.exists():
        results = json.loads(saved.read_text())["environments"]
    for name in args.only or own_names():
        case = CASES.get(name, Case())
        found = measure(name, case, 7 if args.quick else 31)
        vector = shoal.vectorize(name, case.num_envs, env_kwargs=case.params)
        results[name] = {
            "rates": {way: statistics.median(each) for way, each in found.items()},
            "rounds": found,
            "agents": vector.num_rows,
            "hand-over": hand_over(7 if args.quick else 31),
            "two threads": gain(found, "two threads", "one thread"),
            "Vector.step, two threads": gain(
                found, "Vector.step, two threads", "Vector.step, one thread"
            ),
        }
        vector.close()
        print("  ".join(row(name, results[name])), flush=True)
    rows = [row(name, results[name]) for name in own_names() if name in results]
    text = "# Compiled environments\n\n" + machine_text(about) + "\n\n"
    text += (
        "Million agent steps per second of one thread, medians of 31 rounds; random actions. How "
        "many times as fast two threads are, of the engine and (behind it) of `Vector.step`, and "
        "two processes that share nothing; and by how much two environments take longer on two "
        "threads than on one, which tells how far apart the cores were.\n\n"
    )
    text += table(head, rows)
    print(f"\n{text}")
    if not args.quick:
        save("ocean", text, {"machine": about, "environments": results})
    missed = [each[0] for each in rows if "missed" in each[4] + each[5]]
    if missed:
        print(f"goals missed by: {', '.join(missed)}", file=sys.stderr)


if __name__ == "__main__":
    main()
