"""Makes networks of NASim; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

from shoal.emulation.interfaces import Wrapper

__all__ = ["create"]


def create(benchmark: str = "tiny", **settings: Any) -> Any:
    """Return one of NASim's networks, with flat observations and actions."""
    import nasim

    return Counted(nasim.make_benchmark(benchmark, **settings))


class Counted(Wrapper):
    """Gives the environment Python's integers as actions, since it knows no others."""

    def step(self, action: Any) -> Any:
        return self.env.step(int(action))
