"""What checks of an environment find: rules, findings, reports, and the log of a running check."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import NoReturn

from shoal.errors import EnvCheckError

__all__ = ["RULES", "Finding", "Log", "Report", "Stopped"]

# code: (severity, how to mend). An error breaks training or the interface; a warning is harmless
# to emulated environments, or wanted by some; a note is worth knowing.
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
    "reward-type": ("error", "return a number as reward; 0.0 where there is none"),
    "reward-array": ("warning", "return float(reward), not an array"),
    "reward-nan": ("error", "look for a division by zero or an overflow; clip before returning"),
    "flag-type": ("error", "return True or False"),
    "flag-number": ("warning", "return bool(...) instead of a number"),
    "info-type": ("error", "return a dict, {} if there is nothing to tell"),
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
        "return a copy: whoever keeps observations (a replay buffer) holds the same one many "
        "times; emulated environments copy, and are safe",
    ),
    # episodes
    "done-after-done": ("error", "reset() must clear the end; report it once in an episode"),
    "step-after-end": ("warning", "raise an error, or go on returning terminated=True"),
    "never-ends": ("note", "give it a time limit (max_episode_steps) if that is not meant"),
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
        "that the episode before left",
    ),
    "clock": ("error", "count steps instead of seconds; take no seed from the time"),
    "seed-ignored": ("error", "pass seed on: super().reset(seed=seed)"),
    "seed-no-effect": ("warning", "nothing to do if the environment is meant to be deterministic"),
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
        code: which rule of `RULES` was broken.
        severity: ``error``, ``warning`` or ``note``.
        where: path of the leaf (``obs.inventory[3]``), or ``reward``, ``agents``, ``reset`` ...
        episode: counts from 1; 0 if it concerns no episode in particular.
        step: of that episode; 0 is its reset.
        message: what was found.
        mend: how to mend it.
        count: how many times.
    """

    code: str
    severity: str
    where: str
    episode: int
    step: int
    message: str
    mend: str
    count: int = 1

    def line(self) -> str:
        """All but how to mend it."""
        at = f", episode {self.episode}, step {self.step}" if self.episode else ""
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.severity}[{self.code}] {self.where}{at}: {self.message}{times}"

    def __str__(self) -> str:
        return f"{self.line()}\n    to mend: {self.mend}"


@dataclass(frozen=True)
class Report:
    """What `check_env` found.

    Attributes:
        env: name of the environment.
        steps, episodes: how many were checked.
        seed: the first reset's.
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
        """Whether there are no errors."""
        return not self.errors

    def raise_if_failed(self) -> None:
        """Raise EnvCheckError with the whole report unless `ok`."""
        if not self.ok:
            raise EnvCheckError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.env}: {self.steps:,} steps, {self.episodes:,} episodes, seed {self.seed}"]
        for _, group in itertools.groupby(self.findings, key=lambda finding: finding.code):
            alike = list(group)
            lines += [finding.line() for finding in alike[:MOST_SHOWN]]
            if len(alike) > MOST_SHOWN:
                lines.append(f"    ... and {len(alike) - MOST_SHOWN} more, elsewhere")
            lines.append(f"    to mend: {alike[0].mend}")
        counts = [sum(f.severity == severity for f in self.findings) for severity in ORDER]
        told = [f"{n} {name}{'s' * (n != 1)}" for n, name in zip(counts, ORDER) if n]
        return "\n".join([*lines, ", ".join(told) or "no faults found"])


class Stopped(EnvCheckError):
    """Ends a check after a fault that has been noted."""


class Log:
    """Where findings go: collected, one for each code and place, or raised.

    Attributes:
        found: the findings by code and place.
        episode, step: where the environment is.
        steps: how many there were in all.
    """

    def __init__(self, raising: bool = False):
        self.raising = raising
        self.found: dict[tuple[str, str], Finding] = {}
        self.episode = self.step = self.steps = 0

    def begin(self) -> None:
        """A reset is about to happen."""
        self.episode += 1
        self.step = 0

    def advance(self) -> None:
        """A step is about to be taken."""
        self.step += 1
        self.steps += 1

    def tell(self, code: str, where: str, message: str, at: tuple[int, int] | None = None) -> None:
        """Note a finding; `at` is (episode, step) if it is not the present one."""
        severity, mend = RULES[code]
        known = self.found.get((code, where))
        if known is not None:
            known.count += 1
        else:
            episode, number = at or (self.episode, self.step)
            known = Finding(code, severity, where, episode, number, message, mend)
            self.found[code, where] = known
            if self.raising and severity == "warning":
                warnings.warn(str(known), stacklevel=4)
        if self.raising and severity == "error":
            raise EnvCheckError(str(known))

    def fail(self, code: str, where: str, message: str) -> NoReturn:
        """Note a finding after which the check can't go on, and raise `Stopped`."""
        self.tell(code, where, message)
        raise Stopped(message)
