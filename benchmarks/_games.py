"""Environments that the training benchmark makes from others."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

__all__ = ["SmallAtari", "pong"]


class SmallAtari(gymnasium.Env):
    """An Atari game as the last four pictures of 40 by 40, one every four frames.

    Each picture is the brightest of every 4 by 4 pixels of the last two frames, without the score.
    Rewards are clipped to -1, 0 and 1. No sticky actions; episodes begin after up to 30 frames of
    doing nothing.
    """

    def __init__(self, game: str):
        import ale_py

        gymnasium.register_envs(ale_py)
        self.env = gymnasium.make(
            f"ALE/{game}-v5",
            obs_type="grayscale",
            frameskip=1,
            repeat_action_probability=0.0,
        )
        self.action_space = self.env.action_space
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 40, 40), np.uint8)
        self.stack = np.zeros((4, 40, 40), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        frame, _ = self.env.reset(seed=seed)
        for _ in range(self.np_random.integers(30)):
            frame, *_ = self.env.step(0)
        self.stack[:] = small(frame)
        return self.stack.copy(), {}

    def step(self, action: Any) -> tuple:
        reward, terminated, truncated = 0.0, False, False
        before = frame = None
        for _ in range(4):
            before = frame
            frame, gained, terminated, truncated, _ = self.env.step(action)
            reward += float(gained)
            if terminated or truncated:
                break
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = small(frame if before is None else np.maximum(before, frame))
        return self.stack.copy(), float(np.sign(reward)), terminated, truncated, {}

    def close(self) -> None:
        self.env.close()


def small(frame: np.ndarray) -> np.ndarray:
    return frame[34:194].reshape(40, 4, 40, 4).max(axis=(1, 3))


def pong() -> SmallAtari:
    return SmallAtari("Pong")
