"""What both the serial backend and the workers do with environments: make, call, save, restore."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.emulation.core import Core, core_of
from shoal.emulation.interfaces import unwrapped
from shoal.emulation.loop import EnvLoop
from shoal.emulation.options import EmulationOptions
from shoal.errors import EmulationError
from shoal.vectorization.description import Description

__all__ = [
    "EnvGroup",
    "add_note",
    "call_method",
    "find_attribute",
    "has_attribute",
    "wrapper_names",
]


class EnvGroup:
    """Some environments that are stepped one after the other, with their loop.

    Args:
        creators: one function for each environment.
        first: index of the first of them in the whole vector.
        emulation: how to emulate them.
        mode: the loop's autoreset mode.
        seed: of this process's global generators, which are left alone if it is None.

    Attributes:
        envs: the cores of the emulated environments.
        loop: steps them.
    """

    def __init__(
        self,
        creators: Sequence[Callable[[], Any]],
        first: int,
        emulation: EmulationOptions,
        mode: int,
        seed: int | None,
    ):
        if seed is not None:
            seed_globals(seed)
        had_torch = "torch" in sys.modules
        self.creators = creators
        self.first = first
        self.emulation = emulation
        self.envs: list[Core] = []
        for i in range(len(creators)):
            try:
                self.envs.append(self._create(i))
                self.description().require_same(Description.of(self.envs[i]), first, first + i)
            except Exception as error:
                add_note(error, f"raised while environment {first + i} was created")
                close_quietly(self.envs)
                raise
        if seed is not None and not had_torch:
            seed_torch(seed)
        drivers: list[Any] = [env.driver() for env in self.envs]
        self.loop = EnvLoop(drivers, self.envs[0].observation_layout.nbytes, mode)

    def _create(self, i: int) -> Core:
        core = core_of(self.creators[i](), self.emulation)
        for j, other in enumerate(self.envs):
            if j != i and unwrapped(core.env) is unwrapped(other.env):
                raise EmulationError(
                    f"env must make a new {type(unwrapped(core.env)).__name__} at each call, but "
                    f"environments {self.first + j} and {self.first + i} are the same object"
                )
        return core

    def recreate(self, i: int) -> None:
        """Put a new environment in the place of number `i`; its next step resets it."""
        close_quietly([self.envs[i]])
        env = self._create(i)
        self.description().require_same(Description.of(env), self.first, self.first + i)
        self.envs[i] = env
        self.loop.replace(i, self.envs[i].driver())

    def description(self) -> Description:
        """Return what the vector needs to know of the environments."""
        return Description.of(self.envs[0])

    def call(self, i: int, name: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a method of environment `i`, or a function on it; or read an attribute."""
        env = self.envs[i].env
        if callable(name):
            result = name(env, *args, **kwargs)
        else:
            result = find_attribute(env, name)
            result = result(*args, **kwargs) if callable(result) else result
        # Copies, because the environment may write into its arrays again: frames, for example.
        if isinstance(result, np.ndarray):
            return result.copy()
        if type(result) is list and all(isinstance(each, np.ndarray) for each in result):
            return [each.copy() for each in result]
        return result

    def set_attribute(self, i: int, name: str, value: Any) -> None:
        """Set an attribute where it is found, else on the outermost wrapper, as Gymnasium does."""
        env = self.envs[i].env
        if hasattr(env, "set_wrapper_attr"):
            env.set_wrapper_attr(name, value)
        else:
            setattr(env, name, value)

    def set_options(self, i: int, options: dict[str, Any] | None) -> None:
        """Give these options to every automatic reset of environment `i` from now on."""
        self.loop.options[i] = options

    def get_state(self, i: int) -> dict[str, Any]:
        """Return all that decides how environment `i` goes on; see `Vector.get_state`."""
        from shoal.vectorization.workers.snapshots import save

        loop = self.loop.get_state(i)
        try:
            saved = save(self.envs[i].env, loop.pop("driver"))
        except Exception as error:
            raise EmulationError(
                f"environment {self.first + i} can't be saved: it has no get_state() and "
                f"set_state(), and can't be pickled ({type(error).__name__}: {error})"
            ) from error
        return {"loop": loop, "saved": saved}

    def set_state(self, i: int, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        from shoal.vectorization.workers.snapshots import restore

        self.envs[i].env, driver = restore(self.envs[i].env, state["saved"])
        self.loop.replace(i, self.envs[i].driver())
        self.loop.set_state(i, {**state["loop"], "driver": driver})

    def close(self) -> None:
        """Close all environments, even if some fail; the first failure is raised at the end."""
        failure = None
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except Exception as error:
                add_note(error, f"raised while environment {self.first + i} was closed")
                failure = failure or error
        self.envs = []
        if failure is not None:
            raise failure


def close_quietly(envs: list[Any]) -> None:
    """Close environments of which some may be broken already."""
    for env in envs:
        try:
            env.close()
        except Exception:
            pass


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, even if its class refuses attributes (a frozen dataclass)."""
    object.__setattr__(error, "__notes__", [*getattr(error, "__notes__", []), note])


def find_attribute(env: Any, name: str) -> Any:
    """Return an attribute of an environment or of whatever it wraps."""
    if hasattr(env, "get_wrapper_attr"):
        return env.get_wrapper_attr(name)
    return getattr(env, name)


def has_attribute(env: Any, name: str) -> bool:
    """Return whether `find_attribute` finds it."""
    try:
        find_attribute(env, name)
    except AttributeError:
        return False
    return True


def call_method(env: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an environment or of whatever it wraps."""
    return find_attribute(env, name)(*args, **kwargs)


def wrapper_names(env: Any) -> set[tuple[str, str]]:
    """Return (module, qualified name) of the classes of all wrappers around an environment.

    Names, because a class itself could be sent to a worker only by importing its module there.
    """
    names: set[tuple[str, str]] = set()
    while any(cls.__name__ == "Wrapper" for cls in type(env).__mro__):  # Gymnasium's, or old gym's
        names |= {(cls.__module__, cls.__qualname__) for cls in type(env).__mro__}
        env = env.env
    return names


def seed_globals(seed: int) -> None:
    """Seed the global generators that environments may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """Seed torch's generator, if somebody has imported it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
