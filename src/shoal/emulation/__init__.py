"""Emulation: an environment's nested spaces as one flat, fixed-size row of bytes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.emulation.options import EmulationOptions

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
        form: ``"bytes"`` keeps native dtypes, lossless; ``"float32"`` casts all to one vector.
        one_hot: with ``"float32"``: discrete values one-hot.
        max_len: most items of Sequence, nodes and edges of Graph spaces; see `Layout.from_space`.
        max_agents: slots for agents; needed by environments without ``possible_agents``.
        pad: show agents whose spaces differ one common observation space and action space. Where
            later agents may need larger ones than those at the start, give a pair of spaces
            (observation, action) that are large enough.
        debug: check every value against its space and raise at the first fault, naming leaf and
            step; costs some speed.

    Returns:
        A `shoal.emulation.single.EmulatedEnv` (a ``gymnasium.Env``) or a
        `shoal.emulation.multi.EmulatedMultiEnv` (a PettingZoo ``ParallelEnv``).

    Raises:
        LayoutError: a space has no fixed size and `max_len` gives none; the message names the leaf.
        EmulationError: `env` is no environment, or `max_agents` is missing.
    """
    from shoal.emulation.options import EmulationOptions

    return emulated(env, EmulationOptions(form, one_hot, max_len, max_agents, pad, debug))


def emulated(env: Any, options: EmulationOptions) -> Any:
    """Emulate an environment; see `emulate` for the options and the errors."""
    from shoal.errors import EmulationError

    require_environment(env)
    if options.debug:
        from shoal.emulation.check.checking_envs import checked

        env = checked(env)
    if is_multi_agent(env):
        from shoal.emulation.multi import EmulatedMultiEnv

        return EmulatedMultiEnv(env, options)
    if options.max_agents is not None or options.pad:
        raise EmulationError("max_agents and pad are for multi-agent environments only")
    from shoal.emulation.single import EmulatedEnv

    return EmulatedEnv(env, options)


def require_environment(env: Any) -> None:
    """Raise EmulationError unless `env` has what every environment has."""
    from shoal.errors import EmulationError

    if hasattr(env, "single_observation_space"):
        raise EmulationError(
            f"{type(env).__name__} steps many copies itself; shoal.vectorize takes it as it is"
        )
    has = [hasattr(env, name) for name in ("reset", "step")]
    for name in ("observation_space", "action_space"):  # old PettingZoo has dictionaries of them
        has.append(hasattr(env, name) or hasattr(env, name + "s"))
    if isinstance(env, type) or not all(has):
        got = f"the class {env.__name__}; give an instance" if isinstance(env, type) else repr(env)
        raise EmulationError(
            "expected a Gymnasium, PettingZoo or old gym environment with reset, step, "
            f"observation_space and action_space, got {got}"
        )


def is_multi_agent(env: Any) -> bool:
    """Whether `env` has PettingZoo's interface: parallel, or turn-based."""
    for library in ("gymnasium", "gym"):  # whoever has made one of theirs has imported it
        if library in sys.modules and isinstance(env, sys.modules[library].Env):
            return False  # some of these have agents too, behind one action space
    # The space methods take an agent; without possible_agents, only they are there before a reset.
    names = ("possible_agents", "agents", "agent_iter")
    return any(hasattr(env, name) for name in names) or callable(
        getattr(env, "observation_space", None)
    )
