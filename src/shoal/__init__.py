"""Shoal: any reinforcement-learning environment as flat fixed-size arrays.

These names, and the modules of `shoal.wrappers`, are public; docs/api.md lists them. A name is
imported when it is first used, so that ``import shoal`` loads neither torch nor any environment
library.
"""

from __future__ import annotations  # workers under another interpreter import this too

from importlib import import_module
from typing import TYPE_CHECKING

from shoal.errors import (
    ActionError,
    CheckpointError,
    ClosedError,
    ConfigError,
    EmulationError,
    EnvCheckError,
    EnvModuleError,
    ExportError,
    InstallError,
    InterpreterError,
    LayoutError,
    NotFiniteError,
    ParameterError,
    PendingCallError,
    ResetNeededError,
    RunError,
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
    from shoal.vectorization.vector import Vector as Vector
    from shoal.wrappers.gymnasium import make_vec as make_vec

__all__ = [
    "Layout",
    "Vector",
    "emulate",
    "check_env",
    "vectorize",
    "make_vec",
    "ShoalError",
    "LayoutError",
    "ActionError",
    "EmulationError",
    "UnknownEnvError",
    "EnvCheckError",
    "EnvModuleError",
    "ParameterError",
    "ClosedError",
    "PendingCallError",
    "ResetNeededError",
    "InstallError",
    "InterpreterError",
    "StepTimeoutError",
    "WorkerDied",
    "ConfigError",
    "NotFiniteError",
    "CheckpointError",
    "RunError",
    "ExportError",
]

__version__ = "0.1.0"

_HOME = {
    "Layout": "shoal.rows.layout",
    "Vector": "shoal.vectorization.vector",
    "emulate": "shoal.emulation",
    "check_env": "shoal.emulation.check.check_env",
    "vectorize": "shoal.vectorization",
    "make_vec": "shoal.wrappers.gymnasium",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
