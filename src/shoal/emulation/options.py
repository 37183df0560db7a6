"""The options of emulation as one object: checked once, then passed along unchanged.

Workers under another interpreter import this (Python 3.8 or newer).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import EmulationError, LayoutError
from shoal.rows.layout import Layout

__all__ = ["EmulationOptions"]


@dataclass(frozen=True)
class EmulationOptions:
    """How to emulate an environment; `shoal.emulate` explains each option.

    A pair of spaces in `pad` becomes a pair of layouts; NumPy integers become Python's.

    Raises:
        LayoutError: `form`, `one_hot` or `max_len` has a value that is not accepted.
        EmulationError: `max_agents`, `pad` or `debug` has a value that is not accepted.
    """

    form: str = "bytes"
    one_hot: bool = False
    max_len: int | Mapping[str, int] | None = None
    max_agents: int | None = None
    pad: bool | tuple[Any, Any] = False
    debug: bool = False

    def __post_init__(self) -> None:
        if self.form not in ("bytes", "float32"):
            raise LayoutError(f'form must be "bytes" or "float32", got {self.form!r}')
        if not isinstance(self.one_hot, bool):
            raise LayoutError(f"one_hot must be True or False, got {self.one_hot!r}")
        if self.one_hot and self.form != "float32":
            raise LayoutError(f'one_hot=True needs form="float32", got form={self.form!r}')
        if not isinstance(self.debug, bool):
            raise EmulationError(f"debug must be True or False, got {self.debug!r}")
        values: dict[str, Any] = {"max_len": lengths(self.max_len)}
        if self.max_agents is not None:
            if not is_integer(self.max_agents) or self.max_agents < 1:
                raise EmulationError(
                    f"max_agents must be an integer of at least 1, got {self.max_agents!r}"
                )
            values["max_agents"] = int(self.max_agents)
        if not isinstance(self.pad, bool):
            if not isinstance(self.pad, (tuple, list)) or len(self.pad) != 2:
                raise EmulationError(
                    "pad must be True, False or a pair of spaces (observation, action), got "
                    f"{self.pad!r}"
                )
            values["pad"] = tuple(
                space
                if isinstance(space, Layout)
                else Layout.from_space(space, max_len=values["max_len"], name=f"pad[{i}]")
                for i, space in enumerate(self.pad)
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def given(self) -> dict[str, Any]:
        """Return the options, by name, whose values are not the default ones."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value != getattr(type(self), name)}

    def filled(self, defaults: Mapping[str, Any]) -> EmulationOptions:
        """Return these options with `defaults` for those that have their default value.

        Args:
            defaults: values by name, such as a recipe's ``emulation``.

        Raises:
            EmulationError: `defaults` has a name that is not an option.
        """
        names = [field.name for field in dataclasses.fields(self)]
        unknown = defaults.keys() - set(names)
        if unknown:
            raise EmulationError(f"unknown option {min(unknown)!r}; the options are {names}")
        return dataclasses.replace(self, **{**defaults, **self.given()})

    def lay_out(self, space: Any, name: str = "obs") -> Layout:
        """Return the layout of an observation space."""
        return Layout.from_space(
            space, self.form, one_hot=self.one_hot, max_len=self.max_len, name=name
        )

    def to_json(self) -> str:
        """Return these options as a JSON string; `from_json` returns equal options."""
        values = self.given()
        if isinstance(self.pad, tuple):
            values["pad"] = [layout.to_json() for layout in self.pad]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> EmulationOptions:
        """Return the options that `to_json` wrote."""
        values = json.loads(text)
        if isinstance(values.get("pad"), list):
            values["pad"] = tuple([Layout.from_json(each) for each in values["pad"]])
        return cls(**values)


def lengths(max_len: Any) -> int | dict[str, int] | None:
    """Return `max_len`, checked, with Python's integers."""
    if max_len is None:
        return None
    named = max_len if isinstance(max_len, Mapping) else {"": max_len}
    for path, number in named.items():
        if not isinstance(path, str) or not is_integer(number) or number < 0:
            raise LayoutError(
                "max_len must be an integer >= 0, or a mapping from paths to such integers, got "
                f"{max_len!r}"
            )
    if isinstance(max_len, Mapping):
        return {path: int(number) for path, number in named.items()}
    return int(max_len)


def is_integer(value: Any) -> bool:
    """Return whether `value` is an integer, Python's or NumPy's; a bool is not one."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
