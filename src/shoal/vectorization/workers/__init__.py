"""Worker processes: what they run, and how the parent talks to them."""

__all__ = []
