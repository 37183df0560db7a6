"""Emulation: an environment's nested spaces as one flat, fixed-size row of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["emulate"]


def emulate(
    env: Any,
    form: str = "bytes",
    *,
    one_hot: bool = False,
    max_len: int | Mapping[str, int] | None = None,
    max_agents: int | None = None,
    pad: bool | tuple[Any, Any] = False,
    debug: bool = False,
) -> Any:
    """Wrap an environment so that its observations and actions are flat, fixed-size arrays.

    Args:
        env: a ``gymnasium.Env``, a PettingZoo ``ParallelEnv`` or ``AECEnv``, or an environment of
            old ``gym`` (four-valued steps, no ``seed=``), which works with a warning.
        form: ``"bytes"`` keeps native dtypes, lossless; ``"float32"`` casts all values to one
            float32 vector.
        one_hot: with ``"float32"``, write discrete values one-hot.
        max_len: the most items of a Sequence, or nodes and edges of a Graph; see
            `Layout.from_space`.
        max_agents: number of rows for agents; needed if the environment has no
            ``possible_agents``.
        pad: give agents whose spaces differ one common observation space and action space. If
            agents that join later may need larger ones, give a pair of spaces (observation,
            action) that are large enough.
        debug: check every value against its space and raise `EnvCheckError` at the first fault,
            naming leaf and step; slower.

    Returns:
        A `shoal.emulation.single.EmulatedEnv` (a ``gymnasium.Env``), or, if the environment has
        PettingZoo's interface, a `shoal.emulation.multi.EmulatedMultiEnv` (a ``ParallelEnv``).

    Raises:
        LayoutError: a space has no fixed size and `max_len` gives none; the message names the leaf.
        EmulationError: `env` is not an environment, or `max_agents` is missing.

    Examples:
        >>> import gymnasium, numpy, shoal
        >>> space = gymnasium.spaces.Dict(
        ...     {"at": gymnasium.spaces.Box(0, 9, (2,), numpy.float32),
        ...      "kind": gymnasium.spaces.Discrete(3)})
        >>> class Walk(gymnasium.Env):
        ...     observation_space, action_space = space, gymnasium.spaces.Discrete(4)
        ...     def reset(self, *, seed=None, options=None):
        ...         return {"at": numpy.float32([1, 2]), "kind": 2}, {}
        >>> env = shoal.emulate(Walk())
        >>> observation, info = env.reset(seed=1)
        >>> observation.dtype, observation.shape  # 2 * 4 bytes and 8 bytes
        (dtype('uint8'), (16,))
        >>> env.observation_layout.view(observation)["at"]
        array([1., 2.], dtype=float32)
        >>> shoal.emulate(Walk(), form="float32", one_hot=True).reset()[0]
        array([1., 2., 0., 0., 1.], dtype=float32)
    """
    from shoal.emulation.interfaces import is_multi_agent, require_environment
    from shoal.emulation.options import EmulationOptions

    options = EmulationOptions(form, one_hot, max_len, max_agents, pad, debug)
    require_environment(env)
    if is_multi_agent(env):
        from shoal.emulation.multi import EmulatedMultiEnv

        return EmulatedMultiEnv(env, options)
    from shoal.emulation.single import EmulatedEnv

    return EmulatedEnv(env, options)
