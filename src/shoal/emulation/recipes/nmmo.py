"""Makes Neural MMO 2; runs in the environment's own interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["create"]


def create(**settings: Any) -> Any:
    """The environment with its default configuration, and its ``ActionTargets`` as action masks.

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


class Masked:
    """Calls the part ``ActionTargets`` of observations what all environments call it."""

    def __init__(self, env: Any):
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.env, name)

    def observation_space(self, agent: Any) -> Any:
        """The space of an agent's observations."""
        space = self.env.observation_space(agent)
        return type(space)(renamed(dict(space.spaces)))

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        """Begin an episode."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return {agent: renamed(each) for agent, each in observations.items()}, infos

    def step(self, actions: Any) -> Any:
        """Take a step."""
        observations, *others = self.env.step(actions)
        return ({agent: renamed(each) for agent, each in observations.items()}, *others)


def renamed(parts: dict[str, Any]) -> dict[str, Any]:
    """An observation, or the parts of its space, with ``action_mask``."""
    return {"action_mask" if name == "ActionTargets" else name: parts[name] for name in parts}
