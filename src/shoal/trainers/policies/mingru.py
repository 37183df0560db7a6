"""The recurrence of a MinGRU, along sequences in which episodes begin.

h_t is linear in h_{t-1}, so two neighbouring stretches of steps compose to one, and a parallel scan
gives all h: that is what CUDA does (mingru_cuda.py). On a CPU the steps run one after the other,
each for all rows at once and within the cache: 64 steps of 1,024 rows of 128 numbers take 1/20 of
the time of a scan of logarithmic depth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["mingru"]


def mingru(gates: Tensor, candidates: Tensor, state: Tensor, starts: Tensor) -> Tensor:
    """Return the hidden states of a MinGRU.

    Feng et al. 2024 (arXiv:2410.01201), section 3.1.2, with resets::

        z_t = sigmoid(gate_t)
        h_t = (1 - z_t) * kept_t * h_{t-1} + z_t * candidate_t

    where ``kept_t`` is 0 for a step that begins an episode, else 1. Nothing is carried across such
    a step, not even NaN.

    Args:
        gates, candidates: ``(steps, n, size)``; bfloat16 is computed in float32.
        state: h before the first step, ``(n, size)``.
        starts: bool ``(steps, n)``.

    Returns:
        h of every step, ``(steps, n, size)``, of the dtype of `state`; differentiable in all
        arguments but `starts`.

    Raises:
        ImportError: the tensors are on CUDA, and Triton is not installed.
    """
    return Scan.apply(gates.to(state.dtype), candidates.to(state.dtype), state, starts)


class Scan(torch.autograd.Function):
    """The recurrence and its gradient."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, candidates: Tensor, state: Tensor, starts: Tensor) -> Any:
        hidden = scans(gates.device)[0](gates, candidates, state, starts)
        ctx.save_for_backward(gates, candidates, state, starts, hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        gates, *rest = ctx.saved_tensors
        return *scans(gates.device)[1](gradient, gates, *rest), None


def scans(device: torch.device) -> tuple[Any, Any]:
    """Return the functions that compute the recurrence on a device, and its gradients."""
    if device.type == "cuda":
        from shoal.trainers.policies.mingru_cuda import backward as cuda_backward
        from shoal.trainers.policies.mingru_cuda import forward as cuda_forward

        return cuda_forward, cuda_backward
    return forward, backward


def forward(gates: Tensor, candidates: Tensor, state: Tensor, starts: Tensor) -> Tensor:
    """Return h of every step; the arguments are those of `mingru`."""
    hidden = torch.empty_like(candidates)
    shares = gates.sigmoid()
    for t, begins in enumerate(starts.any(1).tolist()):
        if begins:
            state = state.masked_fill(starts[t, :, None], 0)
        state = torch.lerp(state, candidates[t], shares[t], out=hidden[t])
    return hidden


def backward(
    gradient: Tensor,
    gates: Tensor,
    candidates: Tensor,
    state: Tensor,
    starts: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `gates`, `candidates` and `state`.

    Args:
        gradient: of what is returned by `mingru`.
        hidden: what is returned by `mingru`.
    """
    shares = gates.sigmoid()
    to_gates, to_candidates = torch.empty_like(gates), torch.empty_like(candidates)
    carried = torch.zeros_like(state)  # the gradient of h that comes from the next step
    begins = starts.any(1).tolist()
    for t in reversed(range(len(gates))):
        before = hidden[t - 1] if t else state
        if begins[t]:
            before = before.masked_fill(starts[t, :, None], 0)
        total = carried.add_(gradient[t])
        torch.sub(candidates[t], before, out=to_gates[t]).mul_(total)
        torch.mul(total, shares[t], out=to_candidates[t])
        carried = total.sub_(to_candidates[t])
        if begins[t]:
            carried.masked_fill_(starts[t, :, None], 0)
    return torch.ops.aten.sigmoid_backward(to_gates, shares), to_candidates, carried
