"""What emulation adds to a step of the bare environment, beside its peers, in the same run.

    python benchmarks/emulation.py [--quick] [CASE ...]

"Over the bare environment" is the time per step of the compiled loop, which vectors use, less the
time of calling the bare environment in a Python loop. Both step the same number of copies, with the
same actions, and reset them when an episode ends. Beside it stand the same difference for the
emulated environment's own `step`, called from Python, and for the peers' `step`.

The bars, in microseconds over the bare environment:

- a replay of NetHack's observations: 1.25 × one memcpy of the same bytes
- an observation of 20 mixed leaves, with an empty step: 0.6
- the same with a nested Dict action: 1.2
- CartPole-v1: 0.3
- 128 agents with a Dict observation of 5 leaves, with an empty step: 30 for all of them
- a replay of Pong's frames: 1.25 × one memcpy, and 0.2

The memcpy goes from the same sources to as many destinations, in the same order. The time of
calling it from Python is measured with no bytes, and taken off.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from _common import EmptyParallel, machine, machine_text, median_over, rounds, save, table
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnasium.wrappers import FlattenObservation

import shoal
from shoal.emulation.interfaces import is_multi_agent
from shoal.emulation.loop import EnvLoop
from shoal.rows.buffers import Buffers
from shoal.rows.fields import SAME_STEP, zero_rows

NUM_ENVS = 8
STEPS = 256  # of each copy, in one call of a variant
FRAMES = 64  # recorded observations that are replayed


# -- environments -----------------------------------------------------------------------------


class Replay(gymnasium.Env):
    """Returns recorded observations, one after the other; each copy begins at another one.

    (Were they in step, all but the first would find the observation in the cache.)
    """

    starts = itertools.cycle(range(0, FRAMES, FRAMES // NUM_ENVS))

    def __init__(self, observation_space, action_space, observations):
        self.observation_space = observation_space
        self.action_space = action_space
        self.observations = observations
        self.at = next(self.starts)

    def reset(self, *, seed=None, options=None):
        return self.observations[0], {}

    def step(self, action):
        self.at = at = (self.at + 1) % len(self.observations)
        return self.observations[at], 0.0, False, False, {}


class Empty(gymnasium.Env):
    """Returns the same result at each step."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space
        observation_space.seed(0)
        self.result = observation_space.sample(), 0.0, False, False, {}

    def reset(self, *, seed=None, options=None):
        return self.result[0], {}

    def step(self, action):
        return self.result


def box(shape, dtype, low=-1, high=1):
    return spaces.Box(low, high, shape, dtype)


FOUR = spaces.Discrete(4)
ITEM = {
    "glyph": box((), np.int16, 0, 5000),
    "count": spaces.Discrete(100),
    "flags": spaces.MultiBinary(6),
}
TWENTY_LEAVES = spaces.Dict(
    {
        "position": box((3,), np.float32),
        "velocity": box((3,), np.float64),
        "map": box((11, 11), np.uint8, 0, 255),
        "role": spaces.Discrete(13),
        "status": spaces.MultiBinary(8),
        "levels": spaces.MultiDiscrete([10, 10, 20]),
        "inventory": spaces.Tuple([spaces.Dict(ITEM)] * 4),
        "pair": spaces.Tuple([box((2, 2), np.float32), box((), np.uint8, 0, 9)]),
    }
)
NESTED_ACTION = spaces.Dict(
    {
        "move": spaces.Discrete(5),
        "attack": spaces.Dict({"style": spaces.Discrete(3), "target": spaces.Discrete(101)}),
        "use": spaces.Tuple([spaces.Discrete(13), spaces.MultiBinary(4)]),
        "aim": box((2,), np.float32),
    }
)
FIVE_LEAVES = spaces.Dict(
    {
        "self": spaces.Dict({"position": box((2,), np.float32), "role": spaces.Discrete(5)}),
        "map": box((7, 7), np.uint8, 0, 255),
        "others": spaces.Dict({"seen": spaces.MultiBinary(16), "at": box((16, 2), np.float32)}),
    }
)


def recorded(name: str) -> tuple[spaces.Space, spaces.Space, list[Any]]:
    """Spaces and observations of an environment under random actions."""
    env = gymnasium.make(name, disable_env_checker=True)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    found = []
    while len(found) < FRAMES:
        if isinstance(observation, dict):
            found.append({key: value.copy() for key, value in observation.items()})
        else:
            found.append(observation.copy())
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return env.observation_space, env.action_space, found


# -- what is timed ----------------------------------------------------------------------------


@dataclass
class Case:
    name: str
    make: Callable[[], Any]
    bar: float | None = None  # over the bare environment; None: in terms of memcpy
    memcpy_factor: float = 0.0
    memcpy_extra: float = 0.0
    peers: dict[str, Callable[[Any], Any]] = field(default_factory=dict)  # a wrapper for each


def compiled_loop(make: Callable[[], Any], actions: np.ndarray) -> Callable[[], int]:
    """Step copies in the loop that vectors use; actions are (STEPS, rows, *shape)."""
    envs = [shoal.emulate(make()) for _ in range(NUM_ENVS)]
    layouts = envs[0].observation_layout, envs[0].action_layout
    agents = envs[0].agents_per_env
    loop = EnvLoop([env.core.driver() for env in envs], layouts[0].nbytes, SAME_STEP)
    rows = zero_rows(*layouts, NUM_ENVS * agents)
    buffers = Buffers(*layouts, rows)
    for i in range(NUM_ENVS):
        loop.reset(i, i, None, buffers, i * agents)
    given, step = rows["actions"], loop.step

    def run() -> int:
        for each in actions:
            given[:] = each
            step(buffers)
        return STEPS * NUM_ENVS

    return run


def python_loop(envs: list[Any], actions: list[list[Any]]) -> Callable[[], int]:
    """Call each environment's own `step`; actions are [step][environment]."""
    for i, env in enumerate(envs):
        env.reset(seed=i)
    steppers = [(env.step, env.reset) for env in envs]

    def run() -> int:
        for each in actions:
            for (step, reset), action in zip(steppers, each):
                _, _, terminated, truncated, _ = step(action)
                if terminated or truncated:
                    reset()
        return STEPS * NUM_ENVS

    return run


def parallel_loop(envs: list[Any], actions: list[list[Any]]) -> Callable[[], int]:
    """The same for PettingZoo's interface, in which these environments never end."""
    for i, env in enumerate(envs):
        env.reset(seed=i)
    steppers = [env.step for env in envs]

    def run() -> int:
        for each in actions:
            for step, action in zip(steppers, each):
                step(action)
        return STEPS * NUM_ENVS

    return run


def vector_loop(vector: Any, actions: Any) -> Callable[[], int]:
    """Step a vector of peers' making; actions are one batch for each step."""
    vector.reset(seed=0)
    step = vector.step

    def run() -> int:
        for each in actions:
            step(each)
        return STEPS * NUM_ENVS

    return run


def memcpy_loop(sources: np.ndarray, nbytes: int) -> Callable[[], int]:
    """Copy `nbytes` of the rows of `sources` as the copies of `Replay` do: from where to where."""
    to = np.zeros((NUM_ENVS, sources.shape[1]), np.uint8)
    pairs = [
        (to[i].ctypes.data, sources[(i * FRAMES // NUM_ENVS + step) % FRAMES].ctypes.data)
        for step in range(STEPS)
        for i in range(NUM_ENVS)
    ]
    move = ctypes.memmove

    def run(keep=(sources, to)) -> int:
        for target, source in pairs:
            move(target, source, nbytes)
        return len(pairs)

    return run


def variants_of(case: Case) -> dict[str, Callable[[], int]]:
    make = case.make
    env = shoal.emulate(make())
    layout = env.action_layout
    space = layout.flat_space
    space.seed(0)
    num_rows = NUM_ENVS * env.agents_per_env
    flat = layout.flat.zeros(STEPS, num_rows)
    for step in range(STEPS):
        for row in range(num_rows):
            layout.flat.pack(space.sample(), flat[step, row : row + 1].reshape(layout.flat.shape))
    # What the environments themselves are given, made beforehand.
    native = [
        [
            layout.decode(flat[step, row : row + 1].reshape(layout.flat.shape))
            for row in range(num_rows)
        ]
        for step in range(STEPS)
    ]
    flats = [
        [
            layout.flat.unpack(flat[step, row : row + 1].reshape(layout.flat.shape))
            for row in range(num_rows)
        ]
        for step in range(STEPS)
    ]
    python = python_loop
    if is_multi_agent(env):
        python = parallel_loop
        names = env.possible_agents
        native, flats = (
            [
                [
                    dict(zip(names, each[i * len(names) : (i + 1) * len(names)]))
                    for i in range(NUM_ENVS)
                ]
                for each in actions
            ]
            for actions in (native, flats)
        )

    def copies(wrap: Callable[[Any], Any]) -> list[Any]:
        return [wrap(make()) for _ in range(NUM_ENVS)]

    found = {
        "bare": python(copies(lambda env: env), native),
        "loop": compiled_loop(make, flat),
        "step": python(copies(shoal.emulate), flats),
    }
    for name, wrap in case.peers.items():
        try:
            if name.endswith("vector"):
                found[name] = vector_loop(wrap(make), batches(env, native, flat))
            else:
                found[name] = python(copies(wrap), flats if "puffer" in name else native)
            found[name]()
        except Exception as error:  # a peer that can't do this case is no failure of ours
            found.pop(name, None)
            print(f"  {name} does not run: {type(error).__name__}: {error}", file=sys.stderr)
    if case.bar is None:
        made = make()
        bytes_layout = shoal.Layout.from_space(made.observation_space)
        sources = np.stack(
            [bytes_layout.pack(each).reshape(-1).view(np.uint8) for each in made.observations]
        )
        found["memcpy"] = memcpy_loop(sources, sources.shape[1])
        found["memcpy of nothing"] = memcpy_loop(sources, 0)
    return found


def batches(env: Any, native: list[list[Any]], flat: np.ndarray) -> Any:
    """Actions as vectors take them: batched in Gymnasium's way."""
    if is_multi_agent(env):
        return flat
    space = env.action_layout.native.space
    return [concatenate(space, each, create_empty_array(space, NUM_ENVS)) for each in native]


def sync_vector(make: Callable[[], Any]) -> SyncVectorEnv:
    return SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)


def puffer(env: Any) -> Any:
    from pufferlib import emulation

    if is_multi_agent(env):
        return emulation.PettingZooPufferEnv(env=env)
    return emulation.GymnasiumPufferEnv(env=env)


def cases() -> list[Case]:
    import ale_py
    import nle  # noqa: F401  (registers its environments)
    import supersuit

    gymnasium.register_envs(ale_py)
    puffer_peer = {"pufferlib": puffer} if find_spec("pufferlib") else {}
    gym_peers = {
        "FlattenObservation": FlattenObservation,
        "SyncVectorEnv vector": sync_vector,
        **puffer_peer,
    }
    nethack, pong = recorded("NetHackScore-v0"), recorded("ALE/Pong-v5")

    def supersuit_vector(make: Callable[[], Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vector = supersuit.pettingzoo_env_to_vec_env_v1(make())
            return supersuit.concat_vec_envs_v1(vector, NUM_ENVS, base_class="gymnasium")

    return [
        Case("NetHack replay", lambda: Replay(*nethack), None, 1.25, 0.0, gym_peers),
        Case("20 leaves", lambda: Empty(TWENTY_LEAVES, FOUR), 0.6, peers=gym_peers),
        Case(
            "20 leaves, nested action",
            lambda: Empty(TWENTY_LEAVES, NESTED_ACTION),
            1.2,
            peers=gym_peers,
        ),
        Case(
            "CartPole-v1",
            lambda: gymnasium.make("CartPole-v1", disable_env_checker=True),
            0.3,
            peers={**gym_peers, "SuperSuit": supersuit.flatten_v0},
        ),
        Case(
            "128 agents",
            functools.partial(EmptyParallel, FIVE_LEAVES),
            30.0,
            peers={"SuperSuit vector": supersuit_vector, **puffer_peer},
        ),
        Case("Pong replay", lambda: Replay(*pong), None, 1.25, 0.2, gym_peers),
    ]


def measure(case: Case, count: int) -> dict[str, Any]:
    times = rounds(variants_of(case), count=count, clock=time.thread_time)
    medians = {name: statistics.median(each) for name, each in times.items()}
    over = {
        name: median_over(times[name], times["bare"])
        for name in times
        if name != "bare" and not name.startswith("memcpy")
    }
    bar = case.bar
    found: dict[str, Any] = {"case": case.name, "bare": medians["bare"], "over bare": over}
    if bar is None:
        copy = median_over(times["memcpy"], times["memcpy of nothing"])
        bar = case.memcpy_factor * copy + case.memcpy_extra
        found["memcpy"] = copy
    return {**found, "bar": bar, "met": over["loop"] <= bar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", metavar="CASE", help="cases whose names contain these")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; nothing is saved")
    args = parser.parse_args()
    found = machine("numpy", "gymnasium", "pettingzoo", "supersuit", "pufferlib")
    results = []
    for case in cases():
        if not args.only or any(each in case.name for each in args.only):
            print(f"{case.name} ...", file=sys.stderr)
            results.append(measure(case, 9 if args.quick else 41))
    peers = [
        *("FlattenObservation", "SyncVectorEnv vector", "SuperSuit", "SuperSuit vector"),
        "pufferlib",
    ]
    peers = [name for name in peers if any(name in each["over bare"] for each in results)]
    head = ["case", "Shoal", "bar", "Shoal `step`", *peers, "bare step", "memcpy"]

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"

    rows = [
        [
            each["case"],
            f"**{number(each['over bare']['loop'])}**" + ("" if each["met"] else " (missed)"),
            number(each["bar"]),
            number(each["over bare"]["step"]),
            *(number(each["over bare"].get(name)) for name in peers),
            number(each["bare"]),
            number(each.get("memcpy")),
        ]
        for each in results
    ]
    text = "\n\n".join(
        [
            "# Emulation: microseconds per step over the bare environment",
            machine_text(found),
            f"Medians of interleaved rounds, {NUM_ENVS} copies. Shoal: the compiled loop less a "
            "Python loop over the bare environment; all others: their own `step` less the same. "
            "A step of 128 agents counts as one.",
            table(head, rows),
        ]
    )
    print(text)
    if not args.quick and not args.only:
        save("emulation", text, {"machine": found, "results": results})


if __name__ == "__main__":
    main()
