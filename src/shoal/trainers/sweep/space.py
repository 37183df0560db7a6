"""What a sweep may change: the tables ``[sweep.NAME]`` of a TOML file as Optuna's distributions.

Some distributions look at a parameter through a function, so that every sampler sees the scale that
suits it. Optuna's name of the parameter says so: ``log2(num_envs)``, ``logit(gamma)``. What a run
is told is the number itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from shoal.errors import ConfigError, did_you_mean
from shoal.trainers.config import Config, described, from_dict, to_dict

__all__ = ["Dimension", "configured", "default_tables", "read_space", "sweepable"]

ENV = "env_kwargs."  # begins the name of a parameter of the environment
KINDS = ["uniform", "log", "integer", "log_integer", "power_of_two", "logit", "categorical"]

# What is swept if nothing is configured; ends with "×" are multiples of the config's own value.
DEFAULTS: dict[str, dict[str, Any]] = {
    "total_steps": {"distribution": "log_integer", "low": "0.05 ×", "high": "1 ×"},
    "num_envs": {"distribution": "power_of_two", "low": 64, "high": 2048},
    "horizon": {"distribution": "power_of_two", "low": 8, "high": 128},
    "learning_rate": {"distribution": "log", "low": 1e-4, "high": 2e-2},
    "gamma": {"distribution": "logit", "low": 0.8, "high": 0.999},
    "gae_lambda": {"distribution": "logit", "low": 0.6, "high": 0.995},
    "update_epochs": {"distribution": "integer", "low": 1, "high": 6},
    "minibatch_size": {"distribution": "power_of_two", "low": 256, "high": 32_768},
    "clip": {"distribution": "uniform", "low": 0.05, "high": 0.4},
    "entropy_coefficient": {"distribution": "log", "low": 1e-4, "high": 1e-1},
    "value_coefficient": {"distribution": "log", "low": 0.1, "high": 5.0},
    "max_gradient_norm": {"distribution": "log", "low": 0.1, "high": 5.0},
    "hidden_size": {"distribution": "power_of_two", "low": 32, "high": 256},
}


@dataclass(frozen=True)
class Dimension:
    """One parameter of a sweep.

    Attributes:
        name: an option of `Config`, or ``env_kwargs.NAME``.
        kind: one of `KINDS`.
        distribution: what Optuna draws from.
    """

    name: str
    kind: str
    distribution: BaseDistribution

    @property
    def label(self) -> str:
        """Optuna's name of the parameter."""
        through = {"power_of_two": "log2({})", "logit": "logit({})"}.get(self.kind, "{}")
        return through.format(self.name)

    def decode(self, drawn: Any) -> Any:
        """Return the value of the option for what Optuna has drawn."""
        if self.kind == "power_of_two":
            return 2 ** int(drawn)
        return 1 / (1 + math.exp(-drawn)) if self.kind == "logit" else drawn

    def encode(self, value: Any) -> Any:
        """Return what Optuna would have drawn for a value; None if the space doesn't have it."""
        each: Any = self.distribution
        if isinstance(each, CategoricalDistribution):
            return value if value in each.choices else None
        if value is None or (self.kind != "uniform" and not value > 0):
            return None
        if self.kind == "power_of_two":
            value = math.log2(value)
        elif self.kind == "logit":
            if not value < 1:
                return None
            value = math.log(value / (1 - value))
        if isinstance(each, IntDistribution):
            if not float(value).is_integer():
                return None
            value = int(value)
        return value if each.low <= value <= each.high else None


@functools.cache  # it reads the source of Config
def sweepable() -> list[str]:
    """Return the options that a sweep may change: those that change what a run learns."""
    told = {"env", "env_kwargs", "device"}
    return [name for section, name, *_ in described() if section != "run" and name not in told]


def default_tables(config: Config) -> dict[str, Any]:
    """Return what a sweep changes if nothing is configured: what `Config` has of `DEFAULTS`."""
    known = sweepable()
    tables = {
        name: _scaled(table, getattr(config, name))
        for name, table in DEFAULTS.items()
        if name in known
    }
    if _declared(config) is None:  # environments in Python are slow: few of them
        tables["num_envs"] |= {"low": 4, "high": 64}
    return tables


def _scaled(table: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return a table of `DEFAULTS` with its multiples of an option's value multiplied."""

    def end(given: Any) -> Any:
        return max(1, round(float(given[:-1]) * value)) if isinstance(given, str) else given

    return {**table, "low": end(table["low"]), "high": end(table["high"])}


def read_space(tables: Mapping[str, Any], config: Config) -> list[Dimension]:
    """Return the dimensions that the tables ``[sweep.NAME]`` of a file describe.

    Args:
        tables: from names to tables; those of the environment's parameters by their own names, or
            in the table ``env_kwargs``.
        config: of the runs.

    Raises:
        ConfigError: an unknown name, or a table that can't be meant; it names what is accepted.
    """
    tables = dict(tables)
    inner = tables.pop("env_kwargs", {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"sweep.env_kwargs must be a table of tables, got {inner!r}")
    tables.update({ENV + name: table for name, table in inner.items()})
    made: dict[str, Dimension] = {}
    for given, table in tables.items():
        each = _dimension(_full_name(given, config), table, config)
        if each.name in made:
            raise ConfigError(f"sweep.{given}: {each.name} is there twice")
        made[each.name] = each
    return list(made.values())


def _full_name(given: str, config: Config) -> str:
    name = given.replace("-", "_") if not given.startswith(ENV) else given
    known, declared = sweepable(), _declared(config)
    if name in known:
        return name
    bare = name.removeprefix(ENV)
    if declared is None and name != bare:
        return name  # the environment itself says whether it has it
    if declared is not None and bare in declared:
        return ENV + bare
    if name in {field.name for field in dataclasses.fields(Config)}:
        raise ConfigError(f"sweep.{given}: a sweep can't change {name}")
    others = [*known, *(ENV + each for each in declared or ())] if name == bare else declared or ()
    hint = did_you_mean(name if name == bare else bare, others)
    what = "no such option or parameter" if name == bare else f"{config.env} has no such parameter"
    raise ConfigError(f"sweep.{given}: {what}{hint}")


def _declared(config: Config) -> dict[str, Any] | None:
    """Return the parameters that a native environment declares; None of any other."""
    from shoal.ocean_c.find import load
    from shoal.registry.creators import find_source

    native = find_source(config.env, 1, config.env_kwargs).native
    return None if native is None else {each.name: each for each in load(native).table.params}


def _dimension(name: str, table: Any, config: Config) -> Dimension:
    where = f"sweep.{name}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table with a distribution, got {table!r}")
    table = dict(table)
    param = None
    whole = _is_whole(name)
    if name.startswith(ENV) and (declared := _declared(config)) is not None:
        param = declared[name.removeprefix(ENV)]
        whole = param.kind == "integer"
        if param.kind == "boolean":
            table.setdefault("distribution", "categorical")
            table.setdefault("values", [False, True])
    choices = _choices(name)
    if choices:
        table.setdefault("distribution", "categorical")
        table.setdefault("values", choices)
    kind = table.pop("distribution", "integer" if whole else "uniform")
    if kind not in KINDS:
        raise ConfigError(
            f"{where}: distribution must be one of {', '.join(KINDS)}, got {kind!r}"
            f"{did_you_mean(str(kind), KINDS)}"
        )
    if kind == "categorical":
        values = table.pop("values", None)
        _nothing_more(where, table, ["distribution", "values"])
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: values must be a list of at least one, got {values!r}")
        for value in values:
            _check(name, value, config, param)
        return Dimension(name, kind, CategoricalDistribution(values))
    if choices or (param is not None and param.kind == "boolean"):
        raise ConfigError(f"{where}: distribution must be categorical, got {kind!r}")
    if whole:
        kind = {"uniform": "integer", "log": "log_integer"}.get(kind, kind)
    ends = []
    for end in ("low", "high"):
        value = table.pop(end, None)
        if value is None and param is not None:
            value = getattr(param, end)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 2**62:
            raise ConfigError(f"{where}: {end} must be a number, got {value!r}")
        if kind in ("integer", "log_integer", "power_of_two"):
            if not float(value).is_integer():
                raise ConfigError(f"{where}: {end} must be a whole number, got {value!r}")
            value = int(value)
        _check(name, value, config, param)
        ends.append(value)
    _nothing_more(where, table, ["distribution", "low", "high"])
    low, high = ends
    if not low < high:
        raise ConfigError(f"{where}: low must be less than high, got {low} and {high}")
    if kind in ("log", "log_integer", "power_of_two", "logit") and not low > 0:
        raise ConfigError(f"{where}: low must be more than 0 for {kind}, got {low}")
    return Dimension(name, kind, _distribution(where, kind, low, high))


def _distribution(where: str, kind: str, low: Any, high: Any) -> BaseDistribution:
    if kind == "power_of_two":
        exponents = math.log2(low), math.log2(high)
        if not all(each.is_integer() for each in exponents):
            raise ConfigError(f"{where}: low and high must be powers of two, got {low} and {high}")
        return IntDistribution(int(exponents[0]), int(exponents[1]))
    if kind == "logit":
        if not high < 1:
            raise ConfigError(f"{where}: high must be less than 1 for logit, got {high}")
        return FloatDistribution(math.log(low / (1 - low)), math.log(high / (1 - high)))
    if kind in ("integer", "log_integer"):
        return IntDistribution(low, high, log=kind == "log_integer")
    return FloatDistribution(low, high, log=kind == "log")


def _nothing_more(where: str, table: Mapping[str, Any], known: list[str]) -> None:
    for key in table:
        raise ConfigError(
            f"{where}: there is no {key!r}{did_you_mean(key, known)} (it has {', '.join(known)})"
        )


def _check(name: str, value: Any, config: Config, param: Any) -> None:
    """Raise ConfigError unless an option or a parameter may have this value."""
    if name.startswith(ENV):
        if param is None:
            return
        low, high = param.low, param.high
        if isinstance(value, str) or not low <= value <= high:
            raise ConfigError(
                f"sweep.{name}: {config.env} takes {low:g} to {high:g}, got {value!r}"
            )
        return
    try:
        configured(config, {name: value})
    except ConfigError as error:
        # What only doesn't fit to another option may fit in a run that changes both.
        if str(error).startswith(f"{name}:"):
            raise ConfigError(f"sweep.{error}") from error


def _is_whole(name: str) -> bool:
    return not name.startswith(ENV) and int in _types(name)


def _choices(name: str) -> list[Any]:
    if name.startswith(ENV):
        return []
    types = _types(name)
    literal = [each for kind in types if get_origin(kind) is Literal for each in get_args(kind)]
    return literal or ([False, True] if bool in types else [])


@functools.cache
def _types(name: str) -> list[Any]:
    kind = get_type_hints(Config)[name]
    return [kind] if get_origin(kind) is Literal else [kind, *get_args(kind)]


def configured(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a config with other values: of options, and of ``env_kwargs.NAME``."""
    mine = {name: value for name, value in values.items() if not name.startswith(ENV)}
    theirs = {
        name.removeprefix(ENV): value for name, value in values.items() if name.startswith(ENV)
    }
    return from_dict({**to_dict(config), **mine, "env_kwargs": {**config.env_kwargs, **theirs}})
