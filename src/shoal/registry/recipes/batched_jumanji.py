"""Makes environments of Jumanji, all at once."""

from typing import Any

import jumanji
from jumanji.specs import jumanji_specs_to_gym_spaces

from shoal.registry.functional import FunctionalEnv

__all__ = ["create"]


def create(num_envs: int = 1, env_id: str = "Snake-v1", **kwargs: Any) -> FunctionalEnv:
    """Return an environment of Jumanji with one agent.

    Args:
        num_envs: how many environments.
        env_id, kwargs: as for ``jumanji.make``.
    """
    env = jumanji.make(env_id, **kwargs)

    def reset(key: Any) -> tuple[Any, Any]:
        state, timestep = env.reset(key)
        return nested(timestep.observation), state

    def step(key: Any, state: Any, action: Any) -> tuple:
        state, timestep = env.step(state, action)
        over, goes_on = timestep.last(), timestep.discount != 0
        ends = over & ~goes_on, over & goes_on
        return nested(timestep.observation), state, timestep.reward, *ends, timestep.extras or {}

    return FunctionalEnv(
        reset,
        step,
        num_envs,
        jumanji_specs_to_gym_spaces(env.observation_spec),
        jumanji_specs_to_gym_spaces(env.action_spec),
    )


def nested(observation: Any) -> Any:
    """Return an observation with dicts in place of Jumanji's own tuples and classes."""
    if hasattr(observation, "_asdict"):
        return {key: nested(part) for key, part in observation._asdict().items()}
    if hasattr(observation, "__dataclass_fields__"):
        return {key: nested(getattr(observation, key)) for key in observation.__dataclass_fields__}
    return observation
