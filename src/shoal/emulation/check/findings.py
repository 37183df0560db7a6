"""Rules, findings and reports of checks, and the log of a running check."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import NoReturn

from shoal.errors import EnvCheckError

__all__ = ["RULES", "Finding", "Log", "Report", "Stopped"]

# code: (severity, how to fix it). An error breaks training or the interface. A warning is harmless
# in emulated environments, or intended by some authors. A note is worth knowing.
RULES: dict[str, tuple[str, str]] = {
    # what reset and step return
    "result": (
        "error",
        "return (observation, info) from reset, and from step "
        "(observation, reward, terminated, truncated, info)",
    ),
    "exception": ("error", "reset and step must work for every action of the action space"),
    "native": (
        "error",
        "write every observation in reset and step, stay within the arrays that are given, and "
        "keep all that decides the next step in the state",
    ),
    "native-unchecked": ("note", "make it with debug=True, or run shoal check"),
    "reward-type": ("error", "return a number as reward; 0.0 if there is none"),
    "reward-array": ("warning", "return float(reward), not an array"),
    "reward-nan": ("error", "look for a division by zero or an overflow; clip before returning"),
    "flag-type": ("error", "return True or False"),
    "flag-number": ("warning", "return bool(...) instead of a number"),
    "info-type": ("error", "return a dict; {} if it would be empty"),
    # values against their spaces
    "type": ("error", "return what space.sample() would, or change the space"),
    "not-array": ("warning", "wrap it in np.asarray(..., dtype=space.dtype)"),
    "dtype": ("error", "cast with .astype(space.dtype), or give the space this dtype"),
    "dtype-cast": ("warning", "it is cast without loss; .astype(space.dtype) says so"),
    "shape": ("error", "reshape the value, or give the space this shape"),
    "nan": ("error", "look for a division by zero; replace NaN before returning"),
    "inf": ("warning", "clip it; an infinite input makes a network's output NaN"),
    "bounds": ("error", "clip the value, or widen the space's bounds"),
    "keys": ("error", "return exactly the keys of the Dict space"),
    "contains": ("error", "return what space.sample() would, or change the space"),
    "space": ("warning", "pass this to shoal.emulate"),
    "reused": (
        "warning",
        "return a copy: a replay buffer that keeps observations would hold one array many times; "
        "emulated environments copy, and are safe",
    ),
    # episodes
    "done-after-done": ("error", "reset() must clear the end; report it once in an episode"),
    "step-after-end": ("warning", "raise an error, or go on returning terminated=True"),
    "never-ends": ("note", "give it a time limit (max_episode_steps) if that is not intended"),
    "old-interface": ("note", "use reset(seed=, options=) and five-valued steps"),
    # seeding
    "rng-global": (
        "error",
        "draw from self.np_random, which super().reset(seed=seed) seeds, instead of from "
        "`random` or `numpy.random`, which the whole process shares",
    ),
    "rng-unseeded": (
        "error",
        "seed it in reset(seed=seed) when seed is not None, best by using self.np_random after "
        "super().reset(seed=seed)",
    ),
    "not-reproducible": (
        "error",
        "reset(seed=seed) must seed every generator, also one inside a library, and clear all "
        "that the previous episode left",
    ),
    "clock": ("error", "count steps instead of seconds; take no seed from the time"),
    "seed-ignored": ("error", "pass seed on: super().reset(seed=seed)"),
    "seed-no-effect": ("warning", "none needed if the environment is deterministic on purpose"),
    # agents
    "agents": ("error", "agents must be distinct, and among possible_agents"),
    "agent-key": ("error", "use only the agents that took part in this step as keys"),
    "agent-missing": ("error", "give every agent of env.agents an entry"),
    "agent-revived": ("error", "an agent that has ended stays away until reset(); use a new name"),
    "agent-lingers": ("error", "remove an agent from env.agents once its end was reported"),
    "agent-vanished": ("warning", "report terminated or truncated when an agent leaves"),
}
ORDER = ("error", "warning", "note")
MOST_SHOWN = 5  # findings of one code


@dataclass
class Finding:
    """One fault of an environment.

    Attributes:
        code: the rule of `RULES` that was broken.
        severity: ``error``, ``warning`` or ``note``.
        where: path of the leaf (``obs.inventory[3]``), or ``reward``, ``agents``, ``reset`` ...
        episode: counts from 1; 0 if the fault belongs to no episode.
        step: counts from 1 in the episode; 0 is the reset.
        message: the fault.
        fix: how to fix it.
        count: number of times the fault was found.
    """

    code: str
    severity: str
    where: str
    episode: int
    step: int
    message: str
    fix: str
    count: int = 1

    def line(self) -> str:
        """Return the finding without its fix."""
        at = f", episode {self.episode}, step {self.step}" if self.episode else ""
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.severity}[{self.code}] {self.where}{at}: {self.message}{times}"

    def __str__(self) -> str:
        return f"{self.line()}\n    fix: {self.fix}"


@dataclass(frozen=True)
class Report:
    """What `check_env` found.

    Attributes:
        env: name of the environment.
        steps, episodes: numbers of what was checked.
        seed: that of the first reset.
        findings: errors first, then by code, each code and place once.
    """

    env: str
    steps: int
    episodes: int
    seed: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def ok(self) -> bool:
        """True if there are no errors."""
        return not self.errors

    def raise_if_failed(self) -> None:
        """Raise EnvCheckError with the whole report if there are errors."""
        if not self.ok:
            raise EnvCheckError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.env}: {self.steps:,} steps, {self.episodes:,} episodes, seed {self.seed}"]
        for _, group in itertools.groupby(self.findings, key=lambda finding: finding.code):
            alike = list(group)
            lines += [finding.line() for finding in alike[:MOST_SHOWN]]
            if len(alike) > MOST_SHOWN:
                lines.append(f"    ... and {len(alike) - MOST_SHOWN} more, elsewhere")
            lines.append(f"    fix: {alike[0].fix}")
        counts = [sum(f.severity == severity for f in self.findings) for severity in ORDER]
        told = [f"{n} {name}{'s' * (n != 1)}" for n, name in zip(counts, ORDER) if n]
        return "\n".join([*lines, ", ".join(told) or "no faults found"])


class Stopped(EnvCheckError):
    """Ends a check after a fault that has been noted."""


class Log:
    """Collects findings, one for each code and place, or raises them.

    Attributes:
        found: the findings by code and place.
        episode, step: the present ones of the environment.
        steps: number of steps in all episodes.
    """

    def __init__(self, raising: bool = False):
        self.raising = raising
        self.found: dict[tuple[str, str], Finding] = {}
        self.episode = self.step = self.steps = 0

    def begin(self) -> None:
        """Note that a reset begins."""
        self.episode += 1
        self.step = 0

    def advance(self) -> None:
        """Note that a step begins."""
        self.step += 1
        self.steps += 1

    def report(
        self, code: str, where: str, message: str, at: tuple[int, int] | None = None
    ) -> None:
        """Note a finding at the present episode and step, or at those of `at`."""
        severity, fix = RULES[code]
        known = self.found.get((code, where))
        if known is not None:
            known.count += 1
        else:
            episode, number = at or (self.episode, self.step)
            known = Finding(code, severity, where, episode, number, message, fix)
            self.found[code, where] = known
            if self.raising and severity == "warning":
                warnings.warn(str(known), stacklevel=4)
        if self.raising and severity == "error":
            raise EnvCheckError(str(known))

    def fail(self, code: str, where: str, message: str) -> NoReturn:
        """Note a finding after which the check can't go on, and raise `Stopped`."""
        self.report(code, where, message)
        raise Stopped(message)
