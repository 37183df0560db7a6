"""Shoal: any reinforcement-learning environment as flat fixed-size arrays.

The names below are imported when first used, so that ``import shoal`` stays quick and loads
neither torch nor any environment library.
"""

from __future__ import annotations  # workers under another interpreter import this too

from importlib import import_module
from typing import TYPE_CHECKING

from shoal.errors import (
    ActionError,
    ClosedError,
    EmulationError,
    EnvCheckError,
    EnvModuleError,
    InstallError,
    InterpreterError,
    LayoutError,
    ParameterError,
    PendingCallError,
    ResetNeededError,
    ShoalError,
    StepTimeoutError,
    UnknownEnvError,
    WorkerDied,
)

if TYPE_CHECKING:
    from shoal.emulation import emulate as emulate
    from shoal.emulation.check.check_env import check_env as check_env
    from shoal.rows.layout import Layout as Layout
    from shoal.vectorization import vectorize as vectorize

__all__ = [
    "Layout",
    "emulate",
    "check_env",
    "vectorize",
    "ShoalError",
    "LayoutError",
    "ActionError",
    "EmulationError",
    "UnknownEnvError",
    "EnvCheckError",
    "EnvModuleError",
    "ParameterError",
    "ClosedError",
    "InstallError",
    "InterpreterError",
    "PendingCallError",
    "ResetNeededError",
    "StepTimeoutError",
    "WorkerDied",
]

__version__ = "0.1.0"

_HOME = {
    "Layout": "shoal.rows.layout",
    "emulate": "shoal.emulation",
    "check_env": "shoal.emulation.check.check_env",
    "vectorize": "shoal.vectorization",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
