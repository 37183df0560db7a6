"""How many floating-point operations a policy needs, and how many the device can do."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from shoal.rows.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.precision import autocast, minibatch_pass, plain_rows

__all__ = ["model_flops", "peak_flops"]

ROWS = 8  # that are counted


def model_flops(config: Config, policy: Any, layout: Layout, device: torch.device) -> float:
    """Return how many floating-point operations a policy needs for one step that it learns from.

    Matrix products and convolutions count, a multiplication and an addition as two: of acting,
    and of every pass over the rollout with the values before each later one. A backward pass
    counts as two forward passes.
    """
    observations = plain_rows(layout, ROWS).to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, autocast(config, device):
        minibatch_pass(policy, observations, 1, backward=False)
    passes = float(config.update_epochs)
    return max(1.0, (math.ceil(passes) + 3 * passes) * counter.get_total_flops() / ROWS)


def peak_flops(device: torch.device, precision: str = "float32") -> float:
    """Return the FLOP/s of a large matrix product, the best of three."""
    size = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
