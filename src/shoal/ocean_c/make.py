"""One copy of a compiled environment, with the interface that fits its number of agents."""

from __future__ import annotations

from typing import Any

from shoal.ocean_c.single import OceanEnv, module_named

__all__ = ["make"]


def make(name: str, render_mode: str | None = None, **params: Any) -> Any:
    """A Gymnasium environment for one agent, a PettingZoo parallel environment for several.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: see `OceanEnv`.
        params: of the environment.
    """
    given = {key: value for key, value in params.items() if key != "debug"}
    if module_named(name).spec(given).agents == 1:
        return OceanEnv(name, render_mode, **params)
    from shoal.ocean_c.parallel import OceanParallel

    return OceanParallel(name, render_mode, **params)
