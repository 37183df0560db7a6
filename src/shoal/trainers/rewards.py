"""Rewards as a run wants them: normalised over all processes, and clipped."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.trainers.config import Config
from shoal.trainers.processes import moments
from shoal.wrappers.statistics import RunningMeanVar

__all__ = ["RewardScale"]

MOST_REWARD = 10.0  # what normalised rewards are clipped to


class RewardScale:
    """Rewards as the config wants them: divided by the deviation of the return, and clipped.

    The return of each row is discounted forwards, ``g = gamma * g * (1 - terminated) + r``, as in
    `shoal.wrappers.rewards.NormalizeReward`. A rollout's rewards are divided after the statistics
    have taken them in, all by the same number, which is the same in every process. So the first
    rollout is not learnt from at its raw size, and no reward is beyond `MOST_REWARD`.

    Args:
        num_rows: of this process's vector.
    """

    def __init__(self, num_rows: int, config: Config, device: torch.device):
        self.config, self.device = config, device
        self.running = RunningMeanVar()
        self.returns = np.zeros(num_rows)
        self.seen: list[np.ndarray] = []  # returns at each transition of this rollout

    def note(self, rows: np.ndarray, rewards: np.ndarray, terminated: np.ndarray) -> None:
        """Take in transitions of different rows: their rewards and whether they terminated."""
        if self.config.normalize_rewards:
            rest = self.config.gamma * (1 - terminated)
            self.returns[rows] = self.returns[rows] * rest + rewards
            self.seen.append(self.returns[rows])

    def scaled(self, rewards: Tensor) -> Tensor:
        """Return the rewards of the rollout scaled and clipped: float32 of any shape."""
        limits = []
        if self.config.normalize_rewards:
            seen = torch.from_numpy(np.concatenate(self.seen or [np.zeros(0)]))
            mean, variance, count = moments(seen.to(self.device))
            self.running.merge(mean.cpu().numpy(), variance.cpu().numpy(), float(count))
            self.seen.clear()
            rewards = rewards / math.sqrt(float(self.running.var) + 1e-8)
            limits.append(MOST_REWARD)
        if self.config.reward_clip is not None:
            limits.append(self.config.reward_clip)
        return rewards.clamp(-min(limits), min(limits)) if limits else rewards

    def state_dict(self) -> dict[str, Any]:
        return {"running": self.running.state_dict(), "returns": self.returns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running.load_state_dict(state["running"])
        if np.shape(state["returns"]) == self.returns.shape:  # else there are other environments
            self.returns = np.array(state["returns"])
