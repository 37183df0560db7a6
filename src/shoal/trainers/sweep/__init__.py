"""Sweeps: search options of the trainer and of the environment; see docs/sweeps.md."""

__all__: list[str] = []
