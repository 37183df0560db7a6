"""Messages between a vector and workers under another interpreter: JSON, and nothing pickled.

Neither side can make the other import or run anything. What JSON has no form for is tagged:
arrays and NumPy scalars (as bytes), bytes, tuples, sets, dictionaries with other keys than text,
members of enumerations, and functions of this package, which both sides have. Anything else can't
be sent on purpose (arguments, seeds, options); from a worker (infos, results) it arrives as
`Foreign`: what it is and its repr.

Workers import this under any Python from 3.8 on.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np

from shoal.errors import EmulationError

__all__ = [
    "Foreign",
    "create",
    "dump_error",
    "dump_info",
    "dumps",
    "dumps_any",
    "load_error",
    "load_info",
    "loads",
]


class Foreign(str):
    """An object of a class that only the other interpreter has, as text."""


def dumps(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        TypeError: part of it can't be sent.
    """
    return json.dumps(encode(value, False), separators=(",", ":")).encode()


def dumps_any(value: Any) -> bytes:
    """The same, with what can't be sent as `Foreign`."""
    return json.dumps(encode(value, True), separators=(",", ":")).encode()


def loads(message: bytes | bytearray | memoryview) -> Any:
    """The value that `dumps` wrote."""
    return decode(json.loads(bytes(message)))


dump_info, load_info = dumps_any, loads


def encode(value: Any, any_kind: bool) -> Any:
    """A value in terms of JSON; a dictionary with one key that begins with "$" is a tag."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is dict:
        if all(type(key) is str for key in value) and not any(key[:1] == "$" for key in value):
            return {key: encode(item, any_kind) for key, item in value.items()}
        items = [[encode(k, any_kind), encode(v, any_kind)] for k, v in value.items()]
        return {"$dict": items}
    if kind is list:
        return [encode(item, any_kind) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, any_kind) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "?biufcSU":
        data = base64.b64encode(value.tobytes()).decode()
        return {"$array": [value.dtype.str, value.shape, isinstance(value, np.generic), data]}
    if isinstance(value, Enum):
        return {"$enum": [kind.__module__, kind.__qualname__, value.name]}
    if isinstance(value, (set, frozenset)):
        return {"$set": [encode(item, any_kind) for item in value]}
    if isinstance(value, FunctionType) and value.__module__.startswith("shoal."):
        return {"$function": [value.__module__, value.__qualname__]}
    plain: Any
    for plain in (dict, list, str, int, float):  # subclasses go as what they are made of
        if isinstance(value, plain):
            return encode(plain(value), any_kind)
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


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if type(value) is list:
        return [decode(item) for item in value]
    if type(value) is not dict:
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    if tag[:1] != "$":
        return {key: decode(item) for key, item in value.items()}
    content = value[tag]
    if tag == "$dict":
        return {decode(key): decode(item) for key, item in content}
    if tag == "$tuple":
        return tuple([decode(item) for item in content])
    if tag == "$set":
        return {decode(item) for item in content}
    if tag == "$bytes":
        return base64.b64decode(content)
    if tag == "$array":
        dtype, shape, scalar, data = content
        array = np.ndarray(shape, dtype, bytearray(base64.b64decode(data)))
        return array[()] if scalar else array
    if tag == "$enum":
        module, name, member = content
        found = known(module, name)
        if isinstance(found, type) and issubclass(found, Enum) and member in found.__members__:
            return found[member]
        return Foreign(f"{module}.{name}.{member}")
    if tag == "$function":
        if content[0].partition(".")[0] != "shoal":
            raise ValueError(f"{content[0]} is no module of this package")
        return getattr(importlib.import_module(content[0]), content[1])
    return Foreign(content)


def known(module: str, name: str) -> Any:
    """What a module (or file) that has been imported here calls `name`, or None."""
    found: Any = sys.modules.get(module)
    if found is None and module.endswith(".py"):
        files = ((getattr(each, "__file__", None), each) for each in list(sys.modules.values()))
        found = next((each for file, each in files if file == module), None)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def create(names: Any) -> Sequence[Callable[[], Any]]:
    """Functions that create environments, from their names and arguments."""
    from shoal.registry.names import creator

    return [creator(name, **kwargs) for name, kwargs in names]


def dump_error(error: Exception, said: str, name: str, notes: list[str]) -> bytes:
    """An exception as bytes; see `pickle_messages.dump_error`."""
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
    """The exception that `dump_error` packed, if its class is known here, else EmulationError."""
    module, qualname, arguments, said, name, notes = json.loads(bytes(message))
    found: Any = known(module, qualname)
    error: Exception = EmulationError(f"{name}: {said}")
    if isinstance(found, type) and issubclass(found, Exception):
        for each in [decode(arguments)] * (arguments is not None) + [(said,)]:
            try:
                rebuilt = found.__new__(found, *each)
                if str(rebuilt) == said:
                    error = rebuilt
                    break
            except Exception:
                continue
    object.__setattr__(error, "__notes__", notes)
    return error
