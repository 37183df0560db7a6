"""Where the time of training goes: seconds by phase, which add up to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["LEARNING", "PHASES", "Phases", "grouped"]

PHASES = (
    "environment",
    "copy",
    "act",
    "advantages",
    "forward",
    "backward",
    "optimiser",
    "checks",
    "rest",
)
LEARNING = ("advantages", "forward", "backward", "optimiser")


class Phases:
    """A clock with one hand: always in one phase, until `enter` begins another.

    Entering a phase takes about 0.2 µs, so the trainer does it in every run. A GPU computes while
    the host goes on: its time is in the phase that next waits for it, unless `wait` is set.

    Attributes:
        seconds: of each phase since `restart`.
        wait: called at the end of each phase; the profiler's waits for the GPU.
    """

    def __init__(self) -> None:
        self.wait: Callable[[], None] | None = None
        self.restart()

    def restart(self) -> None:
        """Forget all seconds, and begin the phase "rest"."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._name, self._begun = "rest", time.perf_counter()

    def enter(self, name: str) -> None:
        """End the present phase and begin another."""
        if self.wait is not None:
            self.wait()
        now = time.perf_counter()
        self.seconds[self._name] += now - self._begun
        self._name, self._begun = name, now


def grouped(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of phases with those of learning as one, ``learn``."""
    groups = {name: taken for name, taken in seconds.items() if name not in LEARNING}
    return groups | {"learn": sum(seconds[name] for name in LEARNING)}
