"""A native environment with one agent as a Gymnasium environment."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

from shoal.errors import ParameterError, ResetNeededError
from shoal.ocean_c.one_env import OneEnv
from shoal.ocean_c.screen import METADATA
from shoal.ocean_c.spaces import action_space, observation_space
from shoal.rows.fields import RESET, STEP

__all__ = ["NativeEnv"]


class NativeEnv(gymnasium.Env):
    """A native environment with one agent.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: ``"rgb_array"``, ``"human"``, ``"ansi"`` or None.
        debug: run each step twice, between guards, and raise EnvCheckError at the first fault.
        params: of the environment; `module.table` lists them.

    An info has the log fields in the step that ends an episode, and ``action_mask`` if the
    environment says which actions are legal.
    """

    metadata: ClassVar[dict[str, Any]] = METADATA  # type: ignore[misc]

    def __init__(
        self, name: str, render_mode: str | None = None, debug: bool = False, **params: Any
    ):
        self.env = OneEnv(name, params, render_mode, debug)
        self.engine_checks = debug  # what `shoal.check_env` asks for
        self.module, self.module_spec = self.env.module, self.env.spec
        if self.module_spec.agents != 1:
            self.env.close()
            raise ParameterError(
                f"{name} has {self.module_spec.agents} agents, and a Gymnasium environment has "
                f"one; use shoal.vectorize({name!r}) or NativeParallelEnv"
            )
        self.metadata = {**METADATA, "name": self.module.table.name}  # type: ignore[misc]
        self.render_mode = render_mode
        self.observation_space = observation_space(self.module_spec)
        self.action_space = action_space(self.module_spec)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `options` are not used."""
        super().reset(seed=seed)
        if seed is not None:
            self.env.seed(seed)
        self.env.run(RESET)
        self._over = False
        if self.render_mode == "human":
            self.render()
        return self.env.observation(0), self.env.info(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment.

        Raises:
            ResetNeededError: the episode is over, or has not begun.
        """
        if self._over:
            raise ResetNeededError("step: the episode is over (or never began); reset first")
        env, rows = self.env, self.env.rows
        rows["actions"][0] = np.reshape(action, rows["actions"].shape[1:])
        env.run(STEP)
        terminated, truncated = bool(rows["terminations"][0]), bool(rows["truncations"][0])
        self._over = not rows["acting"][0]
        info = env.info(0)
        if terminated or truncated:
            logs = env.logs()
            info.update({key: float(logs[key][0]) for key in env.log_names})
        if self.render_mode == "human":
            self.render()
        return env.observation(0), float(rows["rewards"][0]), terminated, truncated, info

    def get_state(self) -> tuple[bytes, bool]:
        """Return a snapshot, the generator included, for `set_state`."""
        return self.env.engine.get_state(0), self._over

    def set_state(self, state: tuple[bytes, bool]) -> None:
        """Continue from a snapshot of `get_state`."""
        engine_state, self._over = state
        self.env.engine.set_state(0, engine_state)

    def render(self) -> Any:
        """Return a picture (uint8, height x width x 3) or a text; None if a window shows it."""
        if self.render_mode is None:
            gymnasium.logger.warn("render was called, but no render_mode was given")
        return self.env.render()

    def close(self) -> None:
        """Close the window, if there is one, and free the environment."""
        self.env.close()
