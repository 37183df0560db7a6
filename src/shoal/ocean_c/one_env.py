"""One native environment and its rows, for the faces that Gymnasium and PettingZoo know."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.errors import ParameterError
from shoal.ocean_c.engine import Engine
from shoal.ocean_c.find import module_named
from shoal.ocean_c.screen import MODES, Screen
from shoal.ocean_c.spaces import layouts
from shoal.rows.buffers import Buffers
from shoal.rows.fields import DISABLED, zero_rows

__all__ = ["OneEnv"]


class OneEnv:
    """An engine with one environment, and one row for each of its agents.

    Args:
        name: see `shoal.ocean_c.find.find`.
        params: of the environment.
        render_mode: one of `MODES`, or None.
        debug: run each step twice, between guards; see `Engine`.

    Raises:
        ParameterError: the name, a parameter or the render mode is unknown.

    Attributes:
        module, spec: what the environment is.
        rows: the arrays of `shoal.rows.fields.row_fields`, by name, one row for each agent.
        observations: the observation rows as the space nests them: views.
        log_names: names of the log fields.
    """

    def __init__(self, name: str, params: Mapping[str, Any], render_mode: str | None, debug: bool):
        if render_mode not in (None, *MODES):
            raise ParameterError(f"render_mode must be one of {MODES} or None, got {render_mode!r}")
        self.module = module_named(name)
        self.spec = self.module.spec(params)
        observations, actions = layouts(self.spec, self.module.path)
        self.screen = Screen(render_mode, self.module.table.name)
        self.engine = Engine(self.module, self.spec, 1, DISABLED, debug=debug)
        self.rows = zero_rows(observations, actions, self.spec.agents)
        self.engine.bind(Buffers(observations, actions, self.rows))
        self.observations = observations.view(self.rows["observations"])
        self.log_names = [name for name, _ in self.module.table.logs]
        self.seed(int.from_bytes(os.urandom(8), "little"))

    def seed(self, seed: int) -> None:
        """Seed the generator; environment i of a vector with seed s has s + i."""
        self.engine.seed(0, seed)

    def run(self, op: int) -> None:
        """Do an operation (``STEP`` or ``RESET``), from and to `rows`."""
        self.engine.post(op)
        self.engine.wait()

    def observation(self, agent: int) -> Any:
        """Return a copy of an agent's observation, as the space nests it."""
        if isinstance(self.observations, dict):
            return {name: np.array(array[agent]) for name, array in self.observations.items()}
        return self.observations[agent].copy()

    def info(self, agent: int) -> dict[str, Any]:
        """Return an agent's info: ``action_mask`` (int8), if the environment has masks."""
        if not self.module.table.action_mask:
            return {}
        return {"action_mask": self.rows["action_masks"][agent].astype(np.int8)}

    def logs(self) -> dict[str, np.ndarray]:
        """Return the log fields of the episodes that have ended, by name: one value a row."""
        return self.engine.infos(0)

    def render(self) -> Any:
        """Return a picture (uint8, height x width x 3), a text, or None, as `render_mode` says."""
        return self.screen.show(self.engine.draw(0)) if self.screen.mode else None

    def close(self) -> None:
        """Close the window, if there is one, and free the environment."""
        self.screen.close()
        self.engine.close()
