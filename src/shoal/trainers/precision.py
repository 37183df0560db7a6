"""The arithmetic of the networks: float32, or bfloat16 where it is clearly faster.

Parameters, optimiser and losses are float32 in both; bfloat16 is torch's autocast of the policy.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from shoal.rows.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.policies import Recurrent, initial_state
from shoal.trainers.processes import any_of

__all__ = ["autocast", "choose_precision", "minibatch_pass", "plain_rows"]

CLEARLY = 1.2  # times as fast as float32 is what bfloat16 has to be
MOST_ROWS = 8192  # of the minibatch that is timed
SECONDS = 0.6  # of all timing together, about
CPUINFO = Path("/proc/cpuinfo")
CPU_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # x86 and ARM: matrix products of bfloat16


def autocast(config: Config, device: torch.device) -> Any:
    """Return a context in which a policy computes in the precision of a config."""
    if config.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def choose_precision(
    config: Config, policy: Any, layout: Layout, rows: int, steps: int, device: torch.device
) -> tuple[Literal["float32", "bfloat16"], str]:
    """Return the precision of a run, and why, in a few words.

    ``auto`` means bfloat16 if a minibatch of the policy is at least 1.2 times as fast with it,
    forward and backward; else float32. Without instructions for bfloat16 nothing is timed. All
    processes of a run choose alike.

    Args:
        config: `precision` is used.
        policy: on the device; its gradients are cleared.
        layout: of the observations.
        rows: of a minibatch; at most 8,192 are timed.
        steps: of a segment, if the policy has memory.
        device: of the policy.
    """
    able = has_bfloat16(device)
    if config.precision != "auto":
        if config.precision == "bfloat16" and not able:
            warnings.warn(
                f"precision: {named(device)} has no instructions for bfloat16, so float32 is "
                "faster",
                RuntimeWarning,
                stacklevel=2,
            )
        return config.precision, "as asked"
    if any_of(not able, device):
        return "float32", f"{named(device)} has no instructions for bfloat16"
    ratio = speed_ratio(config, policy, layout, min(rows, MOST_ROWS), steps, device)
    slower = any_of(ratio < CLEARLY, device)
    return "float32" if slower else "bfloat16", f"bfloat16 is {ratio:.1f} times as fast as float32"


def named(device: torch.device) -> str:
    return "this processor" if device.type == "cpu" else str(device)


def has_bfloat16(device: torch.device) -> bool:
    """Say if a device multiplies matrices of bfloat16 by instructions made for them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not CPUINFO.exists():
        return False
    lines = CPUINFO.read_text().splitlines()
    flags = next((x for x in lines if x.lower().startswith(("flags", "features"))), "")
    return not CPU_FLAGS.isdisjoint(flags.split())


def speed_ratio(
    config: Config, policy: Any, layout: Layout, rows: int, steps: int, device: torch.device
) -> float:
    """Return how many times as fast as float32 a policy computes a minibatch in bfloat16.

    Both are timed in turns, and the ratio is of their medians.
    """
    segments = max(1, rows // steps)
    if isinstance(policy, Recurrent):
        rows = segments * steps
    observations = plain_rows(layout, rows).to(device)
    seconds: dict[Literal["float32", "bfloat16"], list[float]] = {"float32": [], "bfloat16": []}
    end = time.perf_counter() + SECONDS
    for turn in range(20):
        for precision, taken in seconds.items():
            begun = time.perf_counter()
            with autocast(replace(config, precision=precision), device):
                minibatch_pass(policy, observations, steps)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:  # the first one allocates memory and compiles kernels
                taken.append(time.perf_counter() - begun)
        if turn and time.perf_counter() > end:
            break
    for parameter in policy.parameters():
        parameter.grad = None
    slow, fast = (statistics.median(seconds[name]) for name in ("float32", "bfloat16"))
    return slow / fast


def minibatch_pass(policy: Any, observations: Tensor, steps: int, backward: bool = True) -> None:
    """Compute a policy's outputs for some rows and, if asked, gradients of their sum.

    Args:
        observations: ``(rows, ...)``; with memory, segments of `steps` steps.
    """
    features = policy.encode(observations)
    if isinstance(policy, Recurrent):
        segments, device = len(features) // steps, features.device
        starts = torch.zeros(steps, segments, dtype=torch.bool, device=device)
        features = features.reshape(steps, segments, -1)
        state = initial_state(policy, segments, device)
        features = policy.recur(features, state, starts)[0].flatten(0, 1)
    parameters, values = policy.decode(features)
    if backward:
        (parameters.float().sum() + values.float().sum()).backward()


def plain_rows(layout: Layout, rows: int) -> Tensor:
    """Return observations of a space, each number the nearest to 0 that it may be."""
    made = layout.zeros(rows)
    if layout.form == "bytes":
        views = layout.view_leaves(made)
        for leaf in layout.leaves:
            low, high = np.asarray(leaf.low), np.asarray(leaf.high)
            views[leaf.path][...] = np.clip(0, low, high)
    return torch.from_numpy(made)
