"""Makes kitchens of Overcooked-AI; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["create"]


def create(layout: str = "cramped_room", horizon: int = 400) -> Any:
    """Return a kitchen with two cooks."""
    return Kitchen(layout, horizon)


class Kitchen:
    """Two cooks as agents of PettingZoo's parallel interface, each with features of its own."""

    possible_agents = ("cook_0", "cook_1")
    metadata = {"name": "overcooked"}  # noqa: RUF012

    def __init__(self, layout: str, horizon: int):
        from gym import spaces
        from overcooked_ai_py.mdp.actions import Action
        from overcooked_ai_py.mdp.overcooked_env import OvercookedEnv
        from overcooked_ai_py.mdp.overcooked_mdp import OvercookedGridworld

        grid = OvercookedGridworld.from_layout_name(layout)
        self.env = OvercookedEnv.from_mdp(grid, horizon=horizon, info_level=0)
        self.choices = Action.INDEX_TO_ACTION
        self.env.reset()
        seen = self.look()["cook_0"]
        self.spaces = (
            spaces.Box(-np.inf, np.inf, seen.shape, np.float32),
            spaces.Discrete(len(self.choices)),
        )
        self.agents: list = []

    def observation_space(self, agent: str) -> Any:
        return self.spaces[0]

    def action_space(self, agent: str) -> Any:
        return self.spaces[1]

    def look(self) -> dict:
        features = self.env.featurize_state_mdp(self.env.state)
        return {
            agent: np.asarray(each, np.float32)
            for agent, each in zip(self.possible_agents, features)
        }

    def reset(self, seed: Any = None, options: Any = None) -> tuple:
        self.env.reset()
        self.agents = list(self.possible_agents)
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions: dict) -> tuple:
        chosen = tuple(self.choices[int(actions[agent])] for agent in self.possible_agents)
        _, reward, over, _ = self.env.step(chosen)
        agents = self.possible_agents
        self.agents = [] if over else list(agents)

        def each(value: Any) -> dict:
            return dict.fromkeys(agents, value)

        ends = each(False), each(bool(over))  # only time ends it
        return self.look(), each(float(reward)), *ends, {agent: {} for agent in agents}

    def close(self) -> None:
        pass
