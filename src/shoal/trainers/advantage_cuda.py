"""Advantages on CUDA: the same as c/advantage.c, in Triton, compiled when it is first called.

A_t = delta_t + decay_t * A_{t+1} is linear, so two neighbouring stretches of steps compose to one,
and a parallel scan from the right gives all A. One program does one segment, a block of steps at a
time; A of each block's first step goes on to the block before it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["advantages", "compose"]

LARGEST_BLOCK = 1024  # steps that a program works on at a time


@triton.jit
def compose(
    before_decay: tl.tensor, before: tl.tensor, decay: tl.tensor, added: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    # Two neighbouring stretches of a linear recurrence, as one: x -> decay * x + added.
    # Nothing is carried where decay is 0, not even NaN or infinity.
    carried = tl.where(decay == 0.0, 0.0, decay * before)
    return decay * before_decay, added + carried


@triton.jit
def _kernel(
    out: tl.tensor,
    rewards: tl.tensor,
    values: tl.tensor,
    terminated: tl.tensor,
    truncated: tl.tensor,
    valid: tl.tensor,
    ratios: tl.tensor,
    horizon: tl.tensor,
    gamma: tl.tensor,
    gae_lambda: tl.tensor,
    rho: tl.tensor,
    c: tl.tensor,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    segment = tl.program_id(0).to(tl.int64)
    first = segment * horizon
    carried = 0.0
    for block in range(tl.cdiv(horizon, BLOCK) - 1, -1, -1):
        t = block * BLOCK + tl.arange(0, BLOCK)
        inside = t < horizon
        is_valid = tl.load(valid + first + t, mask=inside, other=0) != 0
        ends = tl.load(terminated + first + t, mask=inside, other=0) != 0
        cut = ends | (tl.load(truncated + first + t, mask=inside, other=0) != 0)
        reward = tl.load(rewards + first + t, mask=inside, other=0.0)
        value = tl.load(values + first + segment + t, mask=inside, other=0.0)
        next_value = tl.load(values + first + segment + t + 1, mask=inside, other=0.0)
        delta = reward + tl.where(ends, 0.0, gamma * next_value) - value
        decay = tl.full((BLOCK,), gamma * gae_lambda, tl.float32)
        if WEIGHTED:
            ratio = tl.load(ratios + first + t, mask=inside, other=0.0)
            delta *= tl.where(ratio > rho, rho, ratio)
            decay *= tl.where(ratio > c, c, ratio)
        # Steps past the horizon pass on what is carried: none of the block's own comes from there.
        delta = tl.where(inside & is_valid, delta, 0.0)
        decay = tl.where(inside, tl.where(is_valid & ~cut, decay, 0.0), 1.0)
        decay, delta = tl.associative_scan((decay, delta), 0, compose, reverse=True)
        advantage = delta + tl.where(decay == 0.0, 0.0, decay * carried)
        tl.store(out + first + t, advantage, mask=inside)
        carried = tl.sum(tl.where(t == block * BLOCK, advantage, 0.0))


def advantages(
    out: torch.Tensor,
    rewards: torch.Tensor,
    values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    valid: torch.Tensor,
    ratios: torch.Tensor | None,
    gamma: float,
    gae_lambda: float,
    rho: float,
    c: float,
) -> None:
    """Write `shoal.trainers.advantage.advantages` of inputs that it has checked, all contiguous."""
    segments, horizon = out.shape
    if out.numel() == 0:
        return
    launch = _kernel[(segments,)]
    with torch.cuda.device_of(out):  # Triton launches on the current device, whatever it is given
        launch(
            out,
            rewards,
            values,
            terminated.view(torch.uint8),
            truncated.view(torch.uint8),
            valid.view(torch.uint8),
            rewards if ratios is None else ratios,
            horizon,
            gamma,
            gae_lambda,
            rho,
            c,
            WEIGHTED=ratios is not None,
            BLOCK=min(LARGEST_BLOCK, triton.next_power_of_2(horizon)),
        )
