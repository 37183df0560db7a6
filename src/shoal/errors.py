"""Errors that Shoal raises.

Every error names what was expected, what was given, and where: the environment's index and the
path of the leaf in its space, such as ``inventory[3].glyph``. An error that refines a built-in
error also derives from it, so ``except ValueError`` keeps working::

    ShoalError
    ├─ LayoutError (ValueError)         a space or a value does not fit a layout
    ├─ ActionError (ValueError)         an action outside its space
    ├─ EmulationError                   an environment that breaks its interface
    │  ├─ UnknownEnvError (LookupError)    a name of no environment
    │  ├─ EnvCheckError                    a fault that a check found
    │  ├─ EnvModuleError                   an environment in C that can't be built or loaded
    │  └─ ParameterError (ValueError)      a parameter of an environment
    ├─ ClosedError, PendingCallError, ResetNeededError    a call at the wrong time
    ├─ StepTimeoutError (TimeoutError)  no batch in time
    ├─ WorkerDied                       a worker process ended
    ├─ InstallError                     a recipe can't be installed
    ├─ InterpreterError (ValueError)    another Python can't run workers
    ├─ ConfigError (ValueError)         an option
    ├─ NotFiniteError (ArithmeticError) NaN or infinity in training
    ├─ CheckpointError, RunError        a run's files
    └─ ExportError                      a policy that can't leave Python

If a name is unknown, the message suggests similar names: `did_you_mean`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
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
    "did_you_mean",
    "install_extra",
    "near",
]


class ShoalError(Exception):
    """Base of every error that Shoal raises on purpose."""


class LayoutError(ShoalError, ValueError):
    """A space has no fixed size, or a value or an array does not fit its layout."""


class ActionError(ShoalError, ValueError):
    """An action is not in the action space; nothing was stepped."""


class EmulationError(ShoalError):
    """An environment cannot be emulated, or broke its own interface while running."""


class UnknownEnvError(EmulationError, LookupError):
    """No environment has this name, or the package that has it is not installed."""


class EnvCheckError(EmulationError):
    """A check of an environment (`check_env`, or ``emulate(env, debug=True)``) found a fault."""


class EnvModuleError(EmulationError):
    """A native environment can't be built or loaded, or was built for another `shoal_env.h`."""


class ParameterError(EmulationError, ValueError):
    """An environment has no such parameter, needs one, or can't have this value."""


class ClosedError(ShoalError):
    """The vector has been closed, or an earlier error has ended it."""


class PendingCallError(ShoalError):
    """A call came out of order: another one is waiting for its result, or none is.

    Attributes:
        name: the pending call (``"reset"`` or ``"step"``), or the one that is missing.
    """

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class ResetNeededError(ShoalError):
    """An episode is over, and with autoreset disabled its environment must be reset first."""


class InstallError(ShoalError):
    """An environment's packages could not be installed; names the step and the log file."""


class InterpreterError(ShoalError, ValueError):
    """Workers can't run under this interpreter, or what they are to do can't be sent to it."""


class StepTimeoutError(ShoalError, TimeoutError):
    """Environments did not answer in time; the message names them."""


class WorkerDied(ShoalError):
    """A worker process ended by itself; the message has its exit code and its environments."""


class ConfigError(ShoalError, ValueError):
    """An option that does not exist, or a value that can't be meant."""


class NotFiniteError(ShoalError, ArithmeticError):
    """NaN or infinity in training; the message names the first place it appeared."""


class CheckpointError(ShoalError):
    """A checkpoint is missing, broken, or belongs to other spaces."""


class RunError(ShoalError):
    """A run's folder can't be made, written or found."""


class ExportError(ShoalError):
    """A part of a policy can't be exported; the message names the module."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean ...?`` with `prefix` before each name; empty if no name is near."""
    found = near(name, known)
    return f"; did you mean {', '.join(prefix + each for each in found)}?" if found else ""


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three known names that are near `name`, the nearest first.

    Case makes no difference.
    """
    spelled = {each.lower(): each for each in known}
    return [spelled[each] for each in difflib.get_close_matches(name.lower(), spelled)]


def install_extra(name: str) -> str:
    """Return how to install the packages of one of Shoal's extras: it is not on PyPI."""
    return f"pip install '.[{name}]' in Shoal's folder"
