"""Makes environments of Gymnax and Craftax (which has the same functions), all at once."""

from collections.abc import Callable
from typing import Any

from shoal.registry.functional import FunctionalEnv

__all__ = ["craftax", "gymnax"]


def gymnax(num_envs: int = 1, env_id: str = "CartPole-v1", **params: Any) -> FunctionalEnv:
    """Return an environment of Gymnax.

    Args:
        num_envs: how many environments.
        env_id: as for ``gymnax.make``.
        params: those of its default parameters that are to be others.
    """
    import gymnax as library

    env, default = library.make(env_id)
    given = default.replace(**params)
    return functional(
        env, given, num_envs, lambda state, over: (over, env.is_truncated(state, given))
    )


def craftax(num_envs: int = 1, env_id: str = "Craftax-Symbolic-v1", **params: Any) -> FunctionalEnv:
    """Return an environment of Craftax.

    Args:
        num_envs: how many environments.
        env_id: as for ``craftax.craftax_env.make_craftax_env_from_name``.
        params: those of its default parameters that are to be others.
    """
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name(env_id, auto_reset=False)
    given = env.default_params.replace(**params)
    endless = given.replace(max_timesteps=2**31 - 1)

    def ends(state: Any, over: Any) -> tuple[Any, Any]:  # it doesn't tell a limit from an end
        terminated = env.is_terminal(state, endless)
        return terminated, over & ~terminated

    return functional(env, given, num_envs, ends)


def functional(
    env: Any, params: Any, num_envs: int, ends: Callable[[Any, Any], tuple[Any, Any]]
) -> FunctionalEnv:
    """Return copies of one with Gymnax's functions.

    Args:
        ends: from a state, and whether the step to it ended the episode: (terminated, truncated).
    """

    def step(key: Any, state: Any, action: Any) -> tuple:
        observation, state, reward, over, info = env.step_env(key, state, action, params)
        return observation, state, reward, *ends(state, over), info

    return FunctionalEnv(
        lambda key: env.reset_env(key, params),
        step,
        num_envs,
        env.observation_space(params),
        env.action_space(params),
    )
