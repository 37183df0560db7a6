"""Decode nested observations in torch with `layout.view`: a dict of tensors, and nothing copied."""

# needs: torch

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

import shoal


class Dungeon(gymnasium.Env):
    """Mixed leaves: an image, categories, numbers."""

    observation_space = spaces.Dict(
        {
            "map": spaces.Box(0, 255, (16, 16), np.uint8),
            "class": spaces.Discrete(5),
            "stats": spaces.Box(-np.inf, np.inf, (6,), np.float32),
        }
    )
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, self.np_random.random() < 0.05, False, {}


class Policy(nn.Module):
    """Each leaf has an encoder of its own; the network takes the flat rows as they come."""

    def __init__(self, layout: shoal.Layout, num_actions: int):
        super().__init__()
        self.layout = layout
        self.map = nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.ReLU(), nn.Flatten())
        self.kind = nn.Embedding(5, 8)
        self.stats = nn.Linear(6, 16)
        self.head = nn.Linear(8 * 16 + 8 + 16, num_actions)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        observation = self.layout.view(rows)
        parts = [
            self.map(observation["map"].unsqueeze(1) / 255),
            self.kind(observation["class"]),
            self.stats(observation["stats"]),
        ]
        return self.head(torch.cat(parts, dim=1))


vector = shoal.vectorize(Dungeon, 8, backend="serial", seed=0)
layout = vector.observation_layout
print(layout.describe())
policy = Policy(layout, vector.single_action_space.n)

observations, _ = vector.reset()
rows = torch.from_numpy(observations)  # on a GPU: .to("cuda") moves the one flat array
view = layout.view(rows)
for name, leaf in view.items():
    print(f"{name}: {tuple(leaf.shape)} {leaf.dtype}")
    start = leaf.data_ptr() - rows.data_ptr()
    assert 0 <= start < layout.nbytes  # it lies in the rows themselves

for _ in range(100):
    with torch.no_grad():
        logits = policy(torch.from_numpy(observations))
    actions = torch.distributions.Categorical(logits=logits).sample()
    observations, rewards, terminations, truncations, infos = vector.step(actions.numpy())
print(f"100 steps of {vector.num_envs} environments, {rows[0].nbytes} bytes a row, none copied")
vector.close()
