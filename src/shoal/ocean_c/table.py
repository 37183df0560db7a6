"""The table of a native environment as plain data, and its checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shoal.errors import EnvModuleError, ParameterError, did_you_mean

__all__ = ["Field", "Param", "Spec", "Table", "check_fields", "check_table", "param_values"]

MAX_STEPS = "max_steps"  # a parameter of every environment


@dataclass(frozen=True)
class Param:
    """A parameter. `value` is its default, NaN if there is none; `low` and `high` are inclusive."""

    name: str
    value: float
    low: float
    high: float
    kind: str  # "real", "integer" or "boolean"
    text: str

    @property
    def required(self) -> bool:
        return math.isnan(self.value)


@dataclass(frozen=True)
class Field:
    """An array of an observation or an action; `low` and `high` have its shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray
    text: str
    labels: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """An environment with certain parameters.

    Attributes:
        values: of the parameters, in the table's order.
        agents: rows of one environment.
        max_steps: time limit; 0 for none.
        state_size: bytes.
    """

    values: tuple[float, ...]
    agents: int
    max_steps: int
    state_size: int
    observations: tuple[Field, ...]
    actions: tuple[Field, ...]


@dataclass(frozen=True)
class Table:
    """The part of the table that no parameter changes; see shoal_env.h."""

    name: str
    text: str
    action_mask: bool
    params: tuple[Param, ...]
    logs: tuple[tuple[str, str], ...]  # (name, text)


def check_table(table: Table, path: str) -> None:
    """Raise EnvModuleError if the table has unusable names, types, bounds or defaults."""
    _check_names("parameters", [param.name for param in table.params], path)
    _check_names("log fields", [name for name, _ in table.logs], path)
    for param in table.params:
        if param.name == MAX_STEPS:
            raise EnvModuleError(f"{path}: parameter {MAX_STEPS!r}: every environment has it")
        if param.kind not in ("real", "integer", "boolean"):
            raise EnvModuleError(f"{path}: parameter {param.name!r}: its type is unknown")
        if not param.low <= param.high:
            raise EnvModuleError(
                f"{path}: parameter {param.name!r}: low is {param.low:g}, high is {param.high:g}"
            )
        if not param.required:
            try:
                _check_value(param, param.value)
            except ParameterError as error:
                raise EnvModuleError(f"{path}: default of {error}") from None


def check_fields(spec: Spec, path: str) -> None:
    """Raise EnvModuleError if observations, actions or agents are impossible."""
    if spec.agents < 1 or spec.max_steps < 0:
        raise EnvModuleError(
            f"{path}: expected at least 1 agent and max_steps of at least 0, got {spec.agents} "
            f"and {spec.max_steps}"
        )
    for what, fields in (("observation", spec.observations), ("action", spec.actions)):
        if not fields:
            raise EnvModuleError(f"{path}: the table has no {what} fields")
        _check_names(f"{what} fields", [field.name for field in fields], path)
        for field in fields:
            where = f"{path}: {what} {field.name!r}"
            if any(size < 1 for size in field.shape):
                raise EnvModuleError(f"{where}: shape {field.shape}")
            if not (field.low <= field.high).all():
                raise EnvModuleError(f"{where}: low is not below high")
            if field.dtype.kind != "f":
                info = np.iinfo(field.dtype)
                if (field.low < info.min).any() or (field.high > info.max).any():
                    raise EnvModuleError(f"{where}: {field.dtype} does not hold its bounds")
    kinds = {field.dtype.name for field in spec.actions}
    if kinds not in ({"int64"}, {"float32"}):
        raise EnvModuleError(
            f"{path}: actions: expected all SHOAL_INT64 or all SHOAL_FLOAT32, got {sorted(kinds)}"
        )
    for field in spec.actions:
        if field.dtype.kind == "i" and (field.low != 0).any():
            raise EnvModuleError(f"{path}: action {field.name!r}: low must be 0")
        if field.dtype.kind == "f" and not np.isfinite([field.low, field.high]).all():
            raise EnvModuleError(f"{path}: action {field.name!r}: its bounds must be finite")


def param_values(
    table: Table, given: Mapping[str, Any], path: str
) -> tuple[tuple[float, ...], int | None]:
    """Return the values of all parameters, in order, and the user's time limit (None: the table's).

    Raises:
        ParameterError: an unknown name, a missing or a bad value.
    """
    given = dict(given)
    limit = given.pop(MAX_STEPS, None)
    if limit is not None:
        limit = int(_check_value(Param(MAX_STEPS, 0, 0, 2**31 - 2, "integer", ""), limit))
    known = [param.name for param in table.params]
    for name in given:
        if name not in known:
            known.append(MAX_STEPS)
            raise ParameterError(
                f"{table.name} has no parameter {name!r}{did_you_mean(name, known)} "
                f"(it has {', '.join(known)})"
            )
    values = []
    for param in table.params:
        if param.name in given:
            values.append(_check_value(param, given[param.name]))
        elif param.required:
            raise ParameterError(f"{table.name} needs {param.name!r}: {param.text}")
        else:
            values.append(param.value)
    return tuple(values), limit


def with_limit(spec: Spec, limit: int | None) -> Spec:
    """Return the spec with the user's time limit, if there is one."""
    return spec if limit is None else replace(spec, max_steps=limit)


def _check_value(param: Param, value: Any) -> float:
    """Return a parameter's value as a float."""
    if not isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        raise ParameterError(f"parameter {param.name!r}: expected a number, got {value!r}")
    number = float(value)
    if param.kind == "boolean":
        if number not in (0, 1):
            raise ParameterError(f"parameter {param.name!r}: expected True or False, got {value!r}")
        return number
    if param.kind == "integer" and not number.is_integer():
        raise ParameterError(f"parameter {param.name!r}: expected an integer, got {value!r}")
    if not param.low <= number <= param.high:
        raise ParameterError(
            f"parameter {param.name!r}: expected {param.low:g} to {param.high:g}, got {value!r}"
        )
    return number


def _check_names(what: str, names: Sequence[str], path: str) -> None:
    for name in names:
        if not name.isidentifier():
            raise EnvModuleError(f"{path}: {what}: {name!r} is not an identifier")
        if names.count(name) > 1:
            raise EnvModuleError(f"{path}: {what}: {name!r} appears twice")
