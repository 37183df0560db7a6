"""Makes kitchens of Overcooked-AI; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["create"]


def create(layout: str = "cramped_room", horizon: int = 400) -> Any:
    """A kitchen with two cooks."""
    return Kitchen(layout, horizon)


class Box:
    """What a layout asks of a space of numbers."""

    def __init__(self, size: int):
        self.low = np.full(size, -np.inf, np.float32)
        self.high = np.full(size, np.inf, np.float32)
        self.shape, self.dtype = (size,), np.dtype(np.float32)


class Discrete:
    """What a layout asks of a choice."""

    def __init__(self, n: int):
        self.n, self.shape, self.dtype = n, (), np.dtype(np.int64)


class Kitchen:
    """Two cooks as agents of PettingZoo's parallel interface, each with features of its own."""

    possible_agents = ("cook_0", "cook_1")
    metadata = {"name": "overcooked"}  # noqa: RUF012

    def __init__(self, layout: str, horizon: int):
        from overcooked_ai_py.mdp.actions import Action
        from overcooked_ai_py.mdp.overcooked_env import OvercookedEnv
        from overcooked_ai_py.mdp.overcooked_mdp import OvercookedGridworld

        grid = OvercookedGridworld.from_layout_name(layout)
        self.env = OvercookedEnv.from_mdp(grid, horizon=horizon, info_level=0)
        self.choices = Action.INDEX_TO_ACTION
        self.env.reset()
        self.spaces = Box(len(self.look()["cook_0"])), Discrete(len(self.choices))
        self.agents: list = []

    def observation_space(self, agent: str) -> Box:
        return self.spaces[0]

    def action_space(self, agent: str) -> Discrete:
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
