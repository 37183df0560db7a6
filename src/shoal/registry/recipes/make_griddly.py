"""Makes games of Griddly; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

__all__ = ["create"]


def create(game: str = "Sokoban", **settings: Any) -> Any:
    """Return the game of this name, seen as a grid of objects."""
    import griddly
    import gym

    seen = {"player_observer_type": griddly.gd.ObserverType.VECTOR, **settings}
    env = gym.make(f"GDY-{game}-v0", **seen)
    env.reset()  # only now its space of observations has a shape
    return env
