"""The memory of a rollout: what the policy saw and did, and what came of it.

A rollout has segments of `horizon` steps, and a row of the vector (an agent) fills one segment
after the other. All arrays are time-major, ``(horizon + 1, segments, ...)``: what happens at one
time lies together. A step holds what the policy saw, what it did, and what came of it: the reward
and the flags that arrive with the row's next observation, which is the next step's. The observation
after a segment's last step is kept too, at position `horizon`, so the value of what follows is at
hand everywhere. These are the invariants:

- Vectors reset in NEXT_STEP mode, so the final observation of an episode is an ordinary step. The
  step is invalid, because its action does nothing; its value is what a truncated episode is worth
  from there.
- ``valid`` is False for such a step, for what a restarted environment lost, and for whatever was
  not filled. Invalid steps have weight 0 in every loss, statistic, normalisation and return.
- ``starts`` says that a step's observation begins an episode, which empties the recurrent state.
- *Even* rollouts: as long as every batch is all environments and no row was ever absent, every row
  takes one step in every batch. Then segment i is row i, a batch is one slice of the rollout, and
  the steps that minibatches are drawn from are all of them, so that minibatches have one size if
  their number divides the rollout.
- Otherwise (pools, agents that come and go, turns) rows without an agent, and agents that wait for
  their turn, take no step at all; one index array a batch says where its rows lie, and minibatches
  are drawn from the valid steps.
- Everything in a rollout was done by the policy that learns from it. Actions still under way when
  the rollout is full (pools) are not learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.trainers.distributions import Distribution
from shoal.trainers.policies import initial_state

__all__ = ["Rollout", "new_rollout", "on_device"]


@dataclass
class Rollout:
    """Segments of experience; see the head of this file.

    All have shape ``(horizon + 1, segments, ...)`` but `states`. Only the first `used` segments
    hold anything. The first group lies on the policy's device, the second is NumPy (written row by
    row) until `to_device`.
    """

    observations: Tensor  # uint8: the bytes of each row
    discrete: Tensor  # int64: see Actions
    continuous: Tensor  # float32
    masks: Tensor  # bool: which choices were legal
    log_probabilities: Tensor  # float32: of the action, by the policy that took it
    values: Tensor  # float32: of the observation, by that policy
    states: Tensor  # float32 (-, segments, features): memory before the first step

    rewards: Any  # float32
    terminated: Any  # bool
    truncated: Any  # bool
    valid: Any  # bool
    starts: Any  # bool
    used: int = 0
    masked: bool = False  # some choice was illegal; else `masks` is all True
    even: bool = True  # segment i is row i, and all of it is filled

    @property
    def horizon(self) -> int:
        """Steps of a segment that are learnt from."""
        return self.values.shape[0] - 1

    @property
    def capacity(self) -> int:
        """Steps that are collected: `horizon` of each row."""
        return self.horizon * self.values.shape[1] // (1 if self.even else 2)

    def flat(self) -> Rollout:
        """Return views of all but the states with one row for each step: time * segments + row."""
        steps = self.values.numel()
        arrays: dict[str, Any] = {
            name: array.reshape(steps, *array.shape[2:])
            for name, array in vars(self).items()
            if name != "states" and hasattr(array, "shape")
        }
        return replace(self, **arrays)

    def doubled(self) -> Rollout:
        """Return it with twice as many segments, uneven; what has been written stays."""
        arrays: dict[str, Any] = {}
        for name, array in vars(self).items():
            if isinstance(array, Tensor):
                empty = torch.full_like(array, name == "masks")
                arrays[name] = torch.cat([array, empty], 1)
            elif isinstance(array, np.ndarray):
                arrays[name] = np.concatenate([array, np.zeros_like(array)], 1)
        return replace(self, **arrays, even=False)

    def to_device(self) -> Rollout:
        """Return it with the second group as tensors on the device."""
        device = self.values.device
        return replace(
            self,
            rewards=on_device(self.rewards, device),
            terminated=on_device(self.terminated, device),
            truncated=on_device(self.truncated, device),
            valid=on_device(self.valid, device),
            starts=on_device(self.starts, device),
        )


def new_rollout(
    segments: int,
    horizon: int,
    row_bytes: int,
    distribution: Distribution,
    policy: Any,
    device: torch.device,
) -> Rollout:
    """Return room for a rollout, of zeros, so that what is never filled is at least finite."""
    shape = (horizon + 1, segments)

    def zeros(dtype: torch.dtype, *columns: int) -> Tensor:
        return torch.zeros(*shape, *columns, dtype=dtype, device=device)

    return Rollout(
        observations=zeros(torch.uint8, row_bytes),
        discrete=zeros(torch.int64, distribution.num_discrete),
        continuous=zeros(torch.float32, distribution.num_continuous),
        masks=~zeros(torch.bool, distribution.layout.num_masked),
        log_probabilities=zeros(torch.float32),
        values=zeros(torch.float32),
        states=initial_state(policy, segments, device),
        rewards=np.zeros(shape, np.float32),
        terminated=np.zeros(shape, bool),
        truncated=np.zeros(shape, bool),
        valid=np.zeros(shape, bool),
        starts=np.zeros(shape, bool),
    )


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor of the device; on the CPU, of the same memory.

    Copies to CUDA pass through page-locked memory, so that the host does not wait for them.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
