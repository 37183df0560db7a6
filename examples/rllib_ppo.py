"""RLlib: PPO of the new API stack on CartPole, its environment runner stepping one of our vectors.

RLlib 2.60 pins gymnasium 1.2.2, so it lives in a virtual environment of its own.
"""

# works with: RLlib (ray)
# needs: ray, tree, lz4, ormsgpack, pyarrow, pandas, torch
# test: --iterations 2

import argparse
import logging

from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

from shoal.wrappers.rllib import environment

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=12)

if __name__ == "__main__":
    iterations = parser.parse_args().iterations
    logging.getLogger("ray").setLevel(logging.ERROR)
    register_env("shoal", environment("CartPole-v1", backend="serial"))
    config = (
        PPOConfig()
        .environment("shoal")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=8,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .training(
            train_batch_size_per_learner=2048,
            minibatch_size=256,
            num_epochs=6,
            lr=1e-3,
            vf_clip_param=1e4,
        )
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    returns = []
    for _ in range(iterations):
        result = algorithm.train()
        returns.append(result["env_runners"]["episode_return_mean"])
    algorithm.stop()
    print(f"mean return: {returns[0]:.0f} after the first iteration, {max(returns):.0f} at best")
