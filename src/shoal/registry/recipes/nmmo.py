"""Makes Neural MMO 2; runs in the environment's own interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shoal.emulation.interfaces import Wrapper

__all__ = ["create"]


def create(**settings: Any) -> Any:
    """Return the environment with its default configuration, and ``ActionTargets`` as action masks.

    Args:
        settings: of ``nmmo.config.Config``, such as ``HORIZON=512`` or ``MAP_CENTER=64``.
    """
    import nmmo

    config = nmmo.config.Default()
    # It would write its maps, which it draws once, into the working directory.
    config.set("PATH_MAPS", str(Path(nmmo.__file__).parents[4] / "nmmo_maps"))
    for name, value in settings.items():
        config.set(name, value)
    return Masked(nmmo.Env(config))


class Masked(Wrapper):
    """Calls the part ``ActionTargets`` of observations what all environments call it.

    Infos say of each agent's task how far it is and whether it is done; as the environment has
    them, they are of other types after a reset than after a step.
    """

    def observation_space(self, agent: Any) -> Any:
        """Return the space of an agent's observations."""
        space = self.env.observation_space(agent)
        return type(space)(renamed(dict(space.spaces)))

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        """Begin an episode."""
        observations, _ = self.env.reset(seed=seed, options=options)
        return {agent: renamed(each) for agent, each in observations.items()}, {}

    def step(self, actions: Any) -> Any:
        """Take a step."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        observations = {agent: renamed(each) for agent, each in observations.items()}
        told = {agent: progress(info["task"]) for agent, info in infos.items()}
        return observations, rewards, terminated, truncated, told


def progress(tasks: dict[str, Any]) -> dict[str, Any]:
    """Return how far an agent's tasks are, and whether all are done."""
    return {
        "progress": float(max((task["progress"] for task in tasks.values()), default=0.0)),
        "completed": bool(tasks) and all(task["completed"] for task in tasks.values()),
    }


def renamed(parts: dict[str, Any]) -> dict[str, Any]:
    """Return an observation, or the parts of its space, with ``action_mask``."""
    return {"action_mask" if name == "ActionTargets" else name: parts[name] for name in parts}
