"""Makes Neural MMO 2; runs in the environment's own interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["create"]


def create(**settings: Any) -> Any:
    """The environment with its default configuration.

    Args:
        settings: of ``nmmo.config.Config``, such as ``HORIZON=512`` or ``MAP_CENTER=64``.
    """
    import nmmo

    config = nmmo.config.Default()
    # It would write its maps, which it draws once, into the working directory.
    config.set("PATH_MAPS", str(Path(nmmo.__file__).parents[4] / "nmmo_maps"))
    for name, value in settings.items():
        config.set(name, value)
    return nmmo.Env(config)
