"""Environments whose ``reset(seed=...)`` does not reproduce, and the cure."""

from __future__ import annotations

from typing import Any

from shoal.emulation.interfaces import is_of_gymnasium, layers

__all__ = ["original", "reproducible"]


def reproducible(env: Any) -> Any:
    """Return `env`, in a `SeededNetHack` if it is NetHack (nle, MiniHack) without one."""
    found = layers(env)
    packages = {cls.__module__.partition(".")[0] for cls in type(found[-1]).__mro__}
    if "nle" not in packages or not is_of_gymnasium(env, "Env"):
        return env
    from shoal.emulation.nethack import SeededNetHack

    return env if any(isinstance(each, SeededNetHack) for each in found) else SeededNetHack(env)


def original(env: Any) -> Any:
    """Return `env` without the `SeededNetHack` that is outermost."""
    return env.env if type(env).__name__ == "SeededNetHack" else env
