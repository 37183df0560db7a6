"""One copy of a compiled environment as a Gymnasium environment."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import gymnasium
import numpy as np

from shoal.errors import ParameterError, ResetNeededError
from shoal.ocean_c.engine import Engine, Module
from shoal.ocean_c.find import find, load
from shoal.ocean_c.spaces import action_space, observation_offsets, observation_space
from shoal.ocean_c.table import Spec

__all__ = ["OceanEnv", "OneCopy", "module_named"]

DISABLED = 2
STEP, RESET = 0, 1
RENDERING: dict[str, Any] = {"render_modes": ["rgb_array", "human", "ansi"], "render_fps": 15}


def module_named(name: str) -> Module:
    """The module of an environment; see `find`.

    Raises:
        ParameterError: there is none of this name.
    """
    path = find(name)
    if path is None:
        raise ParameterError(f"there is no compiled environment {name!r}")
    return load(path)


class OneCopy:
    """One copy and its rows, for the classes that show it with other libraries' interfaces.

    Args:
        module, spec: which environment.
        render_mode: one of those in `RENDERING`, or None.
        debug: see `Engine`.

    Raises:
        ParameterError: there is no such way of rendering.

    Attributes:
        rows: the arrays of `shoal.rows.fields.row_fields`, one row for each agent.
        fields: observations by field: views of the rows, or the whole rows of the only field.
    """

    def __init__(self, module: Module, spec: Spec, render_mode: str | None, debug: bool):
        modes = RENDERING["render_modes"]
        if render_mode not in (None, *modes):
            raise ParameterError(f"render_mode: expected one of {modes}, got {render_mode!r}")
        self.render_mode = render_mode
        self.screen: Any = None
        self.engine = Engine(module, spec, 1, DISABLED, debug=debug)
        agents = spec.agents
        offsets, size = observation_offsets(spec)
        discrete = spec.actions[0].dtype.kind == "i"
        elements = [field.high.reshape(-1) for field in spec.actions]
        width = sum(len(high) for high in elements)
        masked = int(sum((high + 1).sum() for high in elements)) if discrete else 0
        row_dtypes = {
            "actions": (np.int64 if discrete else np.float32, (agents, width)),
            "observations": (np.uint8, (agents, size)),
            "final_observations": (np.uint8, (agents, size)),
            "action_masks": (np.bool_, (agents, masked)),
            "rewards": (np.float64, agents),
            "episode_returns": (np.float64, agents),
            "episode_lengths": (np.int64, agents),
            "occupants": (np.int64, agents),
            "terminations": (np.bool_, agents),
            "truncations": (np.bool_, agents),
            "masks": (np.bool_, agents),
            "acting": (np.bool_, agents),
            "finals": (np.bool_, agents),
        }
        self.rows: dict[str, np.ndarray] = {
            name: np.zeros(shape, dtype)  # type: ignore[call-overload]
            for name, (dtype, shape) in row_dtypes.items()
        }
        self.engine.bind(self.rows)
        structure = np.dtype(
            {
                "names": [field.name for field in spec.observations],
                "formats": [(field.dtype, field.shape) for field in spec.observations],
                "offsets": offsets,
                "itemsize": size,
            }
        )
        views = self.rows["observations"].view(structure)[:, 0]
        self.fields = {field.name: views[field.name] for field in spec.observations}
        self.log_names = [name for name, _ in module.table.logs]
        self.seed(int.from_bytes(os.urandom(8), "little"))

    def seed(self, seed: int) -> None:
        """Seed the generator: environment i of a vector with seed s has s + i."""
        self.engine.seed(0, seed)

    def act(self, op: int) -> None:
        """Step or reset."""
        self.engine.post(op)
        self.engine.wait()

    def observation(self, agent: int) -> Any:
        """What an agent sees, as the space has it: its own arrays."""
        found = {name: np.array(array[agent]) for name, array in self.fields.items()}
        if len(found) > 1:
            return found
        (only,) = found.values()
        return only if only.ndim else only.reshape(1)

    def infos(self) -> dict[str, Any]:
        """Log fields of the episodes that have ended, by name: one value for each row."""
        return self.engine.infos(0)

    def render(self) -> Any:
        """A picture (uint8, height × width × 3), a text, or None: seen in a window, or nowhere."""
        if self.render_mode is None:
            return None
        if self.screen is None:
            from shoal.ocean_c.screen import Screen

            self.screen = Screen(self.render_mode, RENDERING["render_fps"])
        return self.screen.show(self.engine.draw(0))

    def close(self) -> None:
        """Close the window, if there is one, and free the environment."""
        if self.screen is not None:
            self.screen.close()
            self.screen = None
        self.engine.close()


class OceanEnv(gymnasium.Env):
    """A compiled environment with one agent.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: ``"rgb_array"``, ``"human"``, ``"ansi"`` or None.
        debug: run each step twice, between guards, and raise EnvCheckError at the first fault.
        params: of the environment; `module.table` says which there are.

    An info has the log fields in the step that ends an episode, and ``action_mask`` if the
    environment says which actions are legal.
    """

    metadata: ClassVar[dict[str, Any]] = RENDERING  # type: ignore[misc]

    def __init__(
        self, name: str, render_mode: str | None = None, debug: bool = False, **params: Any
    ):
        self.module = module_named(name)
        self.module_spec = self.module.spec(params)
        if self.module_spec.agents != 1:
            raise ParameterError(
                f"{name} has {self.module_spec.agents} agents, and Gymnasium's environments have "
                f"one: use shoal.vectorize({name!r}), or shoal.ocean_c.parallel.OceanParallel"
            )
        self.render_mode = render_mode
        self.observation_space = observation_space(self.module_spec)
        self.action_space = action_space(self.module_spec)
        self.copy = OneCopy(self.module, self.module_spec, render_mode, debug)
        self.has_masks = self.module.table.action_mask
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; there are no options."""
        super().reset(seed=seed)
        if seed is not None:
            self.copy.seed(seed)
        self.copy.act(RESET)
        self._over = False
        if self.render_mode == "human":
            self.render()
        return self.copy.observation(0), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            ResetNeededError: the episode is over, or has not begun.
        """
        if self._over:
            raise ResetNeededError("step: the episode is over (or never began); reset first")
        rows = self.copy.rows
        rows["actions"][0] = np.reshape(action, -1)
        self.copy.act(STEP)
        terminated, truncated = bool(rows["terminations"][0]), bool(rows["truncations"][0])
        self._over = not rows["acting"][0]
        info = self._info()
        if terminated or truncated:
            infos = self.copy.infos()
            info.update({key: float(infos[key][0]) for key in self.copy.log_names})
        if self.render_mode == "human":
            self.render()
        return self.copy.observation(0), float(rows["rewards"][0]), terminated, truncated, info

    def _info(self) -> dict[str, Any]:
        if not self.has_masks:
            return {}
        return {"action_mask": self.copy.rows["action_masks"][0].astype(np.int8)}

    def get_state(self) -> tuple[bytes, bool]:
        """A snapshot, the generator included; `set_state` goes on from it."""
        return self.copy.engine.get_state(0), self._over

    def set_state(self, state: tuple[bytes, bool]) -> None:
        """Go on from what `get_state` returned."""
        engine_state, self._over = state
        self.copy.engine.set_state(0, engine_state)

    def render(self) -> Any:
        """A picture (uint8, height × width × 3), a text, or None where a window shows it."""
        if self.render_mode is None:
            gymnasium.logger.warn("render was called, but no render_mode was given")
        return self.copy.render()

    def close(self) -> None:
        """Close the window, if there is one, and free the environment."""
        self.copy.close()
