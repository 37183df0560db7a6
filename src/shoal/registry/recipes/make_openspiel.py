"""Makes games of OpenSpiel."""

from __future__ import annotations

from typing import Any

__all__ = ["create"]


def create(game: str = "backgammon", **settings: Any) -> Any:
    """Return the game of this name as a turn-based environment of PettingZoo."""
    import pyspiel
    from shimmy.openspiel_compatibility import OpenSpielCompatibilityV0

    return OpenSpielCompatibilityV0(env=pyspiel.load_game(game, settings))
