"""Wrap one environment in one line: nested observations and actions as flat arrays, and back."""

import gymnasium
import numpy as np
from gymnasium import spaces

import shoal


class Dungeon(gymnasium.Env):
    """Anything nested will do."""

    observation_space = spaces.Dict(
        {
            "map": spaces.Box(0, 255, (8, 8), np.uint8),
            "hero": spaces.Dict({"health": spaces.Box(0, 1, (), np.float32)}),
            "inventory": spaces.Tuple([spaces.Discrete(5)] * 3),
        }
    )
    action_space = spaces.Dict({"move": spaces.Discrete(4), "use": spaces.Discrete(3)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space
        over = self.np_random.random() < 0.02
        return self.observation_space.sample(), float(action["move"]), over, False, {}


env = shoal.emulate(Dungeon())  # this line

print(env.observation_layout.describe())
print(env.observation_space, env.action_space)
observation, info = env.reset(seed=0)
nested = env.observation_layout.view(observation)  # no copy
print("health", nested["hero"]["health"], "inventory", nested["inventory"])
assert env.decode(observation) in Dungeon.observation_space

steps = episodes = 0
while episodes < 10:
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    steps += 1
    if terminated or truncated:
        episodes += 1
        env.reset()
print(f"{episodes} episodes in {steps} steps, {observation.nbytes} bytes each")
