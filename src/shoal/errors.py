"""Errors that Shoal raises.

Every error says what was expected, what was got, and where: the environment's index and the path
of the leaf in its space, such as ``inventory[3].glyph``. All derive from `ShoalError`; those that
refine a built-in error also derive from it, so ``except ValueError`` keeps working.
"""

__all__ = ["ShoalError", "LayoutError", "ActionError", "EmulationError", "EnvCheckError"]


class ShoalError(Exception):
    """Base of every error that Shoal raises on purpose."""


class LayoutError(ShoalError, ValueError):
    """A space has no fixed size, or a value or an array does not fit its layout."""


class ActionError(ShoalError, ValueError):
    """An action is not in the action space; nothing was stepped."""


class EmulationError(ShoalError):
    """An environment cannot be emulated, or broke its own interface while running."""


class EnvCheckError(EmulationError):
    """A check of an environment (`check_env`, or ``emulate(env, debug=True)``) found a fault."""
