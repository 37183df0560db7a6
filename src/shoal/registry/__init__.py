"""From a name to an environment."""

__all__ = []
