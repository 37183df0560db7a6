"""Memory for any policy: an LSTM or a MinGRU between its two halves.

Sequences are time-major: ``(steps, n, ...)``. A step that begins an episode is computed from an
empty state, inside the sequence; no sequence is cut there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shoal.trainers.policies.lstm import lstm
from shoal.trainers.policies.mingru import mingru

__all__ = ["LSTM", "MinGRU", "Recurrent", "initial_state"]


class Recurrent(nn.Module):
    """Any policy with memory between its `encode` and its `decode`, as wide as its features.

    Args:
        policy: has ``encode``, ``decode`` and ``num_features``.
        memory: "lstm" or "mingru".
    """

    def __init__(self, policy: Any, memory: str):
        super().__init__()
        self.policy = policy
        self.num_features = policy.num_features
        self.kind = memory
        self.num_states = MEMORIES[memory].num_states
        self.memory = MEMORIES[memory](self.num_features)

    def encode(self, observations: Tensor) -> Tensor:
        return self.policy.encode(observations)

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy.decode(features)

    def recur(self, features: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Run the memory along sequences.

        Args:
            features: ``(steps, n, num_features)``.
            state: before the first step, float32; see `initial_state`.
            starts: bool ``(steps, n)``: a step that begins an episode, before which the state of
                its row is set to zero.

        Returns:
            (features of the same shape, state after the last step).
        """
        return self.memory(features, state, starts)


def initial_state(policy: Any, n: int, device: torch.device | str | None = None) -> Tensor:
    """Return the state of `n` rows at the beginning of an episode: zeros, float32.

    The shape is ``(2, n, num_features)`` for an LSTM (hidden and cell state), ``(1, n,
    num_features)`` for a MinGRU, and ``(0, n, 0)`` for a policy without memory.
    """
    if not isinstance(policy, Recurrent):
        return torch.zeros(0, n, 0, device=device)
    return torch.zeros(policy.num_states, n, policy.num_features, device=device)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000), `size` wide."""

    num_states = 2

    def __init__(self, size: int):
        super().__init__()
        self.inputs = nn.Linear(size, 4 * size)
        self.hidden = nn.Linear(size, 4 * size, bias=False)
        for weight in (self.inputs.weight, self.hidden.weight):
            nn.init.orthogonal_(weight, 1.0)
        nn.init.zeros_(self.inputs.bias)

    def forward(self, features: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `Recurrent.recur` says."""
        plain = features.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if plain and torch.is_grad_enabled():
            weights = self.inputs.weight, self.inputs.bias, self.hidden.weight
            return lstm(features, state, starts, *weights)
        # What the inputs add to the gates is one matrix product for all steps.
        inputs = self.inputs(features)
        hidden, cell = state
        kept = ~starts[:, :, None]
        parts = []
        for added, keep in zip(inputs.unbind(), kept.unbind()):
            gates = added + functional.linear(hidden * keep, self.hidden.weight)
            into, forget, new, out = gates.chunk(4, 1)
            cell = forget.sigmoid() * (cell * keep) + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            parts.append(hidden)
        return torch.stack(parts), torch.stack([hidden, cell])


class MinGRU(nn.Module):
    """Minimal gated recurrent unit (Feng et al. 2024, "Were RNNs All We Needed?"), `size` wide.

    The gate and the candidate depend on the step's features alone, so that all steps of a sequence
    are two matrix products and a linear recurrence; see `mingru`.
    """

    num_states = 1

    def __init__(self, size: int):
        super().__init__()
        self.gate = nn.Linear(size, size)
        self.candidate = nn.Linear(size, size)
        for layer in (self.gate, self.candidate):
            nn.init.orthogonal_(layer.weight, 1.0)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `Recurrent.recur` says."""
        hidden = mingru(self.gate(features), self.candidate(features), state[0], starts)
        return hidden, hidden[-1:]


MEMORIES: dict[str, type[LSTM | MinGRU]] = {"lstm": LSTM, "mingru": MinGRU}
