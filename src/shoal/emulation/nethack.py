"""NetHack with seeds that reproduce; a module of its own, because it needs Gymnasium."""

from __future__ import annotations

import random
import warnings
from typing import Any

import gymnasium

from shoal.emulation.interfaces import unwrapped

__all__ = ["SeededNetHack"]


class SeededNetHack(gymnasium.Wrapper):
    """Makes ``reset(seed=...)`` of NetHack (nle, MiniHack) reproduce.

    The game draws from generators of its own, which only ``env.unwrapped.seed(core, disp)`` sets,
    and only for one episode. After the first seed, each reset passes two numbers drawn from a
    generator of that seed. Before it, the seeds that the user set stay. Empty options are left
    out, because the game fails on them.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self._seeds: random.Random | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        if seed is not None:
            self._seeds = random.Random(seed)
        if self._seeds is not None:
            core, disp = self._seeds.randrange(2**31), self._seeds.randrange(2**31)
            try:
                unwrapped(self.env).seed(core=core, disp=disp, reseed=False)
            except RuntimeError as error:  # NetHackChallenge allows no seeds
                warnings.warn(f"the seed has no effect: {error}", stacklevel=2)
                self._seeds = None
        return self.env.reset(seed=seed, options=options or None)
