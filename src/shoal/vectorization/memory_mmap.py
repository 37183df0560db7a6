"""Shared memory with the standard library's ``mmap``: the twin of `memory.pyx`."""

from __future__ import annotations

import mmap

__all__ = ["map_memory"]


def map_memory(descriptor: int, nbytes: int) -> mmap.mmap:
    """Map the first `nbytes` behind a descriptor, shared with all who map it."""
    return mmap.mmap(descriptor, nbytes)
