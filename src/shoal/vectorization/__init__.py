"""Vectorization: many environments stepped together, in this process or in workers."""

__all__: list[str] = []
