"""Makes environments of Brax, all at once."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from brax import envs
from gymnasium.spaces import Box

from shoal.registry.functional import FunctionalEnv

__all__ = ["create"]


def create(
    num_envs: int = 1, env_id: str = "ant", episode_length: int = 1000, **kwargs: Any
) -> FunctionalEnv:
    """Return an environment of Brax.

    Args:
        num_envs: how many environments.
        env_id, episode_length, kwargs: as for ``brax.envs.create``.
    """
    env = envs.create(env_id, episode_length, auto_reset=False, **kwargs)

    def reset(key: Any) -> tuple[Any, Any]:
        state = env.reset(key)
        return state.obs, state

    def step(key: Any, state: Any, action: Any) -> tuple:
        state = env.step(state, action)
        truncated = state.info["truncation"] != 0
        terminated = jnp.logical_and(state.done != 0, ~truncated)
        return state.obs, state, state.reward, terminated, truncated, state.metrics

    return FunctionalEnv(
        reset,
        step,
        num_envs,
        Box(-np.inf, np.inf, (env.observation_size,), np.float32),
        Box(-1, 1, (env.action_size,), np.float32),
    )
