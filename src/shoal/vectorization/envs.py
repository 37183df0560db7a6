"""What both the serial backend and the workers do with environments: make, call, save, restore."""

from __future__ import annotations

import json
import pickle
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from shoal.emulation import emulate
from shoal.emulation.loop import EnvLoop
from shoal.errors import EmulationError

__all__ = ["EnvGroup", "check_same", "find_attribute", "seed_globals"]


class EnvGroup:
    """Some environments that are stepped one after the other, with their loop.

    Args:
        creators: one function for each environment.
        first: index of the first of them in the whole vector.
        emulation: keyword arguments of `shoal.emulate`.
        mode: the loop's autoreset mode.

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
    ):
        self.creators = creators
        self.first = first
        self.emulation = emulation
        self.envs: list[Any] = []
        for i in range(len(creators)):
            self.envs.append(self._create(i))
            self._same_layout(first + i)
        drivers = [env.driver() for env in self.envs]
        self.loop = EnvLoop(drivers, self.envs[0].observation_layout.nbytes, mode)

    def _create(self, i: int) -> Any:
        env = self.creators[i]()
        return env if hasattr(env, "observation_layout") else emulate(env, **self.emulation)

    def recreate(self, i: int) -> None:
        """Put a new environment in the place of number `i`; its next step resets it."""
        try:
            self.envs[i].close()
        except Exception:  # it is broken already
            pass
        self.envs[i] = self._create(i)
        self.loop.replace(i, self.envs[i].driver())

    def _same_layout(self, index: int) -> None:
        mine, other = self.envs[0], self.envs[-1]
        for what in ("observation_layout", "agents_per_env"):
            if getattr(mine, what) != getattr(other, what):
                raise EmulationError(
                    f"environment {index} has another {what} than environment {self.first}: "
                    f"{getattr(other, what)} instead of {getattr(mine, what)}"
                )
        if mine.action_layout.native != other.action_layout.native:
            raise EmulationError(
                f"environment {index} has another action space than environment {self.first}: "
                f"{other.action_layout.native.space} instead of {mine.action_layout.native.space}"
            )

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

    def call(self, i: int, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a method of environment `i` (of this group), or read an attribute."""
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
        """Everything about environment `i` that decides how it goes on.

        Environments with ``get_state`` and ``set_state`` are asked; others are pickled whole.
        """
        env = self.envs[i].env
        own = getattr(getattr(env, "unwrapped", env), "get_state", None)
        state = {"loop": self.loop.get_state(i)}
        try:
            if callable(own):
                state["own"] = own()
            state["env"] = cloudpickle.dumps(env)
        except Exception as error:
            if "own" not in state:
                raise EmulationError(
                    f"environment {self.first + i} can't be saved: it has no get_state() and "
                    f"can't be pickled ({type(error).__name__}: {error})"
                ) from error
        return state

    def set_state(self, i: int, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        if "env" in state:
            self.envs[i].env = self.loop.drivers[i].env = pickle.loads(state["env"])
        if "own" in state:
            env = self.envs[i].env
            getattr(env, "unwrapped", env).set_state(state["own"])
        self.loop.set_state(i, state["loop"])

    def close(self) -> None:
        """Close all environments, even if some fail; the first failure is raised at the end."""
        failure = None
        for env in self.envs:
            try:
                env.close()
            except Exception as error:
                failure = failure or error
        self.envs = []
        if failure is not None:
            raise failure


def check_same(mine: str, other: str, env: int) -> None:
    """Raise unless two descriptions are of the same layouts; the other is that of `env` and on."""
    a, b = json.loads(mine), json.loads(other)
    for what in ("observation_layout", "action_layout", "agents_per_env"):
        if a[what] != b[what]:
            raise EmulationError(
                f"environment {env} has another {what} than environment 0: {b[what]} instead of "
                f"{a[what]}"
            )


def find_attribute(env: Any, name: str) -> Any:
    """An attribute of an environment or of whatever it wraps."""
    if hasattr(env, "get_wrapper_attr"):
        return env.get_wrapper_attr(name)
    return getattr(env, name)


def seed_globals(seed: int) -> None:
    """Seed the global generators that environments may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
