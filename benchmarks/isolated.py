"""Workers under another interpreter beside those under this one, on NetHack's observations.

    python benchmarks/isolated.py [--python OTHER ...]

Each interpreter named needs NumPy and Gymnasium. Without any, Shoal's compiled modules are kept
from loading in this one (``SHOAL_COMPILED=0``), as they are in one of another version.

Bar: 0.9 × the throughput of workers under this interpreter, with steps as long as NetHack's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

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
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return self.observation, 0.0, False, False, {"end_status": 0, "is_ascended": False}


def main() -> None:
    from _common import machine, machine_text, save, table

    import shoal

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if not args.python:
        os.environ["SHOAL_COMPILED"] = "0"
        args.python = [sys.executable]
    rows = []
    for microseconds in (0, 33):
        how = {
            "num_workers": 2,
            "env_kwargs": {"seconds": microseconds / 1e6},
            "backend": "multiprocess",
        }
        name = f"{Path(__file__).resolve()}:Dungeon"
        vectors = [shoal.vectorize(name, 16, **how)]
        vectors += [shoal.vectorize(name, 16, python=python, **how) for python in args.python]
        actions = np.zeros(16, np.int64)
        rates: list[list[float]] = [[] for _ in vectors]
        for vector in vectors:
            vector.reset()
        for _ in range(args.rounds):
            for vector, found in zip(vectors, rates):
                begin, steps = time.perf_counter(), 0
                while time.perf_counter() < begin + 0.3:
                    vector.step(actions)
                    steps += 16
                found.append(steps / (time.perf_counter() - begin))
        for vector in vectors:
            vector.close()
        for python, found in zip(["this interpreter", *args.python], rates):
            factor = statistics.median(mine / base for mine, base in zip(found, rates[0]))
            rows.append(
                [f"{microseconds} µs", python, f"{statistics.median(found):,.0f}", f"{factor:.2f}"]
            )
    text = table(["a step takes", "workers under", "steps per second", "factor"], rows)
    print(text)
    about = machine("numpy", "gymnasium")
    heading = f"# Workers under another interpreter\n\n{machine_text(about)}\n\n"
    save("isolated", heading + text, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
