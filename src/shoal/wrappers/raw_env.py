"""What `shoal.wrappers.sb3` puts around environments to treat them as Stable-Baselines3 does.

Workers run this, so it imports nothing of Stable-Baselines3, which would bring torch along.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium import spaces

__all__ = ["PLAIN", "RawEnv", "inside", "make_raw", "parts_of", "skip_reset"]

# The spaces that Stable-Baselines3 works with: each is one array.
PLAIN = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
NESTS = (spaces.Dict, spaces.Tuple)


class RawEnv(gymnasium.Wrapper):
    """Resets with nothing that was not given, and at times not at all; takes any action space.

    Args:
        env: any environment. Where its actions are none that Stable-Baselines3 knows, all of them
            must come by `Vector.send_objects`.
        stays_open: `close` does nothing, because the environment belongs to somebody else.
    """

    def __init__(self, env: gymnasium.Env, stays_open: bool = False):
        super().__init__(env)
        self.stays_open = stays_open
        self.skips_reset = False
        if not isinstance(env.action_space, PLAIN):
            self.action_space = spaces.Discrete(1)

    def reset(self, **given: Any) -> Any:
        if self.skips_reset:
            self.skips_reset = False
            return copy.deepcopy(self.observation_space).sample(), {}
        if not given.get("options"):
            given.pop("options", None)
        return self.env.reset(**given)

    def close(self) -> None:
        if not self.stays_open:
            self.env.close()


def make_raw(create: Callable[[], Any]) -> RawEnv:
    """Create an environment, of Gymnasium or of old ``gym``, with a `RawEnv` around it.

    Raises:
        NotImplementedError: its observations are nested deeper than Stable-Baselines3 takes them.
    """
    env = create()
    if not isinstance(env, gymnasium.Env):
        from stable_baselines3.common.vec_env.patch_gym import _patch_env

        env = _patch_env(env)
    if any(isinstance(part, NESTS) for part in parts_of(env.observation_space)):
        raise NotImplementedError(
            "Nested observation spaces are none of Stable-Baselines3's; ShoalVecEnv flattens them: "
            f"{env.observation_space}"
        )
    return RawEnv(env)


def parts_of(space: gymnasium.Space) -> list[gymnasium.Space]:
    """Return the spaces directly in a Dict or Tuple, or the space itself."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else [space]


def skip_reset(env: RawEnv) -> None:
    """Let the next reset be none: some environments can be stepped without."""
    env.skips_reset = True


def inside(env: RawEnv, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function on the environment inside."""
    return function(env.env, *args, **kwargs)
