"""What both the serial backend and the workers do with environments: make, call, save, restore."""

from __future__ import annotations

import copyreg
import functools
import inspect
import io
import itertools
import json
import pickle
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.utils import EzPickle

from shoal.emulation import emulate
from shoal.emulation.layout import Layout
from shoal.emulation.loop import EnvLoop
from shoal.errors import EmulationError

__all__ = [
    "EnvGroup",
    "add_note",
    "arrays_from",
    "call_method",
    "check_same",
    "find_attribute",
    "has_attribute",
    "wrapper_names",
]


class EnvGroup:
    """Some environments that are stepped one after the other, with their loop.

    Args:
        creators: one function for each environment.
        first: index of the first of them in the whole vector.
        emulation: keyword arguments of `shoal.emulate`.
        mode: the loop's autoreset mode.
        seed: of this process's global generators, which are left alone if it is None.

    Attributes:
        envs: the emulated environments.
        loop: steps them.
    """

    def __init__(
        self,
        creators: Sequence[Callable[[], Any]],
        first: int,
        emulation: dict[str, Any],
        mode: int,
        seed: int | None,
    ):
        if seed is not None:
            seed_globals(seed)
        had_torch = "torch" in sys.modules
        self.creators = creators
        self.first = first
        self.emulation = emulation
        self.envs: list[Any] = []
        for i in range(len(creators)):
            try:
                self.envs.append(self._create(i))
                check_arrays(arrays_of(self.envs[0]), arrays_of(self.envs[i]), first, first + i)
            except Exception as error:
                add_note(error, f"raised while environment {first + i} was created")
                close_quietly(self.envs)
                raise
        if seed is not None and not had_torch:
            seed_torch(seed)
        drivers = [env.driver() for env in self.envs]
        self.loop = EnvLoop(drivers, self.envs[0].observation_layout.nbytes, mode)

    def _create(self, i: int) -> Any:
        env = self.creators[i]()
        return env if hasattr(env, "observation_layout") else emulate(env, **self.emulation)

    def recreate(self, i: int) -> None:
        """Put a new environment in the place of number `i`; its next step resets it."""
        close_quietly([self.envs[i]])
        env = self._create(i)
        check_arrays(arrays_of(self.envs[i]), arrays_of(env), self.first + i, self.first + i)
        self.envs[i] = env
        self.loop.replace(i, self.envs[i].driver())

    def description(self) -> str:
        """All that the parent needs to know of the environments, as JSON."""
        env = self.envs[0]
        spec = getattr(env, "spec", None)
        try:
            spec_json = spec.to_json() if spec is not None else None
        except Exception:  # specs may hold anything, and are a convenience
            spec_json = None
        return json.dumps(
            {
                "observation_layout": env.observation_layout.to_json(),
                "action_layout": env.action_layout.native.to_json(),
                "agents_per_env": env.agents_per_env,
                "agents": [str(agent) for agent in getattr(env, "possible_agents", ["agent"])],
                "metadata": dict(env.metadata),
                "render_mode": getattr(env, "render_mode", None),
                "spec": spec_json,
            },
            default=str,
        )

    def call(self, i: int, name: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a method of environment `i`, or a function on it; or read an attribute."""
        if callable(name):
            return name(self.envs[i].env, *args, **kwargs)
        value = find_attribute(self.envs[i].env, name)
        return value(*args, **kwargs) if callable(value) else value

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
        """Everything about environment `i` that decides how it goes on; see `Vector.get_state`."""
        env = self.envs[i].env
        base = getattr(env, "unwrapped", env)
        own = own_methods(base)
        file = io.BytesIO()
        try:
            Saver(file, base if own else None).dump(env)
        except Exception as error:
            raise EmulationError(
                f"environment {self.first + i} can't be saved: it has no get_state() and "
                f"set_state(), and can't be pickled ({type(error).__name__}: {error})"
            ) from error
        state = {"loop": self.loop.get_state(i), "env": file.getvalue()}
        if own:
            state["own"] = own[0]()
        return state

    def set_state(self, i: int, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        env = self.envs[i].env
        base = getattr(env, "unwrapped", env)
        self.envs[i].env = Loader(io.BytesIO(state["env"]), base).load()
        own = own_methods(base)
        if own:
            own[1](state["own"])
        self.loop.replace(i, self.envs[i].driver())
        self.loop.set_state(i, state["loop"])

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


def own_methods(env: Any) -> tuple[Callable[[], Any], Callable[[Any], None]] | None:
    """How an environment saves and restores itself, if it does."""
    for names in (("get_state", "set_state"), ("clone_state", "restore_state")):
        save, restore = (getattr(env, name, None) for name in names)
        if callable(save) and callable(restore):
            if "include_rng" in inspect.signature(save).parameters:  # Atari's
                save = functools.partial(save, include_rng=True)
            return save, restore
    return None


class Saver(cloudpickle.Pickler):
    """Pickles an environment with all that it holds.

    Args:
        file: to write to.
        base: the environment innermost, if it saves itself: just its place is kept.
    """

    def __init__(self, file: io.BytesIO, base: Any):
        super().__init__(file)
        self.base = base

    def persistent_id(self, value: Any) -> str | None:
        return "base" if self.base is not None and value is self.base else None

    def reducer_override(self, value: Any) -> Any:
        # Gymnasium's EzPickle keeps only the arguments: what comes back begins from nothing.
        if isinstance(value, EzPickle):
            create = copyreg.__newobj__, (type(value),)  # type: ignore[attr-defined]
            return (*create, value.__dict__, None, None, restore_attributes)
        return super().reducer_override(value)


class Loader(pickle.Unpickler):
    """Loads what `Saver` pickled, around the innermost environment that is there."""

    def __init__(self, file: io.BytesIO, base: Any):
        super().__init__(file)
        self.base = base

    def persistent_load(self, name: str) -> Any:
        return self.base


def restore_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Set attributes, without regard to `__setstate__`."""
    value.__dict__.update(attributes)


def close_quietly(envs: list[Any]) -> None:
    """Close environments of which some may be broken already."""
    for env in envs:
        try:
            env.close()
        except Exception:
            pass


def arrays_of(env: Any) -> tuple[Layout, Layout, int]:
    """What decides the arrays of an emulated environment: observations, actions, agents."""
    return env.observation_layout, env.action_layout.native, env.agents_per_env


def arrays_from(description: str) -> tuple[Layout, Layout, int]:
    """`arrays_of` an environment from `EnvGroup.description`."""
    known = json.loads(description)
    return (
        Layout.from_json(known["observation_layout"], "obs"),
        Layout.from_json(known["action_layout"], "action"),
        known["agents_per_env"],
    )


def check_same(expected: str, description: str, index: int) -> None:
    """Raise EmulationError unless two descriptions give the same arrays.

    Args:
        expected: of environment 0 (and more).
        description: of environment `index` (and more).
    """
    check_arrays(arrays_from(expected), arrays_from(description), 0, index)


def check_arrays(
    expected: tuple[Layout, Layout, int], got: tuple[Layout, Layout, int], first: int, index: int
) -> None:
    """Raise EmulationError unless environments `first` and `index` give the same arrays."""
    for what, one, other in zip(("observation space", "action space"), expected[:2], got[:2]):
        if one != other:
            raise EmulationError(
                f"all environments must have the same {what}, but that of environment {index} is "
                f"another than that of environment {first}: {difference(one, other)}"
            )
    if expected[2] != got[2]:
        raise EmulationError(
            f"all environments must have the same number of agents, but environment {index} has "
            f"{got[2]} and environment {first} has {expected[2]}"
        )


def difference(expected: Layout, got: Layout) -> str:
    """Where two layouts part."""
    for one, other in itertools.zip_longest(expected.leaves, got.leaves):
        texts = []
        for leaf, layout in ((other, got), (one, expected)):
            path = f"{layout.name}.{leaf.path}".rstrip(".") if leaf else "nothing"
            text = f"{path} {leaf.dtype}{list(leaf.shape)}" if leaf else path
            if (
                one
                and other
                and (one.path, one.dtype, one.shape)
                == (
                    other.path,
                    other.dtype,
                    other.shape,
                )
            ):
                text += f" from {leaf.low} to {leaf.high}"
            texts.append(text)
        if texts[0] != texts[1]:
            return " instead of ".join(texts)
    return f"{got} instead of {expected}"


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, even if its class refuses attributes (a frozen dataclass)."""
    object.__setattr__(error, "__notes__", [*getattr(error, "__notes__", []), note])


def find_attribute(env: Any, name: str) -> Any:
    """An attribute of an environment or of whatever it wraps."""
    if hasattr(env, "get_wrapper_attr"):
        return env.get_wrapper_attr(name)
    return getattr(env, name)


def has_attribute(env: Any, name: str) -> bool:
    """Whether `find_attribute` finds it."""
    try:
        find_attribute(env, name)
    except AttributeError:
        return False
    return True


def call_method(env: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an environment or of whatever it wraps."""
    return find_attribute(env, name)(*args, **kwargs)


def wrapper_names(env: Any) -> set[tuple[str, str]]:
    """(module, qualified name) of the classes of all wrappers around an environment.

    Names, because a class itself could be sent to a worker only by importing its module there.
    """
    names: set[tuple[str, str]] = set()
    while isinstance(env, gymnasium.Wrapper):
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
