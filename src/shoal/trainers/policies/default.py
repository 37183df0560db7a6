"""The default policy, for any observation, and the layers that others are built of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.rows.spec import Leaf
from shoal.trainers.config import Config
from shoal.trainers.distributions import Distribution
from shoal.trainers.processes import moments

__all__ = ["ActionHead", "DefaultPolicy", "Normalizer", "initialize", "linear", "typed"]

MOST_ONE_HOT = 1024  # categories of one leaf, all elements together; more are embedded
SMALLEST_IMAGE = 16  # both sides of what counts as a picture
MOST_GRID_CATEGORIES = 8192
EMBEDDING = 16


def typed(rows: Tensor, layout: Layout) -> Tensor:
    """Return rows of bytes ``(n, nbytes)`` as the policy sees them: ``(n, *layout.shape)``."""
    return rows.view(getattr(torch, layout.dtype.name)).reshape(rows.shape[0], *layout.shape)


def linear(num_in: int, num_out: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """Return a linear layer with orthogonal weights and no bias to begin with."""
    return initialize(nn.Linear(num_in, num_out), gain)


def initialize(layer: Any, gain: float = math.sqrt(2)) -> Any:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class ActionHead(nn.Module):
    """From features to the parameters of the action distribution.

    Logits and means are linear in the features; the logarithms of the standard deviations are
    parameters of their own, the same in every state, and begin at 0.
    """

    def __init__(self, num_features: int, action_layout: ActionLayout):
        super().__init__()
        kind = Distribution(action_layout)
        self.linear = linear(num_features, kind.num_logits + kind.num_continuous, gain=0.01)
        self.log_std = nn.Parameter(torch.zeros(kind.num_continuous))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(n, num_features)`` to ``(n, Distribution.num_parameters)``."""
        parameters = self.linear(features)
        if not len(self.log_std):
            return parameters
        return torch.cat([parameters, self.log_std.expand(features.shape[0], -1)], dim=1)


class Normalizer(nn.Module):
    """Running mean and deviation of each of `size` numbers; clips the result to ±10.

    Statistics change only in `update`, so that whoever acted and whoever learns from it see the
    same numbers. Chan et al. 1983 for merging a batch.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Take in a batch ``(n, size)``, together with those of all other processes.

        Args:
            weights: bool ``(n,)``: which rows count; None for all.
        """
        mean, variance, n = moments(values, weights)
        total = (self.count + n).clamp_min(1)
        delta = mean - self.mean
        before = self.variance * self.count
        merged = (before + variance * n + delta**2 * self.count * n / total) / total
        self.variance = torch.where(n > 0, merged, self.variance)
        self.mean = self.mean + delta * n / total
        self.count = self.count + n

    def forward(self, values: Tensor) -> Tensor:
        scaled = (values - self.mean.float()) * (self.variance.float() + 1e-8).rsqrt()
        return scaled.clamp(-10, 10)


class DefaultPolicy(nn.Module):
    """A policy for any observation: each leaf is turned into numbers by what it holds.

    - categories: one-hot, or embedded and averaged if they are more than `MOST_ONE_HOT`;
    - pictures (uint8, both sides at least 16): a small convolutional network;
    - grids of small integers, both sides at least 5: one-hot, or each cell embedded and then
      convolutions, as for NetHack, if cells times categories are more than `MOST_ONE_HOT`;
    - other numbers: as they are; integers divided by their bounds, or by their logarithm where the
      bounds are wide.

    All of them together go through one hidden layer. Actor and critic have a second one each, and
    if there are no convolutions, a first one each too. With memory they have none of their own:
    the memory is the second layer.
    """

    def __init__(self, observation_layout: Layout, action_layout: ActionLayout, config: Config):
        super().__init__()
        self.layout = observation_layout
        self.leaves = list(observation_layout.leaves)
        hidden = config.hidden_size
        self.encoders = nn.ModuleDict()
        num_numbers = num_seen = 0
        self.kinds = [leaf_kind(leaf, observation_layout.form) for leaf in self.leaves]
        for i, (leaf, kind) in enumerate(zip(self.leaves, self.kinds)):
            if kind in ("picture", "grid"):
                self.encoders[str(i)] = Convolutions(leaf, kind == "grid", hidden)
                num_seen += hidden
            elif kind == "embed":
                self.encoders[str(i)] = Categories(leaf)
                num_seen += EMBEDDING
            elif kind == "one_hot":
                num_seen += int(leaf.num_categories.sum())
            else:
                num_numbers += leaf.size if observation_layout.form == "float32" else leaf.count
        self.normalizer = Normalizer(num_numbers) if config.normalize_observations else None
        alone = config.memory == "none"
        self.split = 2 if alone and not len(self.encoders) else 1
        self.num_features = hidden * self.split
        self.first = linear(num_numbers + num_seen, self.num_features)
        self.actor, self.critic = (
            nn.Sequential(linear(hidden, hidden), nn.Tanh()) if alone else nn.Identity()
            for _ in range(2)
        )
        self.head = ActionHead(hidden, action_layout)
        self.value = linear(hidden, 1, gain=1)

    def numbers(self, observations: Tensor) -> Tensor:
        """Return the leaves that are plain numbers, side by side: float32 ``(n, numbers)``."""
        views = self.layout.view_leaves(observations)
        parts = [
            scaled(leaf, views[leaf.path])[..., None].flatten(1)  # a scalar leaf has no columns
            for leaf, kind in zip(self.leaves, self.kinds)
            if kind == "numbers"
        ]
        return (
            torch.cat(parts, 1)
            if parts
            else observations.new_zeros(observations.shape[0], 0).float()
        )

    def encode(self, observations: Tensor) -> Tensor:
        numbers = self.numbers(observations)
        if self.normalizer is not None:
            numbers = self.normalizer(numbers)
        parts = [numbers]
        views = self.layout.view_leaves(observations)
        for i, (leaf, kind) in enumerate(zip(self.leaves, self.kinds)):
            if kind == "one_hot":
                parts.append(one_hot(leaf, views[leaf.path]))
            elif kind != "numbers":
                parts.append(self.encoders[str(i)](views[leaf.path]))
        parts = [part for part in parts if part.shape[1]] or [numbers]
        seen = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return torch.tanh(self.first(seen))

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        actor, critic = features.chunk(2, 1) if self.split == 2 else (features, features)
        return self.head(self.actor(actor)), self.value(self.critic(critic)).squeeze(1)


def leaf_kind(leaf: Leaf, form: str) -> str:
    """Return how the default policy reads a leaf."""
    if form == "float32":
        return "numbers"
    if leaf.kind == "binary":
        return "numbers"
    if leaf.kind != "box":
        return "one_hot" if int(leaf.num_categories.sum()) <= MOST_ONE_HOT else "embed"
    if leaf.dtype[:5] == "float" or leaf.dtype == "bool":
        return "numbers"
    sides = leaf.shape[:2]
    if len(leaf.shape) == 3 and leaf.shape[0] <= 4 < leaf.shape[2]:
        sides = leaf.shape[1:]  # channels first
    big = len(leaf.shape) in (2, 3) and min(sides) >= SMALLEST_IMAGE
    if big and leaf.dtype == "uint8" and (len(leaf.shape) == 3 or min(sides) >= 32):
        return "picture"
    if len(leaf.shape) == 2 and min(sides) >= 5 and bounded(leaf) <= MOST_GRID_CATEGORIES:
        # One matrix product is 5 times faster than convolutions over 11 by 11 cells of 3 kinds.
        return "one_hot" if int(leaf.num_categories.sum()) <= MOST_ONE_HOT else "grid"
    return "numbers"


def bounded(leaf: Leaf) -> int:
    """Return how many values an integer leaf may take."""
    return (
        int(np.max(np.asarray(leaf.high).astype(object) - np.asarray(leaf.low).astype(object))) + 1
    )


def scaled(leaf: Leaf, values: Tensor) -> Tensor:
    """Return plain numbers of moderate size."""
    values = values.float()
    if leaf.kind != "box" or leaf.dtype[:5] == "float" or leaf.dtype == "bool":
        return values
    largest = max(float(np.max(np.abs(np.asarray(b, np.float64)))) for b in (leaf.low, leaf.high))
    if largest > 2**16:
        return values.sign() * values.abs().log1p()
    return values / max(1.0, largest)


def one_hot(leaf: Leaf, values: Tensor) -> Tensor:
    """Return categories as ones among zeros, element after element: float32 ``(n, categories)``."""
    categories = leaf.num_categories.reshape(-1)
    low = np.broadcast_to(np.asarray(leaf.low), leaf.shape).reshape(-1).astype(np.int64)
    index = values.long().reshape(values.shape[0], -1)
    index = index - torch.as_tensor(low, device=index.device)
    # What is outside has no one at all: an empty place of a Sequence holds 0, which may lie below
    # `low`, and an environment's error is to be named by `checks`, not by torch.
    sizes = categories.tolist()
    if min(sizes) == max(sizes):
        return (index[..., None] == torch.arange(sizes[0], device=index.device)).flatten(1).float()
    parts = [index[:, i, None] == torch.arange(n, device=index.device) for i, n in enumerate(sizes)]
    return torch.cat(parts, 1).float()


class Categories(nn.Module):
    """Many categories: the mean of the elements' embeddings."""

    def __init__(self, leaf: Leaf):
        super().__init__()
        self.low = int(np.min(leaf.low))
        self.embedding = nn.Embedding(min(bounded(leaf), 2**16), EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, values: Tensor) -> Tensor:
        index = (values.long().reshape(values.shape[0], -1) - self.low).clamp_min(0)
        return self.embedding(index % self.embedding.num_embeddings).mean(1)


class Convolutions(nn.Module):
    """A picture, or a grid of categories, as `num_out` numbers.

    Pictures of at least 64 pixels a side go through the three layers of Mnih et al. 2015; smaller
    ones, and grids, through two layers of 3 by 3 with stride 2.
    """

    def __init__(self, leaf: Leaf, grid: bool, num_out: int):
        super().__init__()
        shape = leaf.shape
        self.embedding = None
        self.low = int(np.min(leaf.low))
        self.first = len(shape) == 3 and shape[0] <= 4 < shape[2]  # channels come first
        if grid:
            self.embedding = nn.Embedding(bounded(leaf), EMBEDDING)
            nn.init.normal_(self.embedding.weight, std=0.1)
            channels, sides = EMBEDDING, shape
        elif len(shape) == 2:
            channels, sides = 1, shape
        else:
            channels, sides = (shape[0], shape[1:]) if self.first else (shape[2], shape[:2])
        if grid or min(sides) < 64:
            plan = [(32, 3, 2), (32, 3, 2)]
        else:
            plan = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
        layers: list[nn.Module] = []
        for out, kernel, stride in plan:
            layers += [initialize(nn.Conv2d(channels, out, kernel, stride, padding=1)), nn.ReLU()]
            sides = tuple((side + 2 - kernel) // stride + 1 for side in sides)
            channels = out
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.out = linear(channels * math.prod(sides), num_out)

    def forward(self, values: Tensor) -> Tensor:
        if self.embedding is not None:
            index = (values.long() - self.low).clamp(0, self.embedding.num_embeddings - 1)
            seen = self.embedding(index).permute(0, 3, 1, 2)
        else:
            seen = values.float() / 255
            if values.ndim == 3:
                seen = seen[:, None]
            elif not self.first:
                seen = seen.permute(0, 3, 1, 2)
        return torch.relu(self.out(self.layers(seen)))
