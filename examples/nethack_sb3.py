"""NetHack with the PPO of Stable-Baselines3.

    python examples/nethack_sb3.py [--steps 100000]

Eight games run in as many workers as there are cores. Only the parts of the observation that are
asked for leave the game.
"""

# works with: Stable-Baselines3 (stable-baselines3)
# needs: stable_baselines3, nle
# test: --steps 1024
# slow

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import shoal
from shoal.wrappers.sb3 import ShoalVecEnv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000, help="of all games together")
    steps = parser.parse_args().steps

    env = ShoalVecEnv(
        shoal.vectorize(
            "nle:NetHackScore-v0",
            num_envs=8,
            backend="multiprocess",
            autoreset="same_step",
            seed=0,
            env_kwargs={"observation_keys": ("chars", "colors", "blstats")},
        )
    )
    print(env.observation_space)
    env = VecNormalize(VecMonitor(env), norm_obs_keys=["blstats"])
    model = PPO("MultiInputPolicy", env, n_steps=128, batch_size=256, verbose=1, device="cpu")
    model.learn(steps)
    # Of the last hundred games, or as many as have ended.
    scores = [episode["r"] for episode in model.ep_info_buffer]
    if scores:
        print(f"mean score of the last {len(scores)} games: {sum(scores) / len(scores):.0f}")
    env.close()


if __name__ == "__main__":
    main()
