"""Emulation: an environment's nested spaces as one flat, fixed-size row of bytes."""

__all__: list[str] = []
