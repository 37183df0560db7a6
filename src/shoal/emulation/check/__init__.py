"""Checks of environments: every value against its space, and replays."""

__all__ = []
