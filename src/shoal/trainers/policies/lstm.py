"""An LSTM along sequences in which episodes begin, and its gradient, for training on a CPU.

The same as torch's operations one after the other (`LSTM.forward` in memory.py), in 7/8 of the
time: each gate lies in memory as one block, derivatives are computed for all steps at once, and the
gradients of the weights are one matrix product for all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["lstm"]

GATES = 4  # into the cell, forget, new value, out of the cell


def lstm(
    features: Tensor,
    state: Tensor,
    starts: Tensor,
    to_gates: Tensor,
    bias: Tensor,
    recurrent: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the hidden states of an LSTM, and its state after the last step.

    Args:
        features: ``(steps, n, size)``, on the CPU.
        state: hidden and cell state before the first step, ``(2, n, size)``.
        starts: bool ``(steps, n)``: steps before which the state is set to zero.
        to_gates: weights of the features, ``(4 * size, size)``.
        bias: ``(4 * size,)``.
        recurrent: weights of the hidden state, ``(4 * size, size)``.

    Returns:
        ``(steps, n, size)`` and ``(2, n, size)``; differentiable in all arguments but `starts`.
    """
    return Sequence.apply(features, state, starts, to_gates, bias, recurrent)


class Sequence(torch.autograd.Function):
    """All steps, and their gradients."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Any:
        features, state, starts, to_gates, bias, recurrent = given
        steps, n, size = features.shape
        weights = [weight.t().contiguous() for weight in recurrent.chunk(GATES)]
        gates = features.new_empty(GATES, steps, n, size)
        for gate, weight, added in zip(gates, to_gates.chunk(GATES), bias.chunk(GATES)):
            torch.addmm(added, features.flatten(0, 1), weight.t(), out=gate.view(-1, size))
        # What each step begins with, after the state was set to zero where an episode begins.
        hidden, cell = features.new_empty(2, steps + 1, n, size)
        hidden[0], cell[0] = state
        out, squashed = features.new_empty(2, steps, n, size)
        for t, begins in enumerate(starts.any(1).tolist()):
            if begins:
                hidden[t].masked_fill_(starts[t, :, None], 0)
                cell[t].masked_fill_(starts[t, :, None], 0)
            for gate, weight in zip(gates, weights):
                gate[t].addmm_(hidden[t], weight)
            into, forget, new, leave = gates[:, t]
            into.sigmoid_()
            forget.sigmoid_()
            new.tanh_()
            leave.sigmoid_()
            torch.mul(forget, cell[t], out=cell[t + 1]).addcmul_(into, new)
            torch.tanh(cell[t + 1], out=squashed[t])
            hidden[t + 1] = torch.mul(leave, squashed[t], out=out[t])
        ctx.save_for_backward(features, starts, to_gates, recurrent, gates, hidden, cell, squashed)
        return out, torch.stack([hidden[-1], cell[-1]])

    @staticmethod
    def backward(ctx: Any, to_out: Tensor, to_last: Tensor) -> Any:  # type: ignore[override]
        features, starts, to_gates, recurrent, gates, hidden, cell, squashed = ctx.saved_tensors
        _, steps, _, size = gates.shape
        into, forget, new, leave = gates
        # How the cell, and for the last gate the hidden state, changes with what enters each gate.
        change = torch.empty_like(gates)
        sigmoid, tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
        sigmoid.grad_input(new, into, grad_input=change[0])
        sigmoid.grad_input(cell[:-1], forget, grad_input=change[1])
        tanh.grad_input(into, new, grad_input=change[2])
        sigmoid.grad_input(squashed, leave, grad_input=change[3])
        through = tanh(leave, squashed)
        weights = recurrent.chunk(GATES)
        to_hidden, to_cell = to_last.clone()
        begins = starts.any(1).tolist()
        for t in reversed(range(steps)):
            to_hidden += to_out[t]
            to_cell.addcmul_(to_hidden, through[t])
            change[:3, t] *= to_cell
            change[3, t] *= to_hidden
            to_cell *= forget[t]
            torch.mm(change[0, t], weights[0], out=to_hidden)
            for part, weight in zip(change[1:, t], weights[1:]):
                to_hidden.addmm_(part, weight)
            if begins[t]:
                to_hidden.masked_fill_(starts[t, :, None], 0)
                to_cell.masked_fill_(starts[t, :, None], 0)
        flat = change.view(GATES, -1, size)
        before, seen = hidden[:-1].flatten(0, 1), features.flatten(0, 1)
        to_features = flat[0] @ to_gates[:size]
        for part, weight in zip(flat[1:], to_gates.chunk(GATES)[1:]):
            to_features.addmm_(part, weight)
        return (
            to_features.view_as(features),
            torch.stack([to_hidden, to_cell]),
            None,
            torch.cat([part.t() @ seen for part in flat]),
            flat.sum(1).flatten(),
            torch.cat([part.t() @ before for part in flat]),
        )
