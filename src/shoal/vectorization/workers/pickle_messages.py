"""Messages between a vector and workers that have its own packages: pickles.

The same functions stand in `json_messages`, for workers that don't.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from shoal.errors import EmulationError

__all__ = [
    "create",
    "dump_error",
    "dump_info",
    "dumps",
    "dumps_any",
    "load_error",
    "load_info",
    "loads",
    "loads_any",
]

dumps = dumps_any = cloudpickle.dumps
loads = loads_any = pickle.loads
# The writer and the reader of infos pickle by themselves, and keep all that can be.
dump_info = load_info = None
create: Callable[[bytes], Sequence[Callable[[], Any]]] = pickle.loads


def dump_error(error: Exception, said: str, name: str, notes: list[str]) -> bytes:
    """Return an exception as bytes, from which `load_error` makes it again.

    Exceptions that don't survive pickling, as many whose constructors take several arguments, keep
    their type and what they say. Where even the type can't be sent, what they say is left.

    Args:
        said: the exception as text.
        name: of its class, with its module.
        notes: to go along.
    """
    for content in (error, (type(error), error.args), (type(error), (said,))):
        try:
            data = cloudpickle.dumps(content)
            rebuild(pickle.loads(data))
            break
        except Exception:
            data = b""
    return pickle.dumps((data, f"{name}: {said}", notes))


def load_error(message: bytes | bytearray) -> Exception:
    """Return the exception that `dump_error` packed."""
    data, name, notes = pickle.loads(message)
    try:
        error = rebuild(pickle.loads(data))
    except Exception:  # its class isn't known here, or there is nothing
        error = EmulationError(name)
    object.__setattr__(error, "__notes__", notes)
    return error


def rebuild(content: Any) -> Exception:
    """Return an exception, or make it from its type and arguments without its constructor."""
    error = content
    if isinstance(content, tuple):
        error = content[0].__new__(content[0], *content[1])
    if not isinstance(error, Exception):
        raise TypeError(f"expected an exception, got {error!r}")
    str(error)  # must be printable
    return error
