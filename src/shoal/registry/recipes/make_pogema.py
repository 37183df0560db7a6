"""Makes grids of POGEMA; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

__all__ = ["create"]


def create(num_agents: int = 4, **settings: Any) -> Any:
    """Return a grid with PettingZoo's parallel interface."""
    import pogema

    given = {"size": 8, "density": 0.3, "max_episode_steps": 64, **settings}
    return pogema.pogema_v0(
        pogema.GridConfig(num_agents=num_agents, integration="PettingZoo", **given)
    )
