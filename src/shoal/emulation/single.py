"""Single-agent environments: a Gymnasium environment whose spaces are flat arrays."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from shoal.emulation.actions import ActionLayout
from shoal.emulation.layout import Layout
from shoal.emulation.loop import DISABLED, Buffers, EnvLoop, SingleDriver
from shoal.emulation.rows import zero_rows
from shoal.errors import EmulationError

__all__ = ["EmulatedEnv", "OldGymEnv"]


class EmulatedEnv(gymnasium.Env):
    """A Gymnasium environment whose observations and actions are flat arrays.

    Made by `shoal.emulate`. Everything but the spaces is the wrapped environment's own: ``spec``,
    ``metadata``, ``render``, ``unwrapped`` and any other attribute.

    Attributes:
        env: the environment inside.
        observation_layout, action_layout: how observations and actions lie in a row.
        observation_space, action_space: the flat spaces. A space that is one array already (a Box,
            Discrete, ...) is unchanged.
        agents_per_env: 1.
        rows: the arrays that hold the last step's results, each with one row: see
            `shoal.emulation.rows.row_fields`. ``rows["action_masks"][0]`` tells the legal actions.
    """

    agents_per_env = 1

    def __init__(
        self,
        env: Any,
        form: str = "bytes",
        *,
        one_hot: bool = False,
        max_len: int | Mapping[str, int] | None = None,
    ):
        self.env = env if speaks_gymnasium(env) else OldGymEnv(env)
        self.observation_layout = Layout.from_space(
            env.observation_space, form, one_hot=one_hot, max_len=max_len, name="obs"
        )
        self.action_layout = ActionLayout.from_space(env.action_space, max_len)
        self.observation_space = self.observation_layout.flat_space
        self.action_space = self.action_layout.flat_space
        self.metadata = getattr(env, "metadata", None) or {"render_modes": []}
        self.render_mode = getattr(env, "render_mode", None)
        self.spec = getattr(env, "spec", None)
        self._loop = EnvLoop([self.driver()], self.observation_layout.nbytes, DISABLED)
        self.bind(zero_rows(self.observation_layout, self.action_layout, 1))

    def driver(self) -> SingleDriver:
        """What a compiled loop needs to step this environment."""
        return SingleDriver(self.env, self.observation_layout, self.action_layout)

    def bind(self, rows: dict[str, np.ndarray]) -> None:
        """Write results straight into these arrays from now on.

        Args:
            rows: for each name of `row_fields`, a C-contiguous array of one row.

        Raises:
            LayoutError: an array is missing or unsuitable.
        """
        self._buffers = Buffers(self.observation_layout, self.action_layout, rows)
        self.rows = rows

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode: (flat observation, info). The observation is a copy."""
        if seed is not None:
            super().reset(seed=seed)
        self._loop.reset(0, seed, options, self._buffers, 0)
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one flat action: (observation, reward, terminated, truncated, info).

        The observation is a copy; ``rows["observations"][0]`` has the same bytes without one.

        Raises:
            ActionError: the action is not in `action_space`; the environment was not stepped.
        """
        rows = self.rows
        self.action_layout.encode(
            action, rows["actions"][0:1].reshape(self.action_layout.flat.shape)
        )
        self._loop.step(self._buffers)
        return (
            self._observation(),
            float(rows["rewards"][0]),
            bool(rows["terminations"][0]),
            bool(rows["truncations"][0]),
            self._info(),
        )

    def _observation(self) -> Any:
        row = self.rows["observations"][0]
        return row.copy() if row.ndim else row[()]

    def _info(self) -> dict[str, Any]:
        infos, _ = self._loop.take_infos()
        return infos[0] if infos else {}

    def decode(self, observation: np.ndarray) -> Any:
        """A flat observation as the wrapped environment gave it."""
        return self.observation_layout.unpack(np.asarray(observation))

    def render(self) -> Any:
        """What the wrapped environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()

    @property
    def unwrapped(self) -> Any:
        """The innermost environment."""
        return self.env.unwrapped

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.env, name)

    def __repr__(self) -> str:
        return f"<EmulatedEnv{self.env!r}>"


def speaks_gymnasium(env: Any) -> bool:
    """Whether `env` has Gymnasium's interface, as opposed to that of old ``gym``."""
    return isinstance(env, gymnasium.Env)


class OldGymEnv:
    """An environment of old ``gym`` (or none) with Gymnasium's interface.

    Understands steps of four values (``done`` counts as truncation where
    ``info["TimeLimit.truncated"]`` says so) and of five, ``reset`` with or without ``seed`` and
    ``options`` and with or without an info, and ``seed()`` methods. Says once which of them it
    found.
    """

    def __init__(self, env: Any):
        self.env = env
        parameters = inspect.signature(env.reset).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.reset_takes = {name for name in ("seed", "options") if name in parameters or takes_all}
        self._told: set[str] = set()

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(f"{type(unwrapped(self.env)).__name__}: {what}", stacklevel=4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        given = {"seed": seed, "options": options}
        known = {name: given[name] for name in self.reset_takes if given[name] is not None}
        if seed is not None and "seed" not in self.reset_takes:
            if callable(getattr(self.env, "seed", None)):
                self._tell("reset() takes no seed; its seed() method is called instead")
                self.env.seed(seed)
            else:
                self._tell("can't be seeded: neither reset(seed=) nor a seed() method")
        if options is not None and "options" not in self.reset_takes:
            self._tell("reset() takes no options; they are ignored")
        result = self.env.reset(**known)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result
        self._tell("old gym interface: reset() returns no info")
        return result, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        result = self.env.step(action)
        if len(result) == 5:
            return result
        if len(result) != 4:
            raise EmulationError(f"step: expected 5 values (or 4, old gym), got {len(result)}")
        self._tell("old gym interface: step() returns four values")
        observation, reward, done, info = result
        truncated = bool(done) and bool(info.get("TimeLimit.truncated", False))
        return observation, reward, bool(done) and not truncated, truncated, info

    def render(self) -> Any:
        if getattr(self.env, "render_mode", None) is None and (
            "mode" in inspect.signature(self.env.render).parameters
        ):
            return self.env.render(mode="rgb_array")
        return self.env.render()

    def close(self) -> None:
        if callable(getattr(self.env, "close", None)):
            self.env.close()

    @property
    def unwrapped(self) -> Any:
        return unwrapped(self.env)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)


def unwrapped(env: Any) -> Any:
    """The innermost environment, also of one that has no such property."""
    return getattr(env, "unwrapped", env)
