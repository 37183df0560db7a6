"""Vectors of environments beside their peers, in the same run.

    python benchmarks/vectorization.py [--quick] [--only NAME ...]

Every case makes all of its variants first and then times them in turns, five rounds over: each
round steps one variant for a while. Rates are medians over the rounds, and a factor between two
variants is the median over the rounds of the factor in each. CPU seconds are those of this process
and of the processes that the variant started. EnvPool runs environments of its own in C++.

The bars are those of `bars` in each case; `cases` holds them all.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from _common import Empty, EmptyParallel, machine, machine_text, save, table
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import shoal
from shoal.vectorization.sync import usable_cores

ROUNDS = 5
WORKERS = 2
SYNC, ASYNC, DUMMY, SUBPROC = "Gymnasium Sync", "Gymnasium Async", "SB3 Dummy", "SB3 Subproc"
POOL, BARE = "EnvPool (C++)", "bare loop"
AUTO, SERIAL, ONE, TWO = "Shoal auto", "Shoal serial", "Shoal 1 worker", "Shoal 2 workers"


# -- environments -----------------------------------------------------------------------------


class Timed(Empty):
    """Each step takes one of `seconds`, by `wait`; each copy takes them in an order of its own."""

    def __init__(self, seconds: np.ndarray, wait: Callable[[float], None]):
        super().__init__(spaces.Box(-1, 1, (4,), np.float32))
        self.seconds, self.wait = seconds, wait

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        self.next = itertools.cycle(self.np_random.permutation(self.seconds))
        return self.result[0], {}

    def step(self, action: Any) -> tuple:
        self.wait(next(self.next))
        return self.result


def work(seconds: float) -> None:
    """Use so much of a core: a clock on the wall could be waited for by any number at once."""
    end = time.thread_time_ns() + seconds * 1e9
    while time.thread_time_ns() < end:
        pass


def exponential(mean: float) -> np.ndarray:
    drawn = np.random.default_rng(0).exponential(size=500)
    return drawn * (mean / drawn.mean())


def empty_parallel() -> EmptyParallel:
    """128 agents that never end."""
    return EmptyParallel(spaces.Box(-1, 1, (16,), np.float32))


# -- variants ---------------------------------------------------------------------------------


@dataclass
class Variant:
    """Something that steps environments."""

    batch: Callable[[], int]  # steps one batch and returns how many steps that was
    close: Callable[[], None]
    pids: set[int] = field(default_factory=set)  # of the processes it started
    rates: list[float] = field(default_factory=list)  # steps per second of each round
    latencies: list[float] = field(default_factory=list)  # seconds of each batch
    cpu: float = 0.0
    steps: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent))


Makers = dict[str, Callable[[], Variant]]


def stepped(vector: Any, num_envs: int, actions: Any) -> Variant:
    """A vector of which a batch is one call of `step`."""
    vector.reset()
    step, each = vector.step, itertools.cycle(actions)

    def batch() -> int:
        step(next(each))
        return num_envs

    return Variant(batch, vector.close)


def received(vector: Any, actions: Any) -> Variant:
    """A pool of Shoal's, of which a batch is one `recv` and one `send`."""
    vector.async_reset()
    each, count = itertools.cycle(actions), vector.batch_size

    def batch() -> int:
        vector.recv()
        vector.send(next(each)[:count])
        return count

    return Variant(batch, vector.close)


def bare(make: Callable[[], Any], actions: Any, num_envs: int = 1) -> Variant:
    """Environments in a Python loop; all of them are one batch."""
    envs = [make() for _ in range(num_envs)]
    for i, env in enumerate(envs):
        env.reset(seed=i)
    each = itertools.cycle(actions)

    def batch() -> int:
        for env, action in zip(envs, next(each)):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return num_envs

    def close() -> None:
        for env in envs:
            env.close()

    return Variant(batch, close)


def random_actions(space: spaces.Space, num_envs: int, count: int = 64) -> np.ndarray:
    """Batches of actions, over which variants go again and again."""
    space.seed(0)
    return np.array([[space.sample() for _ in range(num_envs)] for _ in range(count)])


def peers(make: Callable[[], Any], n: int, actions: Any, parallel: bool = True) -> Makers:
    """Gymnasium's and Stable-Baselines3's vectors; without `parallel`, those of one process."""
    made: Makers = {SYNC: lambda: stepped(SyncVectorEnv([make] * n), n, actions)}
    if parallel:
        made[ASYNC] = lambda: stepped(AsyncVectorEnv([make] * n), n, actions)
    if find_spec("stable_baselines3"):
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        made[DUMMY] = lambda: stepped(DummyVecEnv([make] * n), n, actions)
        if parallel:
            fork = "fork" if sys.platform == "linux" else "spawn"
            made[SUBPROC] = lambda: stepped(
                SubprocVecEnv([make] * n, start_method=fork), n, actions
            )
    if find_spec("pufferlib"):
        import pufferlib.emulation
        import pufferlib.vector as puffer

        def emulated(**kwargs: Any) -> Any:
            return pufferlib.emulation.GymnasiumPufferEnv(env=make(), **kwargs)

        made["pufferlib Serial"] = lambda: stepped(
            puffer.make(emulated, num_envs=n, backend=puffer.Serial), n, actions
        )
        if parallel:
            made["pufferlib Multiprocessing"] = lambda: stepped(
                puffer.make(
                    emulated, num_envs=n, num_workers=WORKERS, backend=puffer.Multiprocessing
                ),
                n,
                actions,
            )
    return made


def env_pool(name: str, n: int, actions: np.ndarray) -> Makers:
    if not find_spec("envpool"):
        return {}

    def made() -> Variant:
        import envpool

        pool = envpool.make_gymnasium(name, num_envs=n, num_threads=WORKERS)
        dtype = np.int32 if actions.dtype.kind == "i" else np.float64
        return stepped(pool, n, actions.astype(dtype))

    return {POOL: made}


def ours(make: Any, n: int, actions: Any, **options: Any) -> Callable[[], Variant]:
    """A vector of Shoal's, stepped whole or in batches."""
    options = {"backend": "multiprocess", "num_workers": WORKERS, **options}
    if options["backend"] in ("serial", "auto"):
        options.pop("num_workers")

    def made() -> Variant:
        vector = shoal.vectorize(make, n, seed=0, **options)
        if vector.batch_size < vector.num_envs:
            return received(vector, actions)
        return stepped(vector, n, actions)

    return made


# -- timing -----------------------------------------------------------------------------------


def descendants() -> set[int]:
    """Processes that this one has started, and theirs; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            found.add(pid)
            waiting.append(pid)
    return found


def cpu_seconds(pids: set[int]) -> float:
    """CPU time that this process and these have used so far."""
    total = time.process_time()
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def make_all(makers: Makers) -> dict[str, Variant]:
    """Make every variant; a peer that can't run this case is left out, and that is said."""
    variants = {}
    for name, make in makers.items():
        before = descendants()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                variant = make()
                variant.batch()
        except Exception as error:
            if name.startswith("Shoal"):
                raise
            print(f"  {name} does not run: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        variant.pids = descendants() - before
        variants[name] = variant
    return variants


def step_for(variant: Variant, seconds: float) -> None:
    """One round: at least three batches."""
    steps, clock, latencies = 0, time.perf_counter, []
    cpu = cpu_seconds(variant.pids)
    begin = last = clock()
    while last < begin + seconds or len(latencies) < 3:
        steps += variant.batch()
        now = clock()
        latencies.append(now - last)
        last = now
    variant.rates.append(steps / (last - begin))
    variant.latencies += latencies
    variant.cpu += cpu_seconds(variant.pids) - cpu
    variant.steps += steps


def time_in_turns(makers: Makers, seconds: float) -> dict[str, Variant]:
    variants = make_all(makers)
    try:
        for variant in variants.values():  # warm up
            step_for(variant, seconds / 4)
            variant.rates, variant.latencies, variant.cpu, variant.steps = [], [], 0.0, 0
        for i in range(ROUNDS):
            for variant in list(variants.values())[:: 1 if i % 2 else -1]:
                step_for(variant, seconds)
    finally:
        for variant in variants.values():
            variant.close()
    return variants


# -- bars -------------------------------------------------------------------------------------


@dataclass
class Bar:
    """Something that must hold, or with `bound` False is only shown; `form` formats `got`."""

    text: str
    got: float
    limit: float
    at_most: bool = False
    form: str = "{:.2f} ×"
    bound: bool = True

    @property
    def met(self) -> bool:
        below = self.got <= self.limit
        return not self.bound or (below if self.at_most else self.got >= self.limit)


Found = dict[str, Variant]


def factor(found: Found, name: str, reference: str) -> float:
    """How many times faster one variant is than another."""
    return statistics.median(a / b for a, b in zip(found[name].rates, found[reference].rates))


def times(found: Found, name: str, limit: float, reference: str) -> Bar:
    if reference == "best peer":
        others = [name for name in found if not name.startswith("Shoal")]
        reference = max(others, key=lambda name: found[name].rate, default=reference)
    if reference not in found:
        return Bar(f"{name} ≥ {limit} × {reference}", float("nan"), limit)
    return Bar(f"{name} ≥ {limit} × {reference}", factor(found, name, reference), limit)


def share(found: Found, name: str, limit: float) -> Bar:
    """Of what as many bare loops would reach as there are workers, each on a core of its own."""
    got = factor(found, name, BARE) / min(WORKERS, usable_cores()) * 100
    return Bar(f"{name} ≥ {limit:g} % of {WORKERS} × {BARE}", got, limit, form="{:.1f} %")


def ceiling(found: Found, name: str, waiting: bool) -> float:
    """How much faster than the bare loop workers would be that cost nothing.

    Args:
        name: a bare loop over as many environments as a worker has: each has one, on its own core.
        waiting: every batch ends with the slower loop, as in `step`.
    """
    workers, variant, bare_loop = min(WORKERS, usable_cores()), found[name], found[BARE]
    seconds = np.array(variant.latencies)
    if waiting:  # any two of its batches may meet
        seconds = np.random.default_rng(0).permutation(seconds)
        seconds = seconds[: len(seconds) // workers * workers].reshape(-1, workers).max(axis=1)
    rate = workers * variant.steps / len(variant.latencies) / float(seconds.mean())
    return rate / (bare_loop.steps / sum(bare_loop.latencies))


def latency(found: Found, name: str, microseconds: float) -> Bar:
    got = found[name].percentile(50) * 1e6
    return Bar(f"{name}: ≤ {microseconds:g} µs", got, microseconds, True, "{:.1f} µs")


# -- cases ------------------------------------------------------------------------------------

Result = tuple[Found, list[Bar]]


def cartpole(n: int, seconds: float) -> Found:
    def make() -> Any:
        return gymnasium.make("CartPole-v1", disable_env_checker=True)

    actions = random_actions(make().action_space, n)
    makers = {
        **peers(make, n, actions, parallel=n <= 64),
        TWO: ours("CartPole-v1", n, actions),
        SERIAL: ours("CartPole-v1", n, actions, backend="serial"),
        AUTO: ours("CartPole-v1", n, actions, backend="auto"),
        **env_pool("CartPole-v1", n, actions),
    }
    return time_in_turns(makers, seconds)


def cartpole_8(seconds: float) -> Result:
    found = cartpole(8, seconds)
    return found, [
        times(found, AUTO, 1.15, SYNC),
        times(found, AUTO, 7, ASYNC),
        times(found, TWO, 1, SYNC),
    ]


def cartpole_64(seconds: float) -> Result:
    found = cartpole(64, seconds)
    return found, [times(found, TWO, 1.75, SYNC)]


def cartpole_256(seconds: float) -> Result:
    found = cartpole(256, seconds)
    return found, [times(found, TWO, 1.95, SYNC)]


def small() -> Empty:
    return Empty(spaces.Box(-1, 1, (4,), np.float32))


def round_trip(seconds: float) -> Result:
    """A batch of 8 environments whose steps do nothing."""
    actions = random_actions(spaces.Discrete(4), 8)
    makers = {
        **peers(small, 8, actions),
        ONE: ours(small, 8, actions, num_workers=1),
        TWO: ours(small, 8, actions),
    }
    found = time_in_turns(makers, seconds)
    return found, [latency(found, ONE, 7), latency(found, TWO, 20)]


def empty_64(seconds: float) -> Result:
    """Serial, steps that do nothing, observations of 16 bytes."""
    actions = random_actions(spaces.Discrete(4), 64)
    makers = {
        **peers(small, 64, actions, parallel=False),
        SERIAL: ours(small, 64, actions, backend="serial"),
    }
    found = time_in_turns(makers, seconds)
    return found, [times(found, SERIAL, 2.5, "best peer")]


def image() -> Empty:
    return Empty(spaces.Box(0, 255, (84, 84, 4), np.uint8))


def image_64(seconds: float) -> Result:
    """Observations of 84 × 84 × 4 bytes, steps that do nothing."""
    actions = random_actions(spaces.Discrete(4), 64)
    makers = {
        **peers(image, 64, actions),
        SERIAL: ours(image, 64, actions, backend="serial"),
        TWO: ours(image, 64, actions),
    }
    found = time_in_turns(makers, seconds)
    return found, [times(found, SERIAL, 1.2, "best peer"), times(found, TWO, 1.2, "best peer")]


def busy_100(seconds: float) -> Result:
    """Steps of 100 µs of work in the mean, exponentially distributed; 64 environments."""

    def make() -> Timed:
        return Timed(exponential(100e-6), work)

    actions = random_actions(spaces.Discrete(4), 64)
    pool = f"{TWO}, pool of 32"
    makers = {
        **peers(make, 64, actions),
        BARE: lambda: bare(make, actions),
        f"{BARE} over 32": lambda: bare(make, actions, 32),
        TWO: ours(make, 64, actions),
        pool: ours(make, 64, actions, backend="pool", batch_size=32),
    }
    found = time_in_turns(makers, 2 * seconds)
    # With `step`, a worker that draws short steps waits for the other.
    most = ceiling(found, f"{BARE} over 32", True) / min(WORKERS, usable_cores()) * 100
    return found, [
        share(found, TWO, 88),
        Bar(f"the most that {TWO} could reach", most, 0, form="{:.1f} %", bound=False),
        share(found, pool, 95),
    ]


def busy_1000(seconds: float) -> Result:
    """Steps of 1 ms of work in the mean, exponentially distributed; 8 environments."""

    def make() -> Timed:
        return Timed(exponential(1e-3), work)

    actions = random_actions(spaces.Discrete(4), 8)
    pool = f"{TWO}, pool of 4"
    makers = {
        **peers(make, 8, actions),
        BARE: lambda: bare(make, actions),
        TWO: ours(make, 8, actions),
        pool: ours(make, 8, actions, backend="pool", batch_size=4),
    }
    found = time_in_turns(makers, 2 * seconds)
    return found, [share(found, pool, 90)]


def sleeping(seconds: float) -> Result:
    """Steps that sleep 1 ms, and one in 20 that sleeps 50 ms; 16 workers of one environment."""

    def make() -> Timed:
        return Timed(np.repeat([1e-3, 50e-3], [95, 5]), time.sleep)

    actions = random_actions(spaces.Discrete(4), 16)
    whole, pool = "Shoal 16 workers", "Shoal 16 workers, pool of 8"
    makers = {
        **peers(make, 16, actions),
        whole: ours(make, 16, actions, num_workers=16),
        pool: ours(make, 16, actions, backend="pool", num_workers=16, batch_size=8),
    }
    found = time_in_turns(makers, 2 * seconds)
    return found, [times(found, pool, 2, whole)]


def halfcheetah(seconds: float) -> Result:
    def make() -> Any:
        return gymnasium.make("HalfCheetah-v5", disable_env_checker=True)

    actions = random_actions(make().action_space, 64)
    makers = {
        **peers(make, 64, actions),
        SERIAL: ours("HalfCheetah-v5", 64, actions, backend="serial"),
        TWO: ours("HalfCheetah-v5", 64, actions),
        **env_pool("HalfCheetah-v5", 64, actions),
    }
    found = time_in_turns(makers, seconds)
    return found, [times(found, TWO, 1.8, SYNC)]


def nethack(seconds: float) -> Result:
    # Beside the one bare environment stand 8 in one loop, as many as each worker has. Each copy has
    # a library, tables and buffers of its own, and together they do not fit into the caches, so
    # that each step takes half as long again. How long varies, too (a step in a hundred takes six
    # times the median), and with `step` every batch ends with the slower worker. Hence the rows
    # that say how much two such loops could reach.

    def make() -> Any:
        import nle  # noqa: F401  (registers the environment)

        return gymnasium.make("NetHackScore-v0", disable_env_checker=True)

    name = "nle:NetHackScore-v0"
    actions = random_actions(make().action_space, 16, 1024)
    pool = f"{TWO}, pool of 8"
    makers = {
        **peers(make, 16, actions),
        BARE: lambda: bare(make, actions),
        f"{BARE} over 8": lambda: bare(make, actions, 8),
        SERIAL: ours(name, 16, actions, backend="serial"),
        TWO: ours(name, 16, actions),
        pool: ours(name, 16, actions, backend="pool", batch_size=8),
    }
    found = time_in_turns(makers, 2 * seconds)
    bars = []
    for variant, limit, waiting in ((TWO, 1.6, True), (pool, 1.75, False)):
        most = ceiling(found, f"{BARE} over 8", waiting)
        bars += [
            times(found, variant, limit, BARE),
            Bar(f"the most that {variant} could reach", most, 0, bound=False),
        ]
    return found, bars


def multi_agent(seconds: float) -> Result:
    """128 agents × 8, steps that do nothing; a step of all agents counts as one."""
    actions = random_actions(spaces.Discrete(4), 128 * 8)

    def supersuit_vector(num_cpus: int) -> Variant:
        import supersuit

        vector = supersuit.pettingzoo_env_to_vec_env_v1(empty_parallel())
        vectors = supersuit.concat_vec_envs_v1(vector, 8, num_cpus, base_class="gymnasium")
        return stepped(vectors, 8, actions)

    makers = {
        "SuperSuit": lambda: supersuit_vector(1),
        f"SuperSuit, {WORKERS} processes": lambda: supersuit_vector(WORKERS),
        SERIAL: ours(empty_parallel, 8, actions, backend="serial"),
        TWO: ours(empty_parallel, 8, actions),
    }
    found = time_in_turns(makers, seconds)
    return found, [times(found, TWO, 8, "best peer")]


def idle(seconds: float) -> Result:
    """Five seconds without a call, and the first batch after them."""
    actions = random_actions(spaces.Discrete(4), 8)
    makers = {
        **peers(small, 8, actions),
        ONE: ours(small, 8, actions, num_workers=1),
        TWO: ours(small, 8, actions),
    }
    found = make_all(makers)
    for variant in found.values():
        step_for(variant, 0.1)
    before = {name: cpu_seconds(variant.pids) for name, variant in found.items()}
    time.sleep(5)
    used = {name: cpu_seconds(variant.pids) - before[name] for name, variant in found.items()}
    bars = []
    for name, variant in found.items():
        begin = time.perf_counter()
        variant.batch()
        first = (time.perf_counter() - begin) * 1e3
        bound = name.startswith("Shoal")  # peers are only shown
        bars += [
            Bar(f"{name}, CPU" + " ≤ 0.01 s" * bound, used[name], 0.01, True, "{:.2f} s", bound),
            Bar(f"{name}, first batch" + " ≤ 1 ms" * bound, first, 1, True, "{:.2f} ms", bound),
        ]
        variant.close()
    return {}, bars


def auto_sweep(seconds: float) -> Result:
    """Eight environments of which a step takes 1 µs to 10 ms of work."""
    actions = random_actions(spaces.Discrete(4), 8)
    makers: Makers = {}
    for mean in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):

        def make(mean: float = mean) -> Timed:
            return Timed(np.array([mean]), work)

        makers[f"{SERIAL}, {mean * 1e6:g} µs"] = ours(make, 8, actions, backend="serial")
        makers[f"{AUTO}, {mean * 1e6:g} µs"] = ours(make, 8, actions, backend="auto")
    found = time_in_turns(makers, seconds)
    autos = [name for name in found if name.startswith(AUTO)]
    return found, [times(found, name, 0.95, name.replace(AUTO, SERIAL)) for name in autos]


CASES: dict[str, tuple[str, Callable[[float], Result]]] = {
    "cartpole-8": ("CartPole-v1, 8 environments", cartpole_8),
    "cartpole-64": ("CartPole-v1, 64 environments", cartpole_64),
    "cartpole-256": ("CartPole-v1, 256 environments", cartpole_256),
    "round-trip": ("Empty step, 8 environments", round_trip),
    "empty-64": ("Empty step, 16-byte observations, 64 environments, one process", empty_64),
    "image-64": ("Empty step, 84×84×4 bytes, 64 environments", image_64),
    "busy-100us": ("Busy step, exponential, mean 100 µs, 64 environments", busy_100),
    "busy-1ms": ("Busy step, exponential, mean 1 ms, 8 environments", busy_1000),
    "sleeping": ("Sleeping steps of 1 ms, 5 % of them 50 ms, 16 environments", sleeping),
    "halfcheetah": ("MuJoCo HalfCheetah-v5, 64 environments", halfcheetah),
    "nethack": ("NetHack, 16 environments", nethack),
    "multi-agent": ("128 agents, empty step, 8 environments", multi_agent),
    "idle": ("Idle for 5 seconds, 8 environments", idle),
    "auto": ('backend="auto", steps of 1 µs to 10 ms, 8 environments', auto_sweep),
}


# -- the report -------------------------------------------------------------------------------


def rows_of(found: Found) -> Iterator[list[str]]:
    for name, variant in found.items():
        shoal_name = f"**{name}**" if name.startswith("Shoal") else name
        yield [
            shoal_name,
            f"{variant.rate:,.0f}",
            f"{variant.cpu / variant.steps * 1e6:.3g}",
            f"{variant.percentile(50) * 1e6:,.1f}",
            f"{variant.percentile(99) * 1e6:,.1f}",
        ]


def report(title: str, found: Found, bars: list[Bar]) -> str:
    parts = [f"## {title}"]
    if found:
        head = ["", "steps/s", "CPU s per million steps", "batch p50 (µs)", "p99 (µs)"]
        parts.append(table(head, list(rows_of(found))))
    rows = [
        [bar.text, bar.form.format(bar.got), ("yes" if bar.met else "**no**") if bar.bound else ""]
        for bar in bars
        if bar.got == bar.got  # a peer that is not installed
    ]
    parts.append(table(["bar", "got", "met"], rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="shorter rounds; nothing is saved")
    args = parser.parse_args()
    machine_found = machine(
        *("numpy", "gymnasium", "stable-baselines3", "envpool", "supersuit", "pufferlib")
    )
    parts = ["# Vectorization: Shoal beside its peers", machine_text(machine_found)]
    data: dict[str, Any] = {"machine": machine_found, "cases": {}}
    print("\n\n".join(parts), flush=True)
    for name in args.only or CASES:
        title, measure = CASES[name]
        found, bars = measure(0.1 if args.quick else 0.4)
        parts.append(report(title, found, bars))
        print(f"\n{parts[-1]}", flush=True)
        data["cases"][name] = {
            "variants": {
                each: {
                    "steps per second": variant.rate,
                    "rounds": variant.rates,
                    "CPU seconds per million steps": variant.cpu / variant.steps * 1e6,
                    "p50": variant.percentile(50),
                    "p99": variant.percentile(99),
                }
                for each, variant in found.items()
            },
            "bars": [
                {"bar": bar.text, "got": bar.got, "limit": bar.limit, "met": bar.met}
                for bar in bars
                if bar.got == bar.got
            ],
        }
    if not args.quick and not args.only:
        save("vectorization", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
