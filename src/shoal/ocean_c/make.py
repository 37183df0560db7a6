"""A native environment, with the interface that fits its number of agents."""

from __future__ import annotations

from typing import Any

from shoal.ocean_c.find import module_named
from shoal.ocean_c.native_env import NativeEnv

__all__ = ["make"]


def make(name: str, render_mode: str | None = None, **params: Any) -> Any:
    """A Gymnasium environment for one agent, a PettingZoo parallel environment for several.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: see `NativeEnv`.
        params: of the environment.
    """
    given = {key: value for key, value in params.items() if key != "debug"}
    if module_named(name).spec(given).agents == 1:
        return NativeEnv(name, render_mode, **params)
    from shoal.ocean_c.native_parallel_env import NativeParallelEnv

    return NativeParallelEnv(name, render_mode, **params)
