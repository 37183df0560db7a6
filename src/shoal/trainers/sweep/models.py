"""What the sampler models with: a search space as the unit cube, and Gaussian processes over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

__all__ = ["Cube", "Process"]

FIT = 192  # observations that the kernel is fitted to


class Cube:
    """A search space as the unit cube: one column a number, one for each choice of a category."""

    def __init__(self, space: Mapping[str, BaseDistribution]):
        self.space = dict(sorted(space.items()))
        self.columns: dict[str, slice] = {}
        at = 0
        for name, each in self.space.items():
            width = len(each.choices) if isinstance(each, CategoricalDistribution) else 1
            self.columns[name] = slice(at, at + width)
            at += width
        self.size = at

    def encode(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return parameters as a point, float64 of shape (size,)."""
        point = np.zeros(self.size)
        for name, each in self.space.items():
            if isinstance(each, CategoricalDistribution):
                point[self.columns[name]][int(each.to_internal_repr(params[name]))] = 1.0
            else:
                low, high = _bounds(each)
                value = math.log(params[name]) if each.log else params[name]  # type: ignore[attr-defined]
                point[self.columns[name]] = (value - low) / max(high - low, 1e-12)
        return np.clip(point, 0.0, 1.0)

    def decode(self, point: np.ndarray) -> dict[str, Any]:
        """Return a point as parameters; integers are rounded."""
        params: dict[str, Any] = {}
        for name, each in self.space.items():
            part = point[self.columns[name]]
            if isinstance(each, CategoricalDistribution):
                params[name] = each.choices[int(part.argmax())]
                continue
            low, high = _bounds(each)
            value = low + float(part[0]) * (high - low)
            value = math.exp(value) if each.log else value  # type: ignore[attr-defined]
            if isinstance(each, IntDistribution):
                params[name] = int(min(max(round(value), each.low), each.high))
            else:
                params[name] = min(max(value, each.low), each.high)  # type: ignore[attr-defined]
        return params

    def snap(self, points: np.ndarray) -> np.ndarray:
        """Return points, shape (n, size), moved to the nearest ones that can be run."""
        points = np.clip(points, 0.0, 1.0)
        for name, each in self.space.items():
            part = points[:, self.columns[name]]
            if isinstance(each, CategoricalDistribution):
                part[:] = np.eye(part.shape[1])[part.argmax(1)]
            elif isinstance(each, IntDistribution):
                low, high = _bounds(each)
                values = low + part * (high - low)
                whole = np.rint(np.exp(values) if each.log else values).clip(each.low, each.high)
                part[:] = ((np.log(whole) if each.log else whole) - low) / max(high - low, 1e-12)
        return np.clip(points, 0.0, 1.0)


def _bounds(each: Any) -> tuple[float, float]:
    """Return the ends of a distribution of numbers, as logarithms if it is one of them."""
    return (math.log(each.low), math.log(each.high)) if each.log else (each.low, each.high)


class Process:
    """A Gaussian process: Matérn 5/2 kernel, a length for each column, learned noise.

    The kernel maximises the posterior of its parameters on at most `FIT` observations.

    Args:
        points: shape (n, size), within 0 to 1.
        values: shape (n,).
        noise: shape (n,), of each value as a multiple of the learned noise variance.
        start: parameters of the kernel to start from, those of an earlier process.
        fit: with False, keep the parameters of `start`.
        rng: chooses the observations that the kernel is fitted to.
    """

    def __init__(
        self,
        points: np.ndarray,
        values: np.ndarray,
        noise: np.ndarray,
        rng: np.random.Generator,
        start: torch.Tensor | None = None,
        fit: bool = True,
    ):
        self.middle = float(values.mean())
        self.scale = float(values.std()) or 1.0
        self.points = torch.from_numpy(points)
        y = torch.from_numpy((values - self.middle) / self.scale)
        multiples = torch.from_numpy(noise)
        some = torch.from_numpy(rng.permutation(len(y))[:FIT])
        if fit or start is None:
            start = self._fit(self.points[some], y[some], multiples[some], start)
        self.kernel = start
        with torch.no_grad():
            self._factor = _cholesky(self.points, multiples, self.kernel)
            self._weights = torch.cholesky_solve(y[:, None], self._factor)

    @staticmethod
    def _fit(
        x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, start: torch.Tensor | None
    ) -> torch.Tensor:
        size = x.shape[1]
        prior = torch.zeros(size + 2, dtype=torch.float64)
        prior[:size] = math.log(0.5 * math.sqrt(size))  # lengths grow with the dimension
        prior[size + 1] = math.log(0.05)
        widths = torch.full_like(prior, 1.0)
        widths[size:] = torch.tensor([0.7, 1.5], dtype=torch.float64)
        kernel = (prior if start is None else start).clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS(
            [kernel], max_iter=15 if start is not None else 25, line_search_fn="strong_wolfe"
        )

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            factor = _cholesky(x, noise, kernel)
            solved = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
            value = 0.5 * solved.square().sum() + factor.diagonal().log().sum()
            value = value + 0.5 * ((kernel - prior) / widths).square().sum()
            value.backward()
            return value

        try:
            optimizer.step(loss)
        except torch.linalg.LinAlgError:
            return prior
        found = kernel.detach()
        return found if bool(found.isfinite().all()) else prior

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation, shape (n,), of the values without their noise."""
        with torch.no_grad():
            cross = _matern(torch.from_numpy(points), self.points, self.kernel)
            mean = (cross @ self._weights)[:, 0]
            solved = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
            variance = self.kernel[-2].exp() - solved.square().sum(0)
            deviation = variance.clamp(min=1e-10).sqrt()
        return mean.numpy() * self.scale + self.middle, deviation.numpy() * self.scale


def _matern(a: torch.Tensor, b: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    lengths = kernel[:-2].exp()
    a, b = a / lengths, b / lengths
    square = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    distance = (5 * square.clamp(min=1e-12)).sqrt()
    return kernel[-2].exp() * (1 + distance + distance.square() / 3) * (-distance).exp()


def _cholesky(x: torch.Tensor, noise: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    matrix = _matern(x, x, kernel)
    diagonal = noise * kernel[-1].exp() + 1e-6 * kernel[-2].exp()
    return torch.linalg.cholesky(matrix + torch.diag(diagonal))
