"""A picture of how a run went, for people to look at before they read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["draw_curve", "smooth"]


def draw_curve(history: Sequence[Mapping[str, float]], title: str) -> bytes:
    """Return a PNG of the return over steps, with length, entropy and explained variance below it.

    Args:
        history: metrics of each update; those without an episode have no point.
        title: above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")  # not pyplot's: no global state
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, height_ratios=[2, 1])
    returns = figure.add_subplot(grid[0, :])
    _plot(returns, history, "episode/return")
    returns.set_title(title, loc="left", fontweight="bold")
    returns.set_ylabel("episode return")
    returns.set_xlabel("steps")
    for i, name in enumerate(("episode/length", "loss/entropy", "explained_variance")):
        axes = figure.add_subplot(grid[1, i])
        _plot(axes, history, name)
        axes.set_title(name, fontsize="medium")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, format="png")
    return picture.getvalue()


def _plot(axes: Any, history: Sequence[Mapping[str, float]], name: str) -> None:
    """Plot one metric over steps: every value faintly, their moving mean strongly."""
    from matplotlib.ticker import EngFormatter

    points = [(m["steps"], m[name]) for m in history if name in m]
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=5)
    if not points:
        axes.text(0.5, 0.5, "nothing yet", ha="center", va="center", transform=axes.transAxes)
        return
    steps, values = np.array(points).T
    axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1)
    axes.plot(steps, smooth(values, len(values) // 50 + 1), color="tab:blue", linewidth=2)


def smooth(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the mean of each value and up to `radius` neighbours on either side."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - radius, 0), np.minimum(at + radius + 1, len(values))
    return (total[high] - total[low]) / (high - low)
