"""Makes one environment of Procgen; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

__all__ = ["create"]


def create(game: str = "coinrun", **settings: Any) -> Any:
    """One game of Procgen, which has the interface of old gym."""
    import gym

    return gym.make(f"procgen:procgen-{game}-v0", **settings)
