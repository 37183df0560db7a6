"""Wrappers of one environment, for what can't be done to a batch from outside.

They belong in the function that makes the environment, and so run where it does, in a worker::

    shoal.vectorize(lambda: repeat_action(gymnasium.make("Pendulum-v1"), 4), num_envs=8)

Environments of old ``gym`` need none: `shoal.emulate` and `shoal.vectorize` take them as they are.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from shoal.emulation.interfaces import is_multi_agent

__all__ = ["ActionRepeat", "atari", "repeat_action", "time_limit"]


def repeat_action(env: Any, times: int) -> Any:
    """Take each action `times` times, or until the episode ends, and add up the rewards.

    Args:
        env: a ``gymnasium.Env``, or a PettingZoo ``ParallelEnv``, which also stops where an agent
            ends or joins.
        times: 1 or more.
    """
    if not isinstance(times, int) or times < 1:
        raise ValueError(f"repeat_action: expected times of 1 or more, got {times!r}")
    if is_multi_agent(env):
        from shoal.wrappers.pettingzoo import ParallelActionRepeat

        return ParallelActionRepeat(parallel("repeat_action", env), times)
    return ActionRepeat(env, times)


def time_limit(env: Any, max_steps: int) -> Any:
    """Truncate episodes after `max_steps` steps; the reset that follows is the environment's.

    Args:
        env: a ``gymnasium.Env`` (this is Gymnasium's ``TimeLimit``), or a PettingZoo
            ``ParallelEnv``.
        max_steps: 1 or more.
    """
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"time_limit: expected max_steps of 1 or more, got {max_steps!r}")
    if is_multi_agent(env):
        from shoal.wrappers.pettingzoo import ParallelTimeLimit

        return ParallelTimeLimit(parallel("time_limit", env), max_steps)
    return gymnasium.wrappers.TimeLimit(env, max_steps)


def parallel(name: str, env: Any) -> Any:
    """Return `env` itself, unless it is turn-based: an action of one agent is no step of all."""
    if hasattr(env, "agent_iter"):
        raise ValueError(f"{name}: expected an environment where all move at once, not in turns")
    return env


def atari(game: str, **kwargs: Any) -> gymnasium.Env:
    """Return an Atari game as of Machado et al. (2018): (84, 84) grey images, every 4th frame.

    Gymnasium's ``AtariPreprocessing`` around ``ALE/game-v5``; stack frames with `FrameStack`.

    Args:
        game: such as ``"Pong"``.
        kwargs: for ``AtariPreprocessing``: ``noop_max``, ``frame_skip``, ``screen_size``,
            ``terminal_on_life_loss``, ``grayscale_obs``, ``grayscale_newaxis``, ``scale_obs``; what
            else there is goes to the environment, such as ``repeat_action_probability``.
    """
    import ale_py

    gymnasium.register_envs(ale_py)
    names = ["noop_max", "frame_skip", "screen_size", "terminal_on_life_loss"]
    names += ["grayscale_obs", "grayscale_newaxis", "scale_obs"]
    preparing = {name: kwargs.pop(name) for name in names if name in kwargs}
    env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, disable_env_checker=True, **kwargs)
    return gymnasium.wrappers.AtariPreprocessing(env, **preparing)


class ActionRepeat(gymnasium.Wrapper):
    """See `repeat_action`. Gymnasium has ``RepeatAction`` since 1.3, with the same results."""

    def __init__(self, env: gymnasium.Env, times: int):
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
