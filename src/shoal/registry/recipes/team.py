"""Makes environments that give a list of rewards, one for each of a team that one policy plays."""

from __future__ import annotations

from typing import Any

__all__ = ["create"]


def create(env_id: str, **settings: Any) -> Any:
    """Return the environment `env_id`, whose reward is the sum of its agents' rewards."""
    import gymnasium

    env = gymnasium.make(env_id, disable_env_checker=True, **settings)

    def total(rewards: Any) -> float:
        return float(sum(rewards))

    return gymnasium.wrappers.TransformReward(env, total)
