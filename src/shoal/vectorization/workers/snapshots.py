"""Saving and restoring one environment, with what its loop remembers of the episode."""

from __future__ import annotations

import copyreg
import functools
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

try:
    from cloudpickle import Pickler
except ImportError:  # under another interpreter
    from pickle import Pickler  # type: ignore[assignment]

__all__ = ["restore", "save"]


def save(env: Any, driver: Any) -> bytes:
    """Return an environment and what its driver holds, as bytes; see `Vector.get_state`.

    Raises:
        Exception: as pickling raises it.
    """
    base = getattr(env, "unwrapped", env)
    own = own_methods(base)
    file = io.BytesIO()
    Saver(file, base if own else None).dump((env, driver, own and own[0]()))
    return file.getvalue()


def restore(env: Any, saved: bytes) -> tuple[Any, Any]:
    """Return the environment and what its driver holds, from what `save` returned.

    Args:
        env: one like it, whose innermost part takes its state up if it saves itself.
    """
    base = getattr(env, "unwrapped", env)
    env, driver, state = Loader(io.BytesIO(saved), base).load()
    own = own_methods(base)
    if own:
        own[1](state)
    return env, driver


def own_methods(env: Any) -> tuple[Callable[[], Any], Callable[[Any], None]] | None:
    """Return how an environment saves and restores itself, if it does."""
    for names in (("get_state", "set_state"), ("clone_state", "restore_state")):
        save, restore = (getattr(env, name, None) for name in names)
        if callable(save) and callable(restore):
            if "include_rng" in inspect.signature(save).parameters:  # Atari's
                save = functools.partial(save, include_rng=True)
            return save, restore
    return None


class Saver(Pickler):
    """Pickles an environment with all that it holds.

    Args:
        file: to write to.
        base: the environment innermost, if it saves itself: just its place is kept.
    """

    def __init__(self, file: io.BytesIO, base: Any):
        super().__init__(file)
        self.base = base

    def persistent_id(self, value: Any) -> str | None:
        return "base" if self.base is not None and value is self.base else None

    def reducer_override(self, value: Any) -> Any:
        # Gymnasium's EzPickle keeps only the arguments: what comes back begins from nothing.
        if any(cls.__name__ == "EzPickle" for cls in type(value).__mro__):
            create = copyreg.__newobj__, (type(value),)  # type: ignore[attr-defined]
            return (*create, value.__dict__, None, None, restore_attributes)
        inherited = getattr(super(), "reducer_override", None)
        return NotImplemented if inherited is None else inherited(value)


class Loader(pickle.Unpickler):
    """Loads what `Saver` pickled, around the innermost environment that is there."""

    def __init__(self, file: io.BytesIO, base: Any):
        super().__init__(file)
        self.base = base

    def persistent_load(self, name: str) -> Any:
        return self.base


def restore_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Set attributes, without regard to `__setstate__`."""
    value.__dict__.update(attributes)
