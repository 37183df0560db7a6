"""Wrappers that change rewards, a batch at a time. Rows that are no transition keep theirs: 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.vectorization.vector import Batch
from shoal.wrappers.base import Wrapper
from shoal.wrappers.statistics import RunningMeanVar

__all__ = ["ClipReward", "DeltaReward", "NormalizeReward", "RewardComponents", "ScaleReward"]


class ClipReward(Wrapper):
    """Rewards clipped to ``[low, high]``; not invertible.

    Args:
        env: see `Wrapper`.
        low, high: bounds; None for none on that side.

    Raises:
        ValueError: no bounds, or empty ones.
    """

    def __init__(self, env: Any, low: float | None = -1.0, high: float | None = 1.0):
        if low is None and high is None:
            raise ValueError("ClipReward: expected a bound on one side at least, got none")
        if low is not None and high is not None and not low <= high:
            raise ValueError(f"ClipReward: expected low <= high, got {low} and {high}")
        super().__init__(env)
        self.low, self.high = low, high

    def receive(self, batch: Batch) -> Batch:
        clipped = np.clip(batch.rewards, self.low, self.high)
        return batch._replace(rewards=np.where(self.transitions(batch), clipped, batch.rewards))


class ScaleReward(Wrapper):
    """Rewards times `scale`; divide by it to invert.

    Raises:
        ValueError: `scale` is zero or not finite.
    """

    def __init__(self, env: Any, scale: float):
        if not np.isfinite(scale) or scale == 0:
            raise ValueError(f"ScaleReward: expected a finite scale other than 0, got {scale}")
        super().__init__(env)
        self.scale = scale

    def receive(self, batch: Batch) -> Batch:
        return batch._replace(rewards=batch.rewards * self.scale)


class NormalizeReward(Wrapper):
    """Rewards divided by the standard deviation of the discounted returns seen so far.

    The return of each row is discounted forwards, ``g = gamma * g * (1 - terminated) + r``, exactly
    as Gymnasium's wrapper does it (truncation and resets leave it to fade). The statistics are of
    all rows together, without those that are no transition, and belong in checkpoints
    (`state_dict`). Invert with `unnormalize`, as long as no further step was made.

    Args:
        env: see `Wrapper`.
        gamma: discount, 0 to 1.
        epsilon: added to the variance; positive.
        update: whether batches still change the statistics; an attribute, False for evaluation.

    Attributes:
        running: a `RunningMeanVar` of the returns.
        returns: the discounted return of each agent row so far (float64, ``(num_rows,)``).
    """

    def __init__(
        self, env: Any, gamma: float = 0.99, epsilon: float = 1e-8, *, update: bool = True
    ):
        if not 0 <= gamma <= 1:
            raise ValueError(f"NormalizeReward: expected gamma from 0 to 1, got {gamma}")
        if not epsilon > 0:
            raise ValueError(f"NormalizeReward: expected a positive epsilon, got {epsilon}")
        super().__init__(env)
        self.gamma, self.epsilon, self.update = gamma, epsilon, update
        self.running = RunningMeanVar()
        self.returns = np.zeros(env.num_rows)

    def receive(self, batch: Batch) -> Batch:
        valid = self.transitions(batch)
        rows = batch.agent_ids[valid]
        rest = self.gamma * (1 - batch.terminations[valid])
        self.returns[rows] = self.returns[rows] * rest + batch.rewards[valid]
        if self.update:
            self.running.update(self.returns[rows])
        return batch._replace(rewards=batch.rewards / self.deviation)

    @property
    def deviation(self) -> float:
        """What rewards are divided by now."""
        return math.sqrt(self.running.var + self.epsilon)

    def unnormalize(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards of the last batch as the environment gave them."""
        return rewards * self.deviation

    def state_dict(self) -> dict[str, Any]:
        return {"running": self.running.state_dict(), "returns": self.returns.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        returns = np.array(state["returns"], np.float64)
        if returns.shape != self.returns.shape:  # another number of environments: begin anew
            returns = np.zeros_like(self.returns)
        self.running.load_state_dict(state["running"])
        self.returns = returns


class DeltaReward(Wrapper):
    """What the reward has changed by: ``R(s_t) - R(s_{t-1})``, and 0 for an episode's first step.

    For rewards that say how good a state is: nothing is gained by staying in a good one. The sum
    over an episode is its last reward less its first, so adding each to the sum of those before
    gives the rewards back, up to that first one.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self._last = np.zeros(env.num_rows)

    def receive(self, batch: Batch) -> Batch:
        rows, valid = batch.agent_ids, self.transitions(batch)
        later = valid & (self.vector.episode_lengths > 1)
        rewards = np.where(later, batch.rewards - self._last[rows], 0.0)
        self._last[rows[valid]] = batch.rewards[valid]
        return batch._replace(rewards=rewards)


class RewardComponents(Wrapper):
    """Rewards made of several named numbers that the environment tells in its infos.

    Where an episode ends, ``infos["episode_components"]`` has the sum of each component over it
    (``{name: array}``, with ``_episode_components`` as usual); what an info lacks counts 0.

    Args:
        env: see `Wrapper`.
        weights: ``{name: weight}``: the reward becomes the weighted sum of these infos. Or just
            names: rewards stay as they are.

    Attributes:
        components: of the last batch (float64, ``(rows, names)``), unweighted.
    """

    def __init__(self, env: Any, weights: Mapping[str, float] | list[str] | tuple[str, ...]):
        super().__init__(env)
        self.names = list(weights)
        self._weights = np.array(list(weights.values())) if isinstance(weights, Mapping) else None
        self._sums = np.zeros((env.num_rows, len(self.names)))
        self.components = np.zeros((0, len(self.names)))

    def receive(self, batch: Batch) -> Batch:
        rows, infos, valid = batch.agent_ids, batch.infos, self.transitions(batch)
        final = infos.get("_final_info", np.zeros(len(rows), bool))  # SAME_STEP: infos are later
        found = np.zeros((len(rows), len(self.names)))
        for source, whose in ((infos, valid & ~final), (infos.get("final_info", {}), final)):
            for i, name in enumerate(self.names):
                if name in source:
                    present = source[f"_{name}"] & whose
                    found[present, i] = source[name][present]
        self.components = found
        first = self.vector.episode_lengths[valid] == 1
        before = np.where(first[:, None], 0, self._sums[rows[valid]])
        self._sums[rows[valid]] = before + found[valid]
        ended = (batch.terminations | batch.truncations) & valid
        if ended.any():
            sums = np.where(ended[:, None], self._sums[rows], 0)
            infos["episode_components"] = dict(zip(self.names, sums.T))
            infos["_episode_components"] = ended
        if self._weights is None:
            return batch
        return batch._replace(rewards=found @ self._weights)
