"""Gymnasium's spaces of a compiled environment."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
from gymnasium import spaces

from shoal.ocean_c.table import Field, Spec

__all__ = ["action_bounds", "action_space", "observation_offsets", "observation_space"]


def observation_space(spec: Spec) -> spaces.Space[Any]:
    """A Box for one field, a Dict in the table's order for several."""
    boxes = [(field.name, _box(field, len(spec.observations) == 1)) for field in spec.observations]
    return boxes[0][1] if len(boxes) == 1 else spaces.Dict(collections.OrderedDict(boxes))


def observation_offsets(spec: Spec) -> tuple[list[int], int]:
    """Where each field lies in a row, as in a C struct, and the bytes of a row."""
    at, most = 0, 1
    offsets = []
    for field in spec.observations:
        size = field.dtype.itemsize
        most = max(most, size)
        at = -(-at // size) * size
        offsets.append(at)
        at += size * int(np.prod(field.shape, dtype=np.int64))
    return offsets, -(-at // most) * most


def action_space(spec: Spec) -> spaces.Space[Any]:
    """Discrete, MultiDiscrete or Box, whatever the fields add up to."""
    if spec.actions[0].dtype.kind == "i":
        highs = np.concatenate([field.high.reshape(-1) for field in spec.actions]).astype(int)
        return spaces.Discrete(highs[0] + 1) if len(highs) == 1 else spaces.MultiDiscrete(highs + 1)
    if len(spec.actions) == 1:
        return _box(spec.actions[0], True)
    low, high = action_bounds(spec)
    return spaces.Box(low, high, dtype=np.float32)


def action_bounds(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of each element of a row of actions (float32)."""
    lows = np.concatenate([field.low.reshape(-1) for field in spec.actions])
    highs = np.concatenate([field.high.reshape(-1) for field in spec.actions])
    return lows.astype(np.float32), highs.astype(np.float32)


def _box(field: Field, alone: bool) -> spaces.Box:
    shape = field.shape or ((1,) if alone else ())  # what stands alone is a vector
    low, high = field.low.reshape(shape), field.high.reshape(shape)
    dtype: Any = field.dtype.type
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype)
