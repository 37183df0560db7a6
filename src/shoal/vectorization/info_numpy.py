"""Writing infos into slots without compiled code: the twin of `info.InfoWriter`.

`info.pyx` says what slots, schemas and messages are; its reader reads what this writes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from shoal.errors import EmulationError

__all__ = ["InfoWriter"]

# As in info.pyx: kinds of values, tags of slots, and bounds.
INFO, FLOAT, INT, BOOL, NUMBER, ARRAY, TEXT, CONSTANT = range(8)
EMPTY, SPILLED, FIRST_SCHEMA = range(3)
HEADER = 8
MAX_FIELDS, MAX_SCHEMAS, MAX_CONSTANTS, MAX_NDIM = 512, 64, 256, 4

TYPES = {INFO: dict, FLOAT: float, INT: int, BOOL: bool, ARRAY: np.ndarray, TEXT: str}
NUMBERS = frozenset(np.dtype(char).type for char in "bBhHiIlLqQefdgFDG")
ARRAY_CHARS = frozenset("?bBhHiIlLqQefdgFDG")
FORMATS = {INFO: "", FLOAT: "d", INT: "q", BOOL: "?7x", TEXT: "II", CONSTANT: "q"}


class Schema:
    """How infos of one signature are packed behind the slot's header.

    Attributes:
        values: the format of `struct` for all fixed values.
    """

    def __init__(self, signature: tuple):
        self.signature = signature
        formats = []
        for _, kind, char, shape in signature:
            nbytes = np.dtype(char).itemsize * math.prod(shape) if kind in (NUMBER, ARRAY) else 0
            formats.append(FORMATS.get(kind, f"{nbytes}s{-nbytes % 8}x"))
        self.values = struct.Struct("=" + "".join(formats))
        self.nbytes = HEADER + self.values.size
        self.types = [
            np.dtype(char).type if kind == NUMBER else TYPES.get(kind)
            for _, kind, char, _ in signature
        ]


class InfoWriter:
    """Puts infos into slots; see `info.InfoWriter` for the arguments."""

    def __init__(self, slots: np.ndarray, number: int, dumps: Callable[[Any], bytes]):
        self.slots, self.number, self.dumps = slots, number, dumps
        self.capacity = slots.shape[1]
        self.heads = slots.view(np.uint32)
        self.schemas: list[Schema] = []
        self.constants: list[Any] = []
        self.new_schemas: list[tuple] = []
        self.new_constants: list[tuple] = []
        self.fits: dict[tuple, bool] = {}

    def write(self, info: Any, slot: int) -> bytes | None:
        """Write `info` into a slot; the message that must reach the reader first, if any."""
        head = self.heads[slot]
        if not info and (info is None or isinstance(info, dict)):
            if head[0] != EMPTY:
                head[0] = EMPTY
            return None
        if not hasattr(info, "items"):
            raise EmulationError(f"info: expected a dict, got {type(info).__name__}")
        for number, schema in enumerate(self.schemas) if type(info) is dict else ():
            packed = self._pack(schema, info)
            if packed is not None:
                self.slots[slot, HEADER : HEADER + len(packed)] = np.frombuffer(packed, np.uint8)
                head[0], head[1] = FIRST_SCHEMA + number, self.number
                return None
        head[0], head[1] = SPILLED, self.number
        info = dict(info.items())
        self._learn(info)
        return self._message(info)

    def _pack(self, schema: Schema, info: dict) -> bytes | None:
        """The bytes of an info, if it fits."""
        values: list[Any] = []
        texts: list[bytes] = []
        if self._fill(schema, 0, info, values, texts, schema.nbytes) == 0:
            return None
        try:
            return schema.values.pack(*values) + b"".join(texts)
        except struct.error:  # an integer that is too large
            return None

    def _fill(
        self, schema: Schema, at: int, mapping: dict, values: list, texts: list, end: int
    ) -> int:
        """Append the values of `mapping`, which is field `at`; the next field, or 0: none fits."""
        if schema.signature[at][3] != len(mapping):
            return 0
        at += 1
        for key, value in mapping.items():
            name, kind, char, shape = schema.signature[at]
            wanted = schema.types[at]
            if key != name or (wanted is not None and type(value) is not wanted):
                return 0
            if kind == INFO:
                at = self._fill(schema, at, value, values, texts, end)
                if at == 0:
                    return 0
                continue
            at += 1
            if kind in (FLOAT, INT, BOOL):
                values.append(value)
            elif kind == NUMBER:
                values.append(value.tobytes())
            elif kind == ARRAY:
                if value.dtype.char != char or value.shape != shape or not value.dtype.isnative:
                    return 0
                values.append(value.tobytes())
            elif kind == TEXT:
                try:
                    text = value.encode()
                except UnicodeEncodeError:  # lone surrogates
                    return 0
                start = end + sum(map(len, texts))
                if start + len(text) > self.capacity:
                    return 0
                values += [start, len(text)]
                texts.append(text)
            else:
                found = index_of(self.constants, value)
                if found < 0:
                    return 0
                values.append(found)
        return at

    def _learn(self, info: dict) -> None:
        """Give an info's schema and constants numbers, if it is one that slots can hold."""
        fields: list[tuple] = []
        values: list[Any] = []
        if not describe(None, info, fields, values):
            return
        constants: list[Any] = []
        for value in values:
            if index_of(self.constants + constants, value) < 0:
                constants.append(value)
        if len(self.constants) + len(constants) > MAX_CONSTANTS:
            return
        signature = tuple(fields)
        if signature not in self.fits:
            if len(self.fits) == MAX_SCHEMAS:
                return
            schema = Schema(signature)
            self.fits[signature] = schema.nbytes <= self.capacity
            if self.fits[signature]:
                self.new_schemas.append((len(self.schemas), signature))
                self.schemas.append(schema)
        if self.fits[signature]:
            for value in constants:
                self.new_constants.append((len(self.constants), value))
                self.constants.append(value)

    def _message(self, info: dict) -> bytes:
        """An info whole, with the announcements that are due."""
        announcements = b""
        if self.new_schemas or self.new_constants:
            constants = [(number, self.dumps(value)) for number, value in self.new_constants]
            announcements = self.dumps((self.number, self.new_schemas, constants, []))
            self.new_schemas, self.new_constants = [], []
        return len(announcements).to_bytes(4, "little") + announcements + self.dumps(info)


def index_of(values: list, value: Any) -> int:
    """Where this very object is, or -1."""
    return next((i for i, each in enumerate(values) if each is value), -1)


def describe(key: Any, value: Any, fields: list, constants: list) -> bool:
    """Append the fields of a value, and its constants; False if it has no place in a slot."""
    kind = type(value)
    if len(fields) == MAX_FIELDS:
        return False
    if kind is dict:
        fields.append((key, INFO, "", len(value)))
        return all(
            # The key that Gymnasium treats as no other is left to the reader's slow way.
            type(name) is str and name != "final_obs" and describe(name, item, fields, constants)
            for name, item in value.items()
        )
    if kind is float:
        fields.append((key, FLOAT, "d", ()))
    elif kind is bool:
        fields.append((key, BOOL, "?", ()))
    elif kind is int and -(2**63) <= value < 2**63:
        fields.append((key, INT, np.dtype(np.int64).char, ()))
    elif kind in NUMBERS:
        fields.append((key, NUMBER, np.dtype(kind).char, ()))
    elif kind is np.ndarray and value.dtype.char in ARRAY_CHARS and value.ndim <= MAX_NDIM:
        fields.append((key, ARRAY, value.dtype.char, value.shape))
    elif kind is str:
        fields.append((key, TEXT, "", ()))
    elif value is None or kind is np.bool_ or isinstance(value, Enum):
        fields.append((key, CONSTANT, "", ()))
        constants.append(value)
    else:
        return False
    return True
