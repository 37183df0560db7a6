"""Advantages: how much better each action of a rollout did than the value function expected."""

from __future__ import annotations

import math
from typing import Any

import torch

from shoal.trainers.kernels import advantages as cpu_advantages

__all__ = ["advantages"]


def advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    valid: torch.Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    ratios: torch.Tensor | None = None,
    rho: float | None = None,
    c: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return generalised advantage estimates, with V-trace's importance clips if ratios are given.

    Step t + 1 of a segment holds the observation that followed step t. ::

        delta_t = rho_t * (r_t + gamma * V_{t+1} * (1 - terminated_t) - V_t)
        A_t     = delta_t + gamma * lambda * c_t * (1 - ended_t) * A_{t+1}

    where ``ended = terminated or truncated``, ``rho_t = min(rho, ratio_t)`` and
    ``c_t = min(c, ratio_t)``, and both are 1 without ratios. So a terminated step is worth its
    reward alone, and a truncated one also the value of the final observation, which stands in the
    step after it; that step is invalid, as it holds no transition. Nothing of an invalid step
    reaches the others but its value, and nothing is carried across it.

    With ``rho = c = inf`` and ratios of 1 this is equation 16 of Schulman et al. 2016
    (arXiv:1506.02438), summed from the end. With lambda = 1 and ratios, ``A_t + V_t`` is the target
    v_t of equation 1 of Espeholt et al. 2018 (arXiv:1802.01561).

    Args:
        rewards: float32 (segments, horizon).
        values: float32 (segments, horizon + 1); the last column is the value of what followed the
            segment.
        terminated: bool (segments, horizon); wins where `truncated` is true too.
        truncated: bool (segments, horizon).
        valid: bool (segments, horizon): the step is a transition of a live agent. Elsewhere the
            rewards, values and ratios may be anything, NaN included, but for the value of an
            observation that followed a valid step.
        gamma: discount, 0 to 1.
        gae_lambda: bias (0) against variance (1).
        ratios: float32 (segments, horizon), each at least 0: probability of the action now over
            that when it was taken.
        rho: limit of the ratio that weighs each step's own error; None for no limit.
        c: limit of the ratio that weighs what follows; None for no limit.
        out: where to put the result, contiguous, overlapping no input; default: a new tensor.

    Returns:
        float32 (segments, horizon), on the device of the inputs; 0 where invalid. No gradient flows
        through it.

    Raises:
        ValueError: a shape or device that doesn't fit; `out` is not contiguous.
        TypeError: another dtype.
        ImportError: the tensors are on CUDA, and Triton is not installed.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards: expected shape (segments, horizon), got {tuple(rewards.shape)}")
    segments, horizon = rewards.shape
    tensors = {
        "rewards": (rewards, torch.float32),
        "values": (values, torch.float32),
        "terminated": (terminated, torch.bool),
        "truncated": (truncated, torch.bool),
        "valid": (valid, torch.bool),
        "ratios": (ratios, torch.float32),
        "out": (out, torch.float32),
    }
    for name, (tensor, dtype) in tensors.items():
        if tensor is None:
            continue
        shape = (segments, horizon + (name == "values"))
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: expected {dtype}, got {tensor.dtype}")
        if tensor.device != rewards.device:
            raise ValueError(f"{name}: expected on {rewards.device}, got {tensor.device}")
    if out is None:
        out = torch.empty(segments, horizon, dtype=torch.float32, device=rewards.device)
    elif not out.is_contiguous():
        raise ValueError(f"out: expected contiguous, got strides {out.stride()}")

    limits = [math.inf if limit is None else float(limit) for limit in (rho, c)]
    numbers = (float(gamma), float(gae_lambda), *limits)
    inputs: list[Any] = [
        None if tensor is None else tensor.detach().contiguous()
        for tensor in (rewards, values, terminated, truncated, valid, ratios)
    ]
    if rewards.device.type == "cuda":
        from shoal.trainers.advantage_cuda import advantages as cuda_advantages

        cuda_advantages(out, *inputs, *numbers)
    else:
        arrays: list[Any] = [None if tensor is None else _array(tensor) for tensor in inputs]
        cpu_advantages(_array(out.detach()), *arrays, *numbers)
    return out


def _array(tensor: torch.Tensor) -> Any:
    """Return the tensor's memory as a NumPy array, booleans as bytes."""
    return (tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor).numpy()
