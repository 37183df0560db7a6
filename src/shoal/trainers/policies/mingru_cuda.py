"""The recurrence of a MinGRU on CUDA, in Triton, compiled when it is first called.

h_t = a_t * h_{t-1} + b_t is linear, so two neighbouring stretches of steps compose to one, and a
parallel scan gives all h. One program does a block of lanes (numbers of h that do not depend on
each other), a block of steps at a time; h of each block's last step goes on to the next block. The
gradient of h is such a recurrence from the last step to the first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from shoal.trainers.advantage_cuda import compose

__all__ = ["backward", "forward"]

LARGEST_BLOCK = 64  # steps that one program works on at a time
TILE = 2048  # numbers that one program works on at a time


@triton.jit
def _forward(
    hidden: tl.tensor,
    gates: tl.tensor,
    candidates: tl.tensor,
    state: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    n: tl.tensor,
    size: tl.tensor,
    STEPS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    lanes = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    here = lanes < n * size
    rows = lanes // size
    carried = tl.load(state + lanes, mask=here, other=0.0)
    for block in range(tl.cdiv(steps, STEPS)):
        t = block * STEPS + tl.arange(0, STEPS)
        inside = (t[:, None] < steps) & here[None, :]
        at = t[:, None].to(tl.int64) * (n * size) + lanes[None, :]
        begins = tl.load(starts + t[:, None].to(tl.int64) * n + rows[None, :], mask=inside, other=0)
        share = tl.sigmoid(tl.load(gates + at, mask=inside, other=0.0))
        candidate = tl.load(candidates + at, mask=inside, other=0.0)
        # Steps past the end pass on what is carried.
        decay = tl.where(inside, tl.where(begins != 0, 0.0, 1.0 - share), 1.0)
        added = tl.where(inside, share * candidate, 0.0)
        decay, added = tl.associative_scan((decay, added), 0, compose)
        h = added + tl.where(decay == 0.0, 0.0, decay * carried[None, :])
        tl.store(hidden + at, h, mask=inside)
        carried = tl.sum(tl.where(t[:, None] == block * STEPS + STEPS - 1, h, 0.0), 0)


@triton.jit
def _backward(
    to_gates: tl.tensor,
    to_candidates: tl.tensor,
    to_state: tl.tensor,
    gradient: tl.tensor,
    gates: tl.tensor,
    candidates: tl.tensor,
    state: tl.tensor,
    starts: tl.tensor,
    hidden: tl.tensor,
    steps: tl.tensor,
    n: tl.tensor,
    size: tl.tensor,
    STEPS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    lanes = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    here = lanes < n * size
    rows = lanes // size
    width = n * size
    first = tl.load(state + lanes, mask=here, other=0.0)
    carried = tl.zeros((LANES,), tl.float32)  # the gradient of h that comes from the next block
    for block in range(tl.cdiv(steps, STEPS) - 1, -1, -1):
        t = block * STEPS + tl.arange(0, STEPS)
        inside = (t[:, None] < steps) & here[None, :]
        step = t[:, None].to(tl.int64)
        at = step * width + lanes[None, :]
        begins = tl.load(starts + step * n + rows[None, :], mask=inside, other=0) != 0
        share = tl.sigmoid(tl.load(gates + at, mask=inside, other=0.0))
        candidate = tl.load(candidates + at, mask=inside, other=0.0)
        before = tl.load(hidden + at - width, mask=inside & (t[:, None] > 0), other=0.0)
        before = tl.where(t[:, None] == 0, first[None, :], before)
        before = tl.where(begins, 0.0, before)
        # What the next step takes of this step's h.
        follows = (t[:, None] + 1 < steps) & here[None, :]
        next_begins = tl.load(starts + (step + 1) * n + rows[None, :], mask=follows, other=1)
        next_gate = tl.load(gates + at + width, mask=follows, other=0.0)
        decay = tl.where(next_begins != 0, 0.0, 1.0 - tl.sigmoid(next_gate))
        total = tl.load(gradient + at, mask=inside, other=0.0)
        decay, total = tl.associative_scan((decay, total), 0, compose, reverse=True)
        total += tl.where(decay == 0.0, 0.0, decay * carried[None, :])
        tl.store(to_candidates + at, total * share, mask=inside)
        change = total * (candidate - before) * share * (1.0 - share)
        tl.store(to_gates + at, change, mask=inside)
        carried = tl.sum(tl.where(t[:, None] == block * STEPS, total, 0.0), 0)
    begins = tl.load(starts + rows, mask=here, other=0) != 0
    share = tl.sigmoid(tl.load(gates + lanes, mask=here, other=0.0))
    tl.store(to_state + lanes, tl.where(begins, 0.0, carried * (1.0 - share)), mask=here)


def forward(gates: Tensor, candidates: Tensor, state: Tensor, starts: Tensor) -> Tensor:
    """Return what `shoal.trainers.policies.mingru.mingru` does, float32."""
    hidden = torch.empty(gates.shape, device=gates.device)
    launch(_forward, [hidden], [gates, candidates, state, starts])
    return hidden


def backward(
    gradient: Tensor,
    gates: Tensor,
    candidates: Tensor,
    state: Tensor,
    starts: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `gates`, `candidates` and `state`."""
    out = [torch.empty(t.shape, device=t.device) for t in (gates, candidates, state)]
    launch(_backward, out, [gradient, gates, candidates, state, starts, hidden])
    return out[0], out[1], out[2]


def launch(kernel: triton.JITFunction, out: list[Tensor], inputs: list[Tensor]) -> None:
    """Run a kernel for all lanes of ``(steps, n, size)``; outputs are contiguous."""
    steps, n, size = out[0].shape
    if out[0].numel() == 0:
        return
    block = min(LARGEST_BLOCK, triton.next_power_of_2(steps))
    lanes = TILE // block
    given = [(t.view(torch.uint8) if t.dtype == torch.bool else t).contiguous() for t in inputs]
    with torch.cuda.device_of(out[0]):  # Triton launches on the current device
        kernel[(triton.cdiv(n * size, lanes),)](
            *out, *given, steps, n, size, STEPS=block, LANES=lanes
        )
