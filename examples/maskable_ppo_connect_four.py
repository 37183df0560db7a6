"""Connect Four with the MaskablePPO of sb3-contrib, against an opponent that moves at random.

    python examples/maskable_ppo_connect_four.py [--steps 50000]

The environment says in its infos which columns are not full. `ShoalVecEnv` gives that to
MaskablePPO, for all games at once, so that it never plays an illegal move.
"""

# works with: sb3-contrib (sb3-contrib)
# needs: sb3_contrib, pettingzoo, rlcard
# test: --steps 1024
# slow

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo.classic import connect_four_v3
from sb3_contrib import MaskablePPO

import shoal
from shoal.wrappers.sb3 import ShoalVecEnv


class ConnectFour(gymnasium.Env):
    """The learner's side of PettingZoo's game; who begins is drawn for each game.

    The observation is the board as the learner sees it: ``(6, 7, 2)``, its own pieces and the
    opponent's. The reward is 1 for a victory and -1 for a defeat.
    """

    observation_space = spaces.Box(0, 1, (6, 7, 2), np.int8)
    action_space = spaces.Discrete(7)

    def __init__(self) -> None:
        self.game = connect_four_v3.raw_env()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.game.reset()
        self.learner = self.game.possible_agents[self.np_random.integers(2)]
        if self.game.agent_selection != self.learner:
            self.opponent_moves()
        return self.result()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.legal()[action]:
            raise ValueError(f"column {action} is full")
        self.game.step(int(action))
        if not self.over():
            self.opponent_moves()
        observation, info = self.result()
        return observation, float(self.game.rewards[self.learner]), self.over(), False, info

    def opponent_moves(self) -> None:
        self.game.step(int(self.np_random.choice(np.flatnonzero(self.legal()))))

    def over(self) -> bool:
        return any(self.game.terminations.values())

    def legal(self) -> np.ndarray:
        """Which columns are not full, for who moves next."""
        return self.game.observe(self.game.agent_selection)["action_mask"]

    def result(self) -> tuple[np.ndarray, dict]:
        observation = self.game.observe(self.learner)["observation"]
        return observation.astype(np.int8), {"action_mask": self.legal()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000, help="of all games together")
    steps = parser.parse_args().steps

    env = ShoalVecEnv(
        shoal.vectorize(ConnectFour, num_envs=8, backend="serial", autoreset="same_step", seed=0)
    )
    model = MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=256, device="cpu")
    model.learn(steps)

    results: list[float] = []
    observations = env.reset()
    while len(results) < 200:
        actions, _ = model.predict(observations, action_masks=env.action_masks())
        observations, rewards, dones, _ = env.step(actions)
        results += rewards[dones].tolist()
    print(f"{results.count(1)} of {len(results)} games won, {results.count(-1)} lost")
    env.close()


if __name__ == "__main__":
    main()
