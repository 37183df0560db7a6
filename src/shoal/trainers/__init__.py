"""Trainers: PPO on any vector, with its policies, runs and display."""

__all__: list[str] = []
