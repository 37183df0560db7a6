"""From a policy's numbers to actions, and back to their probabilities.

A policy puts out one row of parameters for each agent: the logits of every discrete element of the
action, one element after the other, then the means and then the logarithms of the standard
deviations of every continuous element. Inside the trainer an action is a pair of tensors:
``discrete`` (int64, one category from 0 for each element) and ``continuous`` (float32, the Gaussian
sample itself, before it is clipped or squashed), either of which may have no columns.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shoal.errors import ConfigError
from shoal.rows.actions import ActionLayout, all_choices, is_discrete

__all__ = ["Actions", "Distribution"]

NEVER = -1e9  # a logit whose probability is exactly 0 in float32, and which has a finite gradient
MOST_LOGITS = 2**20


class Actions(NamedTuple):
    """Actions of n agents inside the trainer."""

    discrete: Tensor  # int64 (n, number of discrete elements)
    continuous: Tensor  # float32 (n, number of continuous elements)


class Distribution:
    """The family of distributions that fits an action layout; holds no weights.

    Every element of an action is independent of the others given the parameters, and a joint
    log-probability is a sum. Continuous elements with finite bounds are scaled, so that -1 and 1
    are the bounds; samples beyond them are clipped on their way to the environment (their
    log-probability is that of the unclipped sample), or with `squash` come through tanh instead.

    Attributes:
        num_parameters: columns of a policy's output.
        num_logits: those of them that are logits.
        num_continuous: continuous elements.
    """

    def __init__(self, layout: ActionLayout, squash: bool = False):
        self.layout = layout
        leaves = layout.flat.leaves
        self.low, sizes = all_choices([leaf for leaf in leaves if is_discrete(leaf)])
        boxes = [leaf for leaf in leaves if not is_discrete(leaf)]
        self.num_logits = int(sizes.sum())
        if self.num_logits > MOST_LOGITS:
            raise ConfigError(
                f"the action space {layout.flat_space} has {self.num_logits:,} choices; a policy "
                f"can have at most {MOST_LOGITS:,} logits"
            )
        self.num_discrete = len(sizes)
        none = [np.zeros(0)]
        bounds = [
            np.concatenate([np.broadcast_to(b, leaf.shape).ravel() for leaf, b in ends] or none)
            for ends in (
                [(leaf, np.asarray(leaf.low, np.float64)) for leaf in boxes],
                [(leaf, np.asarray(leaf.high, np.float64)) for leaf in boxes],
            )
        ]
        self.bounds = bounds
        self.num_continuous = len(bounds[0])
        finite = np.isfinite(bounds[0]) & np.isfinite(bounds[1])
        if squash and not finite.all():
            raise ConfigError(
                f"squash needs finite bounds, but the action space is {layout.flat_space}"
            )
        self.squash = squash
        with np.errstate(invalid="ignore"):
            self.middle = np.where(finite, (bounds[0] + bounds[1]) / 2, 0.0)
            self.half = np.where(finite, (bounds[1] - bounds[0]) / 2, 1.0)
        self.num_parameters = self.num_logits + 2 * self.num_continuous
        # Elements of one size are computed together: padding all to the widest costs Neural MMO,
        # whose 13 choices have 3 to 385 categories, five times the work.
        ends = np.cumsum(sizes)
        self.groups: list[tuple[Tensor, Tensor]] = []  # elements, and the columns of each
        for size in np.unique(sizes):
            elements = np.flatnonzero(sizes == size)
            columns = (ends[elements] - size)[:, None] + np.arange(size)
            self.groups.append((torch.from_numpy(elements), torch.from_numpy(columns)))
        self.moved = {torch.device("cpu"): self.groups}

    def groups_on(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Return the groups as tensors of a device, which are copied there once."""
        if device not in self.moved:
            self.moved[device] = [(e.to(device), c.to(device)) for e, c in self.groups]
        return self.moved[device]

    # -- parts of the parameters -----------------------------------------------------------------

    def log_probabilities(self, parameters: Tensor, masks: Tensor | None) -> list[Tensor]:
        """Return the log-probability of each category of the elements of each group.

        They are float32 ``(n, elements, categories)``. If the mask leaves an element no legal
        choice, all of its choices are legal.
        """
        made = []
        for _, columns in self.groups_on(parameters.device):
            logits = take(parameters[:, : self.num_logits].float(), columns)
            if masks is not None and masks.shape[1]:
                legal = take(masks, columns)
                legal = legal | ~legal.any(-1, keepdim=True)
                logits = logits.masked_fill(~legal, NEVER)
            made.append(functional.log_softmax(logits, -1))
        return made

    def gaussian(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and logarithms of the standard deviations of the continuous elements."""
        mean, log_std = parameters[:, self.num_logits :].float().chunk(2, dim=1)
        return mean, log_std

    # -- what the trainer asks ---------------------------------------------------------------------

    def sample(
        self,
        parameters: Tensor,
        masks: Tensor | None = None,
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> tuple[Actions, Tensor]:
        """Draw actions.

        Args:
            parameters: ``(n, num_parameters)``.
            masks: bool ``(n, layout.num_masked)``; an illegal category is never drawn.
            greedy: take the likeliest category and the mean instead.

        Returns:
            (actions, their joint log-probability, float32 ``(n,)``).
        """
        n, device = len(parameters), parameters.device
        continuous = torch.zeros(n, self.num_continuous, device=device)
        log_probability = torch.zeros(n, device=device)
        drawn = []
        for logs in self.log_probabilities(parameters, masks):
            scores = logs
            if not greedy:  # Gumbel's trick: the largest log p - log(-log u) is a draw from p
                noise = torch.empty_like(logs).exponential_(generator=generator)
                scores = logs - noise.clamp_min(1e-38).log()
            chosen = scores.argmax(-1)
            drawn.append(chosen)
            log_probability = log_probability + logs.gather(-1, chosen[..., None]).sum((1, 2))
        if len(drawn) == 1:
            discrete = drawn[0]
        else:
            discrete = torch.zeros(n, self.num_discrete, dtype=torch.int64, device=device)
            for (elements, _), chosen in zip(self.groups_on(device), drawn):
                discrete.index_copy_(1, elements, chosen)
        if self.num_continuous:
            mean, log_std = self.gaussian(parameters)
            continuous = mean
            if not greedy:
                noise = torch.empty_like(mean).normal_(generator=generator)
                continuous = mean + log_std.exp() * noise
            log_probability = log_probability + self._density(mean, log_std, continuous)
        return Actions(discrete, continuous), log_probability

    def evaluate(
        self,
        parameters: Tensor,
        actions: Actions,
        masks: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the joint log-probability of actions, and the entropy in nats: float32 ``(n,)``.

        The entropy of squashed elements has no closed form and is estimated from one sample.
        """
        log_probability = torch.zeros(len(parameters), device=parameters.device)
        entropy = torch.zeros_like(log_probability)
        groups = self.groups_on(parameters.device)
        for (elements, _), logs in zip(groups, self.log_probabilities(parameters, masks)):
            taken = actions.discrete
            if len(groups) > 1:
                taken = taken.index_select(1, elements)
            log_probability = log_probability + logs.gather(-1, taken[..., None]).sum((1, 2))
            entropy = entropy - (logs.exp() * logs).sum((1, 2))
        if self.num_continuous:
            mean, log_std = self.gaussian(parameters)
            log_probability = log_probability + self._density(mean, log_std, actions.continuous)
            entropy = entropy + (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(1)
            if self.squash:
                noise = torch.empty_like(mean).normal_(generator=generator)
                entropy = entropy + log_slope_of_tanh(mean + log_std.exp() * noise).sum(1)
        return log_probability, entropy

    def _density(self, mean: Tensor, log_std: Tensor, sample: Tensor) -> Tensor:
        scaled = (sample - mean) * (-log_std).exp()
        density = -0.5 * scaled**2 - log_std - 0.5 * math.log(2 * math.pi)
        if self.squash:
            density = density - log_slope_of_tanh(sample)
        return density.sum(1)

    def to_env(self, actions: Actions) -> Any:
        """Return these actions as `Vector.send` takes them: rows of the flat action space."""
        parts = {}
        if self.num_discrete:
            parts["discrete"] = actions.discrete.cpu().numpy() + self.low
        if self.num_continuous:
            raw = actions.continuous.cpu().numpy().astype(np.float64)
            scaled = (np.tanh(raw) if self.squash else raw) * self.half + self.middle
            parts["continuous"] = np.clip(scaled, *self.bounds)
        return self.rows(parts)

    def rows(self, parts: dict[str, np.ndarray]) -> Any:
        """Return flat actions out of their two parts (categories, and values within the bounds)."""
        flat = self.layout.flat
        if len(parts) == 2:
            leaves = {leaf.path: leaf for leaf in flat.leaves}
            return {name: part.astype(leaves[name].dtype) for name, part in parts.items()}
        (part,) = parts.values()
        if flat.dtype.kind != "f":
            part = np.rint(part)
        return part.astype(flat.dtype).reshape(-1, *flat.shape)


def take(flat: Tensor, columns: Tensor) -> Tensor:
    """Return these columns of flat rows: ``(n, *columns.shape)``."""
    if columns.numel() == flat.shape[1]:  # all of them, which are in order
        return flat.reshape(len(flat), *columns.shape)
    return flat.index_select(1, columns.flatten()).reshape(len(flat), *columns.shape)


def log_slope_of_tanh(x: Tensor) -> Tensor:
    """Return log(1 - tanh(x)**2), without the cancellation."""
    return 2 * (math.log(2) - x - functional.softplus(-2 * x))
