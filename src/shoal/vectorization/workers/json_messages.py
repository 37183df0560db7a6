"""Messages between a vector and workers under another interpreter: JSON, and nothing pickled.

What JSON has no form for is tagged: arrays and NumPy scalars (as bytes), bytes, tuples, sets,
dictionaries with other keys than text, and members of enumerations. Anything else can't be sent to
a worker (arguments, seeds, options); from a worker (infos, results) it arrives as `Foreign`: what
it is and its repr.

A vector does not trust its workers, whose packages are somebody else's: no message makes it import
or call anything, and a message that `dumps_any` can't have written is an EmulationError. A worker
trusts its vector, which may name functions of this package to be called (`dumps`, `loads`).

Workers import this under any Python from 3.8 on.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from shoal.errors import EmulationError

__all__ = [
    "Foreign",
    "UNREADABLE",
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

# What reading a message raises that nobody honest has written.
UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)
MAX_NESTED = 200  # of values in values
DTYPE = re.compile(r"[<>|=][?biufcSU]\d+|[<>|=]?[?bB]")


class Foreign(str):
    """An object of a class that only the other interpreter has, as text."""


def dumps(value: Any) -> bytes:
    """Return a value as bytes, for a worker.

    Raises:
        TypeError: part of the value can't be sent.
    """
    return json.dumps(encode(value, False), separators=(",", ":")).encode()


def dumps_any(value: Any) -> bytes:
    """Return a value as bytes, from a worker; what can't be sent becomes `Foreign`."""
    return json.dumps(encode(value, True), separators=(",", ":")).encode()


def loads(message: bytes | bytearray | memoryview) -> Any:
    """Return the value that `dumps` wrote; for workers alone, since functions are imported."""
    return decode(json.loads(bytes(message)), True)


def loads_any(message: bytes | bytearray | memoryview) -> Any:
    """Return the value that `dumps_any` wrote.

    Raises:
        EmulationError: it can't have written this.
    """
    try:
        return decode(json.loads(bytes(memoryview(message))), False)
    except UNREADABLE as error:
        raise EmulationError(
            f"a worker sent a message that can't be read ({type(error).__name__}: {error})"
        ) from None


dump_info, load_info = dumps_any, loads_any


def encode(value: Any, any_kind: bool, depth: int = 0) -> Any:
    """Return a value in terms of JSON; a dictionary with one key that begins with "$" is a tag."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    depth += 1
    if depth > MAX_NESTED:
        if not any_kind:
            raise TypeError(f"values nested deeper than {MAX_NESTED} can't be sent to a worker")
        return {"$foreign": f"{kind.__module__}.{kind.__qualname__}(nested too deep)"}
    if kind is dict:
        if all(type(key) is str for key in value) and not any(key[:1] == "$" for key in value):
            return {key: encode(item, any_kind, depth) for key, item in value.items()}
        items = [[encode(k, any_kind, depth), encode(v, any_kind, depth)] for k, v in value.items()]
        return {"$dict": items}
    if kind is list:
        return [encode(item, any_kind, depth) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, any_kind, depth) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "?biufcSU":
        data = base64.b64encode(value.tobytes()).decode()
        return {"$array": [value.dtype.str, value.shape, isinstance(value, np.generic), data]}
    if isinstance(value, Enum):
        return {"$enum": [kind.__module__, kind.__qualname__, value.name]}
    if isinstance(value, (set, frozenset)):
        return {"$set": [encode(item, any_kind, depth) for item in value]}
    if not any_kind and isinstance(value, FunctionType) and is_ours(value.__module__):
        return {"$function": [value.__module__, value.__qualname__]}
    plain: Any
    for plain in (dict, list, str, int, float):  # subclasses go as what they are made of
        if isinstance(value, plain):
            return encode(plain(value), any_kind, depth)
    if not any_kind:
        raise TypeError(
            f"a {kind.__module__}.{kind.__qualname__} can't be sent to another interpreter: "
            "only numbers, text, bytes, arrays, and lists, tuples, sets and dicts of them can"
        )
    try:
        text = repr(value)
    except Exception:
        text = "(can't be printed)"
    return {"$foreign": f"{kind.__module__}.{kind.__qualname__}({text})"}


def decode(value: Any, trusted: bool = False) -> Any:
    """Return the value that `encode` made this of; functions only if `trusted`."""
    if type(value) is list:
        return [decode(item, trusted) for item in value]
    if type(value) is not dict:
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    if tag[:1] != "$":
        return {key: decode(item, trusted) for key, item in value.items()}
    content = value[tag]
    if tag == "$dict":
        return {decode(key, trusted): decode(item, trusted) for key, item in content}
    if tag == "$tuple":
        return tuple([decode(item, trusted) for item in content])
    if tag == "$set":
        return {decode(item, trusted) for item in content}
    if tag == "$bytes":
        return base64.b64decode(content, validate=True)
    if tag == "$array":
        return decode_array(*content)
    if tag == "$enum":
        module, name, member = content
        found = known(module, name)
        if isinstance(found, type) and issubclass(found, Enum) and member in found.__members__:
            return found[member]
        return Foreign(f"{module}.{name}.{member}")
    if tag == "$function" and trusted and is_ours(content[0]):
        return getattr(importlib.import_module(content[0]), content[1])
    if tag != "$foreign":
        raise ValueError(f"unexpected tag {tag!r} of {content!r:.80}")
    return Foreign(content)


def decode_array(dtype: str, shape: list[int], scalar: bool, data: str) -> Any:
    """Return an array, or a NumPy scalar, from its bytes."""
    if not DTYPE.fullmatch(dtype):
        raise ValueError(f"unexpected dtype {dtype!r}")
    kind, content = np.dtype(dtype), bytearray(base64.b64decode(data, validate=True))
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"unexpected shape {shape}")
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for {dtype} of shape {shape}")
    array = np.ndarray(shape, kind, content)
    return array[()] if scalar else array


def is_ours(module: str) -> bool:
    """Return whether a module is of this package, which both sides have."""
    return module.partition(".")[0] == "shoal"


def known(module: str, name: str) -> Any:
    """Return what a module (or file) that has been imported here calls `name`, or None.

    Nothing is run: modules and classes are only looked into.
    """
    found: Any = sys.modules.get(module)
    if found is None and module.endswith(".py"):
        modules = [each for each in list(sys.modules.values()) if isinstance(each, ModuleType)]
        found = next((each for each in modules if each.__dict__.get("__file__") == module), None)
    for part in name.split("."):
        found = found.__dict__.get(part) if isinstance(found, (ModuleType, type)) else None
    return found


def create(names: Any) -> Sequence[Callable[[], Any]]:
    """Return functions that create environments, from their names and arguments."""
    from shoal.registry.names import creator

    return [creator(name, **kwargs) for name, kwargs in names]


def dump_error(error: Exception, said: str, name: str, notes: list[str]) -> bytes:
    """Return an exception as bytes; see `pickle_messages.dump_error`."""
    kind = type(error)
    arguments = None
    if error.args != (said,):  # large messages go once
        try:
            arguments = encode(error.args, False)
        except Exception:
            pass
    found_as = kind.__module__, kind.__qualname__
    return json.dumps([*found_as, arguments, said, name, notes]).encode()


def load_error(message: bytes | bytearray) -> Exception:
    """Return the exception that `dump_error` packed; EmulationError if its class is unknown."""
    try:
        module, qualname, arguments, said, name, notes = json.loads(bytes(message))
        if not all(isinstance(text, str) for text in (module, qualname, said, name, *notes)):
            raise TypeError("an error is text")
    except UNREADABLE as unreadable:
        return EmulationError(f"a worker sent an error that can't be read ({unreadable})")
    found: Any = known(module, qualname)
    error: Exception = EmulationError(f"{name}: {said}")
    if isinstance(found, type) and issubclass(found, Exception):
        for each in [arguments] * (arguments is not None) + [{"$tuple": [said]}]:
            try:
                rebuilt = found.__new__(found, *decode(each, False))
                if str(rebuilt) == said:
                    error = rebuilt
                    break
            except Exception:
                continue
    object.__setattr__(error, "__notes__", list(notes))
    return error
