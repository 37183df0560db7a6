"""One copy of a compiled environment with several agents as a PettingZoo parallel environment."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from shoal.errors import ResetNeededError
from shoal.ocean_c.single import RENDERING, RESET, STEP, OneCopy, module_named
from shoal.ocean_c.spaces import action_space, observation_space

__all__ = ["OceanParallel"]


class OceanParallel(ParallelEnv):
    """A compiled environment with one or more agents, ``agent_0`` and so on.

    An agent that ends and comes back at once stays in `agents`: PettingZoo knows no return, so its
    end is not flagged, and its info has ``respawned``. An agent whose turn it isn't stays too; its
    info has ``acting``, which is False, and its action is not used.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: ``"rgb_array"``, ``"human"``, ``"ansi"`` or None.
        debug: see `OceanEnv`.
        params: of the environment.
    """

    metadata: dict[str, Any] = {**RENDERING, "is_parallelizable": True}  # noqa: RUF012 - theirs

    def __init__(
        self, name: str, render_mode: str | None = None, debug: bool = False, **params: Any
    ):
        self.module = module_named(name)
        self.module_spec = self.module.spec(params)
        self.metadata = {**self.metadata, "name": self.module.table.name}
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{i}" for i in range(self.module_spec.agents)]
        self.agents: list[str] = []
        self.copy = OneCopy(self.module, self.module_spec, render_mode, debug)
        self.has_masks = self.module.table.action_mask
        self._slots = {agent: i for i, agent in enumerate(self.possible_agents)}

    @functools.cache  # noqa: B019 - PettingZoo wants the same object each time
    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return observation_space(self.module_spec)

    @functools.cache  # noqa: B019
    def action_space(self, agent: str) -> spaces.Space[Any]:
        return action_space(self.module_spec)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; there are no options."""
        if seed is not None:
            self.copy.seed(seed)
        self.copy.act(RESET)
        present = self.copy.rows["occupants"] >= 0
        self.agents = [agent for agent, i in self._slots.items() if present[i]]
        if self.render_mode == "human":
            self.render()
        return self._observations(), {
            agent: self._info(self._slots[agent]) for agent in self.agents
        }

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """One step of all agents.

        Raises:
            ResetNeededError: the episode is over, or has not begun.
        """
        if not self.agents:
            raise ResetNeededError("step: the episode is over (or never began); reset first")
        rows = self.copy.rows
        for agent in self.agents:
            if agent in actions:
                rows["actions"][self._slots[agent]] = np.reshape(actions[agent], -1)
        self.copy.act(STEP)
        observations = self._observations()
        logs = self.copy.infos()
        rewards, terminations, truncations, infos = {}, {}, {}, {}
        for agent in self.agents:
            i = self._slots[agent]
            terminated, truncated = bool(rows["terminations"][i]), bool(rows["truncations"][i])
            gone = bool(self.copy.engine.gone(i))
            info = self._info(i)
            if terminated or truncated:
                info.update({key: float(logs[key][i]) for key in self.copy.log_names})
                if not gone:
                    info["respawned"] = True
            rewards[agent] = float(rows["rewards"][i])
            terminations[agent], truncations[agent] = terminated and gone, truncated and gone
            infos[agent] = info
        self.agents = [a for a in self.agents if not (terminations[a] or truncations[a])]
        if self.render_mode == "human":
            self.render()
        return observations, rewards, terminations, truncations, infos

    def _observations(self) -> dict[str, Any]:
        return {agent: self.copy.observation(self._slots[agent]) for agent in self.agents}

    def _info(self, i: int) -> dict[str, Any]:
        rows = self.copy.rows
        info: dict[str, Any] = {}
        if self.has_masks:
            info["action_mask"] = rows["action_masks"][i].astype(np.int8)
        if not rows["acting"][i]:
            info["acting"] = False
        return info

    def get_state(self) -> tuple[bytes, list[str]]:
        """A snapshot, the generator included; `set_state` goes on from it."""
        return self.copy.engine.get_state(0), list(self.agents)

    def set_state(self, state: tuple[bytes, list[str]]) -> None:
        """Go on from what `get_state` returned."""
        engine_state, agents = state
        self.copy.engine.set_state(0, engine_state)
        self.agents = list(agents)

    def state(self) -> np.ndarray:
        """All agents' observations, as bytes."""
        return self.copy.rows["observations"].copy()

    def render(self) -> Any:
        """A picture (uint8, height × width × 3), a text, or None where a window shows it."""
        return self.copy.render()

    def close(self) -> None:
        """Close the window, if there is one, and free the environment."""
        self.copy.close()
