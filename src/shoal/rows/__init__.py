"""What a row is: spaces as fixed layouts, and values to bytes and back. It knows no environment."""

__all__ = []
