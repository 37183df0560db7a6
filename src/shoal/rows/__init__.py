"""What a row is: spaces as fixed layouts, and values to bytes and back. Knows no environment."""

__all__ = []
