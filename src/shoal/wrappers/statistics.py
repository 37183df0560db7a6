"""Mean and variance of all values seen so far, updated a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.errors import CheckpointError

__all__ = ["RunningMeanVar"]


class RunningMeanVar:
    """Running mean and (population) variance, in float64.

    Batches are merged by the parallel formula of Chan, Golub and LeVeque (1979), "Updating
    formulae and a pairwise algorithm for computing sample variances". It starts as if it had seen
    1e-4 values of mean 0 and variance 1, as in Gymnasium and Stable-Baselines3, so that the first
    division is not by zero.

    Attributes:
        mean, var: of each element (float64, `shape`).
        count: how many values have been seen.
    """

    def __init__(self, shape: tuple[int, ...] = ()):
        self.mean = np.zeros(shape)
        self.var = np.ones(shape)
        self.count = 1e-4

    def update(self, values: np.ndarray) -> None:
        """Add values of shape ``(n, *shape)``; none is allowed."""
        n = len(values)
        if n == 0:
            return
        values = values.astype(np.float64, copy=False)
        self.merge(values.mean(axis=0), values.var(axis=0), n)

    def merge(self, mean: Any, var: Any, n: float) -> None:
        """Add `n` values of which mean and (population) variance are known, each of `shape`."""
        total = self.count + n
        delta = mean - self.mean
        squares = self.var * self.count + var * n + delta**2 * (self.count * n / total)
        self.mean = self.mean + delta * n / total
        self.var = squares / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the three attributes."""
        return {"mean": self.mean.copy(), "var": self.var.copy(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring back what `state_dict` gave.

        Raises:
            CheckpointError: it is of values of another shape.
        """
        mean, var = (np.array(state[name], np.float64) for name in ("mean", "var"))
        if mean.shape != self.mean.shape or var.shape != self.var.shape:
            raise CheckpointError(
                f"statistics: expected those of values of shape {self.mean.shape}, got {mean.shape}"
            )
        self.mean, self.var, self.count = mean, var, float(state["count"])
