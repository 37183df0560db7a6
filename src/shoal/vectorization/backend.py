"""The contract between a vector and the backend that steps its environments.

`Vector` is what the user holds. It checks every argument, so that a backend need not, and asks a
backend only for what `Backend` lists. `Options` is how environments are stepped.

A batch's life: `post` gives environments an operation, and each is in flight from then on.
`wait` returns when the results of `batch_size` of them are in a block of the arena: batch number
`turn` in block ``turn % arena.num_blocks``, where they stay until ``wait(turn + 2)``.

Invariants, by which nothing is lost or done twice, whenever KeyboardInterrupt comes:
- `num_posted` changes in the same instant as `post` takes effect.
- `wait` and what follows it may be called again with the same `turn`, and then give the same.
- An environment in this process is not interrupted in the middle of a step; or `wait` raises from
  then on.

One thread at a time uses a backend, except that `close` may be called from another one.

A backend for environments in Python need not write rows: `EnvGroup` (workers/group.py) makes the
environments and has the methods that `call` names, and `Stepper` writes what they return. The tests
have such a backend as an example, ``tests/vectorization/sixth_backend.py``.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shoal.emulation.options import EmulationOptions
from shoal.errors import ConfigError
from shoal.rows.fields import MODES
from shoal.vectorization.arena import Arena
from shoal.vectorization.description import Description

__all__ = ["START_METHODS", "Backend", "Options", "seeds"]


BACKENDS = ("auto", "serial", "multiprocess", "pool", "native", "batched", "ray")
START_METHODS = ("fork", "forkserver", "spawn")


@dataclass(frozen=True)
class Options:
    """How to step environments: what `shoal.vectorize` was given, each value checked once.

    NumPy's integers become Python's, and names of autoreset modes Gymnasium's `AutoresetMode`
    (``"own"`` and None, the default, stay). When a backend is made, `backend`, `num_workers`,
    `batch_size` and, but for the batched one, `autoreset` have been chosen.

    Raises:
        ConfigError: a value is not one that is accepted.
    """

    emulation: EmulationOptions
    backend: str = "auto"
    num_workers: int | None = None
    batch_size: int | None = None
    order: str = "first"
    autoreset: Any = None
    seed: Any = None
    copy: bool = False
    start_method: str | None = None
    on_error: str = "raise"
    timeout: float | None = None
    affinity: Sequence[int] | None = None
    profile: bool = False
    python: str | None = None

    def __post_init__(self) -> None:
        require("backend", self.backend, BACKENDS)
        require("order", self.order, ("first", "fixed"))
        require("on_error", self.on_error, ("raise", "restart"))
        require("copy", self.copy, (False, True))
        require("profile", self.profile, (False, True))
        if self.start_method is not None:
            require("start_method", self.start_method, START_METHODS)
        values = {
            "num_workers": None if self.num_workers is None else integer("num_workers", self, 0),
            "batch_size": None if self.batch_size is None else integer("batch_size", self, 1),
            "autoreset": autoreset_mode(self.autoreset),
            "seed": seeds(self.seed),
            "timeout": None if self.timeout is None else seconds(self.timeout),
            "affinity": None if self.affinity is None else cores(self.affinity),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def mode(self) -> int:
        """Number of the autoreset mode, as in `shoal.rows.fields`."""
        return MODES.index(getattr(self.autoreset, "name", self.autoreset).lower())

    @property
    def first_seed(self) -> int | None:
        """Seed of environment 0, which the seeds of global generators follow from."""
        return self.seed[0] if isinstance(self.seed, tuple) else self.seed


def require(name: str, value: Any, accepted: Sequence[Any]) -> None:
    """Raise ConfigError unless a value is one of those accepted."""
    if not any(value is each or (value == each and isinstance(each, str)) for each in accepted):
        raise ConfigError(f"{name} must be one of {accepted}, got {value!r}")


def integer(name: str, options: Options, least: int) -> int:
    """Return the option of this name as an integer; raise ConfigError unless it is one."""
    value = getattr(options, name)
    try:
        number = least - 1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigError(f"{name} must be an integer of at least {least}, got {value!r}")
    return number


def autoreset_mode(name: Any) -> Any:
    """Return Gymnasium's mode of this name, or that mode itself; ``"own"`` and None stay."""
    if name is None:
        return None
    from gymnasium.vector import AutoresetMode

    if isinstance(name, AutoresetMode):
        return name
    if not isinstance(name, str) or name.lower() not in MODES:
        raise ConfigError(f"autoreset must be one of {MODES}, got {name!r}")
    return AutoresetMode.__members__.get(name.upper(), "own")


def seeds(value: Any) -> Any:
    """Return a seed, or one for each environment, as Python's integers.

    Args:
        value: an integer >= 0, a sequence or array of them, or None; each of the sequence may be
            None.

    Returns:
        int, a tuple of int and None, or None.
    """
    if value is None:
        return None
    many = not isinstance(value, (str, bytes)) and np.ndim(value) == 1
    each = list(value) if many else [value]
    for i, one in enumerate(each):
        if one is None and many:
            continue
        try:
            number = -1 if isinstance(one, (bool, np.bool_)) else operator.index(one)
        except TypeError:
            number = -1
        if number < 0:
            raise ConfigError(
                f"seed must be an integer >= 0, a sequence of them or None, got {value!r}"
            )
        each[i] = number
    return tuple(each) if many else each[0]


def seconds(timeout: Any) -> float:
    """Return a time in seconds; raise ConfigError unless it is one."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, np.number)):
        raise ConfigError(f"timeout must be a number of seconds or None, got {timeout!r}")
    if not timeout >= 0:
        raise ConfigError(f"timeout must be at least 0 seconds, got {timeout!r}")
    return float(timeout)


def cores(affinity: Any) -> tuple[int, ...]:
    """Return the numbers of cores; raise ConfigError unless this process may use them all."""
    try:
        chosen = tuple([operator.index(core) for core in affinity])
    except TypeError:
        chosen = ()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else chosen
    if not chosen or not set(chosen) <= set(usable):
        raise ConfigError(f"affinity must name cores among {usable}, got {affinity!r}")
    return chosen


class Backend(Protocol):
    """Steps environments, and writes what they return into the blocks of an arena.

    Attributes:
        name: which backend this is: ``"serial"``, ``"multiprocess"``, ``"pool"``, ``"native"``,
            ``"batched"``, ``"ray"``, or a new one.
        num_envs: number of environments.
        num_workers: processes or threads that step them; 0: the caller's own thread does it.
        batch_size: environments of one batch; `num_envs`, unless batches are of those that are
            ready first.
        description: what the environments are.
        arena: the rows, attached, with at least three blocks: environment ``env_ids(block)[s]`` has
            rows ``s * agents_per_env`` and on of a block. The vector writes
            ``arena.arrays["actions"]`` (the rows of environments that are not in flight) before
            `post`, and only reads the rest. The backend writes the rows of a block before `wait`
            returns, and ``arrays["counters"]``.
        num_posted: environments posted so far, counting each time.
        lends_actions: whether `post` takes the caller's own array of actions, and reads it until
            the next `wait` has returned.
        takes_objects: whether `post` takes the operation ``GIVEN``.
    """

    name: str
    num_envs: int
    num_workers: int
    batch_size: int
    description: Description
    arena: Arena
    lends_actions: bool
    takes_objects: bool

    @property
    def num_posted(self) -> int: ...

    def post(
        self,
        ops: int | np.ndarray,
        env_ids: np.ndarray | None,
        requests: dict[int, Any] | None,
        actions: np.ndarray | None = None,
    ) -> None:
        """Give environments their next operation, and return without waiting for them.

        Args:
            ops: ``STEP``, ``RESET``, ``KEEP`` (deliver the rows again, with `masks` False) or
                ``GIVEN`` (step with an action that is an object) for all; or one operation for each
                environment (int32, ``(num_envs,)``).
            env_ids: the environments that get it (int64), none of which is in flight; None: all.
                Only where `batch_size` is less than `num_envs`.
            requests: for each environment that is reset: (seed, options), None for none; for each
                that is given an action: the action.
            actions: where `lends_actions`: of all rows, instead of those in the arena.

        Raises:
            Exception: nothing was posted.
        """
        ...

    def wait(self, turn: int, timeout: float | None) -> None:
        """Wait until the results of a batch are in its block.

        Args:
            turn: number of the batch: the first is 0. It follows the last one waited for, or is it.
                If a batch is all environments, it is the number of posts before this batch's.
            timeout: seconds; None: that of the vector. What runs in the caller's own thread can't
                time out.

        Raises:
            StepTimeoutError, KeyboardInterrupt: the batch is still on its way.
            Exception: what an environment raised, or what ended a worker. The vector is closed.
        """
        ...

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environments in the slots of a block (int64, ``(batch_size,)``)."""
        ...

    def infos(self, block: int) -> dict[str, Any]:
        """Return the infos of the block last waited for, as Gymnasium's vectors give them.

        The dict and its arrays are the caller's own.
        """
        ...

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return the infos of the block last waited for: the caller's own dict for each row."""
        ...

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call a method for every environment that has arguments, while none is in flight.

        Args:
            method: ``"call"`` (name or function, args, kwargs), ``"set_attribute"`` (name, value),
                ``"set_options"`` (options,), ``"get_state"`` () or ``"set_state"`` (state,), as
                `EnvGroup` has them.
            arguments: for each environment, or None to leave an environment alone.

        Returns:
            A result for each environment; None for one that was left alone.

        Raises:
            Exception: the first that an environment raised.
        """
        ...

    def close(self) -> None:
        """Close the environments and release everything, within a few seconds.

        May be called more than once, and while another thread is in `post`, `wait` or `call`, which
        then raises ClosedError (or another error, which the vector makes one).

        Raises:
            StepTimeoutError: another thread is still in an environment of this process.
            Exception: the first that an environment raised; everything is released.
        """
        ...

    def release(self) -> None:
        """Release what would outlive the vector, when it is garbage or the interpreter ends.

        `close`, but environments in this process are left alone: others may hold them, too.
        """
        ...
