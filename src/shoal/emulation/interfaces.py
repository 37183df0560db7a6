"""Which interface an environment has; environments of older interfaces as today's.

Workers under another interpreter import this, which may have neither Gymnasium nor PettingZoo.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

from shoal.errors import EmulationError

__all__ = [
    "OldEnv",
    "OldReset",
    "Wrapper",
    "is_multi_agent",
    "is_of_gymnasium",
    "keywords",
    "layers",
    "require_environment",
    "unwrapped",
]


def is_of_gymnasium(thing: Any, name: str) -> bool:
    """Return whether `thing` is an instance of Gymnasium's class `name`.

    Gymnasium is not imported: an instance of its classes has imported it already.
    """
    return "gymnasium" in sys.modules and isinstance(thing, getattr(sys.modules["gymnasium"], name))


def require_environment(env: Any) -> None:
    """Raise EmulationError unless `env` has what every environment has."""
    if hasattr(env, "single_observation_space"):
        raise EmulationError(
            f"{type(env).__name__} steps many environments itself; give it to shoal.vectorize"
        )
    has = [hasattr(env, name) for name in ("reset", "step")]
    for name in ("observation_space", "action_space"):  # old PettingZoo has dictionaries of them
        has.append(hasattr(env, name) or hasattr(env, name + "s"))
    if isinstance(env, type) or not all(has):
        got = f"the class {env.__name__}; give an instance" if isinstance(env, type) else repr(env)
        raise EmulationError(
            "expected a Gymnasium, PettingZoo or old gym environment with reset, step, "
            f"observation_space and action_space, got {got}"
        )


def is_multi_agent(env: Any) -> bool:
    """Return whether `env` has one of PettingZoo's interfaces, parallel or turn-based."""
    for library in ("gymnasium", "gym"):  # an environment of theirs has imported them
        if library in sys.modules and isinstance(env, sys.modules[library].Env):
            return False  # some of these have agents too, behind one action space
    # The space methods take an agent; without possible_agents, only they are there before a reset.
    names = ("possible_agents", "agents", "agent_iter")
    return any(hasattr(env, name) for name in names) or callable(
        getattr(env, "observation_space", None)
    )


class OldEnv:
    """An environment of old ``gym`` (or none) with Gymnasium's interface.

    Takes steps of four values (``done`` counts as truncation if ``info["TimeLimit.truncated"]`` is
    true) and of five, ``reset`` with or without ``seed`` and ``options`` and with or without an
    info, and ``seed()`` methods. Warns once about each old part.
    """

    def __init__(self, env: Any):
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.metadata = getattr(env, "metadata", None) or {"render_modes": []}
        self.render_mode = getattr(env, "render_mode", None)
        self.spec = getattr(env, "spec", None)
        self._old = OldReset(env)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        result = self._old.reset(seed, options)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result
        self._old.warn_once("old gym interface: reset() returns no info")
        return result, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        result = self.env.step(action)
        if len(result) == 5:
            return result
        if len(result) != 4:
            raise EmulationError(f"step: expected 5 values (or 4, old gym), got {len(result)}")
        self._old.warn_once("old gym interface: step() returns four values")
        observation, reward, done, info = result
        truncated = bool(done) and bool(info.get("TimeLimit.truncated", False))
        return observation, reward, bool(done) and not truncated, truncated, info

    def render(self) -> Any:
        parameters = inspect.signature(self.env.render).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # a wrapper that passes it on
            parameters = inspect.signature(unwrapped(self.env).render).parameters
        if "mode" in parameters:
            return self.env.render(mode=self.render_mode or "rgb_array")
        return self.env.render()

    def close(self) -> None:
        if callable(getattr(self.env, "close", None)):
            self.env.close()

    @property
    def unwrapped(self) -> Any:
        return unwrapped(self.env)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.env, name)

    def __str__(self) -> str:
        return f"<{type(self).__name__}{self.env}>"


class Wrapper:
    """A wrapper that passes every attribute on, as Gymnasium's, and needs no Gymnasium."""

    def __init__(self, env: Any):
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.env, name)


class OldReset:
    """Calls an environment's ``reset`` with the arguments it takes, and warns of others once."""

    def __init__(self, env: Any):
        self.env = env
        self.takes = keywords(env)
        self._warned: set[str] = set()

    def warn_once(self, what: str) -> None:
        """Warn of something old about the environment, once."""
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(f"{type(unwrapped(self.env)).__name__}: {what}", stacklevel=4)

    def reset(self, seed: int | None, options: Any) -> Any:
        """Return the result of ``reset``, unchanged."""
        given = {"seed": seed, "options": options}
        known = {name: given[name] for name in self.takes if given[name] is not None}
        if seed is not None and "seed" not in self.takes:
            if callable(getattr(self.env, "seed", None)):
                self.warn_once("reset() takes no seed; its seed() method is called instead")
                self.env.seed(seed)
            else:
                self.warn_once("can't be seeded: neither reset(seed=) nor a seed() method")
        if options and "options" not in self.takes:
            self.warn_once("reset() takes no options; they are ignored")
        return self.env.reset(**known)


def layers(env: Any) -> list[Any]:
    """Return the environment and all that it wraps, from the outside inwards."""
    found = [env]
    while (inner := getattr(found[-1], "env", None)) is not None:
        if any(inner is each for each in found):
            break
        found.append(inner)
    if not any(unwrapped(env) is each for each in found):
        found.append(unwrapped(env))
    return found


def unwrapped(env: Any) -> Any:
    """Return the innermost environment: `env` itself if it has no property ``unwrapped``."""
    return getattr(env, "unwrapped", env)


def keywords(env: Any) -> set[str]:
    """Return which of ``seed`` and ``options`` the environment's ``reset`` takes.

    A wrapper of old ``gym`` takes ``**kwargs``; then the environment inside decides.
    """
    parameters = inspect.signature(env.reset).parameters
    names = {"seed", "options"}
    found = names & parameters.keys()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        found |= keywords(env.env) if hasattr(env, "env") else names
    return found
