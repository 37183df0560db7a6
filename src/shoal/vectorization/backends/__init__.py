"""The ways to step many environments: in this process, in workers, on threads, or all at once."""

__all__ = []
