"""Environments in C: one file is one environment; see docs/ocean_author.md."""

__all__: list[str] = []
