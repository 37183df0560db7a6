"""Makes one environment of Procgen; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

from shoal.emulation.interfaces import Wrapper

__all__ = ["create"]


def create(game: str = "coinrun", **settings: Any) -> Any:
    """Return one game of Procgen, which has the interface of old gym."""
    import gym

    return Unseeded(gym.make(f"procgen:procgen-{game}-v0", **settings))


class Unseeded(Wrapper):
    """Hides the method ``seed``, which takes no number; ``rand_seed=`` is for ``create``."""

    seed = None
