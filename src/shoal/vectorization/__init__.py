"""Vectorization: many environments stepped together, in this process or in workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.vectorization.vectorize import vectorize as vectorize

__all__ = ["vectorize"]


def __getattr__(name: str) -> object:
    if name not in __all__:  # workers import this package too, and must not load gymnasium
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shoal.vectorization.vectorize import vectorize

    globals()[name] = vectorize
    return vectorize
