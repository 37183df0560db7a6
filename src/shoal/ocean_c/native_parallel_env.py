"""A native environment with several agents as a PettingZoo parallel environment."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from shoal.errors import ResetNeededError
from shoal.ocean_c.one_env import OneEnv
from shoal.ocean_c.screen import METADATA
from shoal.ocean_c.spaces import action_space, observation_space
from shoal.rows.fields import RESET, STEP

__all__ = ["NativeParallelEnv"]


class NativeParallelEnv(ParallelEnv):
    """A native environment with one or more agents, ``agent_0`` and so on.

    An agent that ends and respawns at once stays in `agents`: PettingZoo does not allow an agent
    to return, so its end is not flagged, and its info has ``respawned``. An agent whose turn it is
    not stays too; its info has ``acting`` (False), and its action is not used.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: ``"rgb_array"``, ``"human"``, ``"ansi"`` or None.
        debug: see `NativeEnv`.
        params: of the environment.
    """

    metadata: dict[str, Any] = {**METADATA, "is_parallelizable": True}  # noqa: RUF012 - theirs

    def __init__(
        self, name: str, render_mode: str | None = None, debug: bool = False, **params: Any
    ):
        self.env = OneEnv(name, params, render_mode, debug)
        self.engine_checks = debug  # what `shoal.check_env` asks for
        self.module, self.module_spec = self.env.module, self.env.spec
        self.metadata = {**self.metadata, "name": self.module.table.name}
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{i}" for i in range(self.module_spec.agents)]
        self.agents: list[str] = []
        self._slots = {agent: i for i, agent in enumerate(self.possible_agents)}

    @functools.cache  # noqa: B019 - PettingZoo wants the same object each time
    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Return an agent's observation space."""
        return observation_space(self.module_spec)

    @functools.cache  # noqa: B019
    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return an agent's action space."""
        return action_space(self.module_spec)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; `options` are not used."""
        if seed is not None:
            self.env.seed(seed)
        self.env.run(RESET)
        present = self.env.rows["occupants"] >= 0
        self.agents = [agent for agent, i in self._slots.items() if present[i]]
        if self.render_mode == "human":
            self.render()
        infos = {agent: self._info(self._slots[agent]) for agent in self.agents}
        return self._observations(), infos

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Step all agents.

        Raises:
            ResetNeededError: the episode is over, or has not begun.
        """
        if not self.agents:
            raise ResetNeededError("step: the episode is over (or never began); reset first")
        env, rows = self.env, self.env.rows
        for agent in self.agents:
            if agent in actions:
                shape = rows["actions"].shape[1:]
                rows["actions"][self._slots[agent]] = np.reshape(actions[agent], shape)
        env.run(STEP)
        observations = self._observations()
        logs = env.logs()
        rewards, terminations, truncations, infos = {}, {}, {}, {}
        for agent in self.agents:
            i = self._slots[agent]
            terminated, truncated = bool(rows["terminations"][i]), bool(rows["truncations"][i])
            gone = bool(env.engine.gone(i))
            info = self._info(i)
            if terminated or truncated:
                info.update({key: float(logs[key][i]) for key in env.log_names})
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
        return {agent: self.env.observation(self._slots[agent]) for agent in self.agents}

    def _info(self, slot: int) -> dict[str, Any]:
        info = self.env.info(slot)
        if not self.env.rows["acting"][slot]:
            info["acting"] = False
        return info

    def get_state(self) -> tuple[bytes, list[str]]:
        """Return a snapshot, the generator included, for `set_state`."""
        return self.env.engine.get_state(0), list(self.agents)

    def set_state(self, state: tuple[bytes, list[str]]) -> None:
        """Continue from a snapshot of `get_state`."""
        engine_state, agents = state
        self.env.engine.set_state(0, engine_state)
        self.agents = list(agents)

    def state(self) -> np.ndarray:
        """Return all agents' observations as bytes (uint8, agents x bytes of an observation)."""
        rows = self.env.rows["observations"]
        return rows.reshape(len(rows), -1).view(np.uint8).copy()

    def render(self) -> Any:
        """Return a picture (uint8, height x width x 3) or a text; None if a window shows it."""
        return self.env.render()

    def close(self) -> None:
        """Close the window, if there is one, and free the environment."""
        self.env.close()
