"""Several processes that train one policy together (torchrun): what they share and how.

Without torchrun there is one process, and every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

__all__ = [
    "all_sum",
    "any_of",
    "current_device",
    "gather",
    "join_processes",
    "moments",
    "rank",
    "world_size",
]


def rank() -> int:
    """Return the number of this process; 0 for the first."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """Replace `x` by its sum over all processes, and return it.

    Args:
        x: on the device of the process group: CUDA for NCCL.
    """
    if world_size() > 1:
        distributed.all_reduce(x)
    return x


def any_of(said: bool, device: torch.device) -> bool:
    """Return whether any process says so; every process has to call this."""
    return said if world_size() == 1 else bool(all_sum(torch.tensor(float(said), device=device)))


def moments(values: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and count of the rows of all processes together.

    Args:
        values: ``(n, ...)``, on the device of the process group; n may be 0.
        weights: bool ``(n,)``: which rows count; None for all.

    Returns:
        float64 tensors: two of shape ``(...)``, and a number. Both are 0 if there are no rows.
    """
    values = values.double()
    if weights is None:
        weights = torch.ones(len(values), device=values.device)
    weights = weights.double()
    count = all_sum(weights.sum())
    least = count.clamp_min(1)
    columns = values.reshape(len(values), -1)
    mean = all_sum(weights @ columns) / least
    variance = all_sum(weights @ (columns - mean) ** 2) / least
    return mean.reshape(values.shape[1:]), variance.reshape(values.shape[1:]), count


def gather(value: Any) -> list[Any] | None:
    """Return the values of all processes by rank, in the first process; None in the others."""
    if world_size() == 1:
        return [value]
    found: list[Any] | None = [None] * world_size() if rank() == 0 else None
    distributed.gather_object(value, found)
    return found


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        distributed.barrier()  # nobody leaves while another still needs it
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def current_device(device: torch.device) -> Iterator[None]:
    """Make a CUDA device the current one, on which NCCL and Triton work."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_device()
    torch.cuda.set_device(device)
    try:
        yield
    finally:
        torch.cuda.set_device(before)
