"""Single-agent environments: a Gymnasium environment whose spaces are flat arrays."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from shoal.emulation.core import Core
from shoal.emulation.interfaces import OldEnv
from shoal.emulation.loop import EnvLoop
from shoal.emulation.options import EmulationOptions
from shoal.errors import LayoutError
from shoal.rows.buffers import Buffers
from shoal.rows.fields import DISABLED, zero_rows

__all__ = ["EmulatedEnv", "OldGymEnv"]


class EmulatedEnv(gymnasium.Wrapper):
    """A Gymnasium environment whose observations and actions are flat arrays.

    Made by `shoal.emulate`. All but the spaces comes from the wrapped environment: ``spec``,
    ``metadata``, ``render``, ``unwrapped``, ``np_random`` and any other attribute.

    NetHack's own ``reset(seed=...)`` does not reproduce; here it does: see
    `shoal.emulation.nethack.SeededNetHack`.

    Attributes:
        core: what loops step, see `shoal.emulation.core.Core`.
        env: the environment inside (in an `OldGymEnv` if it is one of old ``gym``).
        observation_layout, action_layout: how observations and actions lie in a row.
        observation_space, action_space: the flat spaces, of `observation_layout.shape` and dtype. A
            space that is one array already (a Box, Discrete, ...) is unchanged.
        agents_per_env: 1.
        rows: the arrays that hold the last step's results, each with one row: see
            `shoal.rows.fields.row_fields`. ``rows["action_masks"][0]`` (bool) marks legal actions.
    """

    agents_per_env = 1

    def __init__(self, env: Any, options: EmulationOptions):
        super().__init__(env if isinstance(env, gymnasium.Env) else OldGymEnv(env))
        self.core = Core(self.env, options)
        self.observation_layout = self.core.observation_layout
        self.action_layout = self.core.action_layout
        self.observation_space = self.observation_layout.flat_space
        self.action_space = self.action_layout.flat_space
        self._driver: Any = self.core.driver()
        self._loop = EnvLoop([self._driver], self.observation_layout.nbytes, DISABLED)
        self.bind(zero_rows(self.observation_layout, self.action_layout, 1))

    def bind(self, rows: dict[str, np.ndarray]) -> None:
        """Write results straight into these arrays from now on.

        Args:
            rows: for each name of `row_fields`, a C-contiguous array of shape ``(1, *shape)``.

        Raises:
            LayoutError: an array is missing or has another shape or dtype; the previous arrays
                stay bound.
        """
        buffers = Buffers(self.observation_layout, self.action_layout, rows)
        if buffers.num_rows != 1:
            raise LayoutError(f"expected buffers of 1 row, got {buffers.num_rows}")
        self._buffers = buffers
        self.rows = rows
        self._observation = rows["observations"].reshape(self.observation_layout.shape)
        self._action = rows["actions"].reshape(self.action_layout.flat.shape)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Returns:
            A copy of the flat observation, of `observation_layout.shape` and dtype, and the info.
        """
        self._loop.reset(0, seed, options, self._buffers, 0)
        return self._observation.copy()[()], self._driver.info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment with one flat action.

        Args:
            action: of `action_space`.

        Returns:
            (observation, reward, terminated, truncated, info). The observation is a copy of
            `observation_layout.shape` and dtype; ``rows["observations"][0]`` has its bytes without
            a copy.

        Raises:
            ActionError: the action is not in `action_space`; the environment was not stepped.
            EmulationError: the episode is over, or the environment broke its interface.
        """
        self.action_layout.encode(action, self._action)
        self._loop.step(self._buffers)
        last = self._driver
        # [()] turns the array of a scalar space into a scalar and leaves others as they are.
        observation = self._observation.copy()[()]
        return observation, last.reward, last.terminated, last.truncated, last.info

    def decode(self, observation: np.ndarray) -> Any:
        """Return the wrapped environment's observation for a flat one."""
        return self.observation_layout.unpack(observation)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """Spec of the wrapped environment."""
        return self.env.spec

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Set an attribute of this object if it has one of that name, else of the wrapped one."""
        if name in vars(self) or hasattr(type(self), name):
            setattr(self, name, value)
            return True
        return self.env.set_wrapper_attr(name, value, force=force)

    def __reduce__(self) -> Any:
        """Let copies and pickles hold the environment as it is; they begin with a reset."""
        return EmulatedEnv, (self.env, self.core.options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.env.get_wrapper_attr(name)


class OldGymEnv(OldEnv, gymnasium.Env):
    """An `OldEnv` that Gymnasium's wrappers take."""
