"""Memory for any policy: an LSTM between its two halves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Recurrent"]


class Recurrent(nn.Module):
    """Any policy with an LSTM between its `encode` and its `decode`, as wide as its features.

    A state is one tensor ``(2, n, num_features)``: the LSTM's hidden and cell state.
    """

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy
        self.num_features = policy.num_features
        self.lstm = nn.LSTM(self.num_features, self.num_features, batch_first=True)
        for name, parameter in self.lstm.named_parameters():
            if "weight" in name:
                nn.init.orthogonal_(parameter, 1.0)
            else:
                nn.init.zeros_(parameter)

    def encode(self, observations: Tensor) -> Tensor:
        return self.policy.encode(observations)

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy.decode(features)

    def recur(self, features: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Run the LSTM along sequences.

        Args:
            features: ``(n, steps, num_features)``.
            state: before the first step, ``(2, n, num_features)``.
            starts: bool ``(n, steps)``: a step that begins an episode, before which the state of
                its row is set to zero.

        Returns:
            (features of the same shape, state after the last step).
        """
        lstm: Any = self.lstm
        # What the inputs add to the gates is one matrix product for all steps.
        inputs = functional.linear(features, lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)
        hidden, cell = state
        kept = ~starts[:, :, None]
        parts = []
        for added, keep in zip(inputs.unbind(1), kept.unbind(1)):
            gates = added + functional.linear(hidden * keep, lstm.weight_hh_l0)
            into, forget, new, out = gates.chunk(4, 1)
            cell = forget.sigmoid() * (cell * keep) + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            parts.append(hidden)
        return torch.stack(parts, 1), torch.stack([hidden, cell])
