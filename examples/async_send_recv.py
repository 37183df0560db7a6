"""An asynchronous loop without any library: act for whichever environments are ready."""

# test: --steps 2000

import argparse
import time

import gymnasium
import numpy as np
from gymnasium import spaces

import shoal


class Uneven(gymnasium.Env):
    """Its steps take 0.2 milliseconds, but every tenth takes 3."""

    observation_space = spaces.Box(0, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        time.sleep(0.003 if self.np_random.random() < 0.1 else 0.0002)
        observation = self.np_random.random(4, dtype=np.float32)
        return observation, float(action), self.np_random.random() < 0.01, False, {}


def policy(observations: np.ndarray) -> np.ndarray:
    """Yours: actions for the rows of a batch."""
    return (observations.sum(axis=1) > 2).astype(np.int64)


def asynchronous(num_steps: int) -> float:
    """Steps per second where a batch is the first half of the environments that are ready."""
    vector = shoal.vectorize(Uneven, 8, backend="pool", num_workers=4, batch_size=4, seed=0)
    returns = np.zeros(vector.num_envs)
    vector.async_reset()
    start = time.perf_counter()
    for _ in range(num_steps // vector.batch_size):
        batch = vector.recv()  # four environments; the other four are being stepped meanwhile
        returns[batch.agent_ids] += batch.rewards  # rows are those of `agent_ids`
        vector.send(policy(batch.observations))  # for these four, and on with the next
    speed = num_steps / (time.perf_counter() - start)
    print("reward of each environment:", returns)
    print(vector.statistics())
    vector.close()
    return speed


def synchronous(num_steps: int) -> float:
    """The same where each step waits for all."""
    vector = shoal.vectorize(Uneven, 8, backend="multiprocess", num_workers=4, seed=0)
    observations, _ = vector.reset()
    start = time.perf_counter()
    for _ in range(num_steps // vector.num_envs):
        observations, *_ = vector.step(policy(observations))
    speed = num_steps / (time.perf_counter() - start)
    vector.close()
    return speed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    num_steps = parser.parse_args().steps
    fast, slow = asynchronous(num_steps), synchronous(num_steps)
    print(f"{fast:,.0f} steps per second with a pool, {slow:,.0f} waiting for all")
