"""The spaces and layouts of a native environment."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
from gymnasium import spaces

from shoal.errors import EnvModuleError
from shoal.ocean_c.table import Field, Spec
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = ["action_bounds", "action_space", "layouts", "observation_offsets", "observation_space"]


def observation_space(spec: Spec) -> spaces.Space[Any]:
    """Return a Box for one field, or a Dict in the table's order for several."""
    boxes = [(field.name, _box(field, len(spec.observations) == 1)) for field in spec.observations]
    return boxes[0][1] if len(boxes) == 1 else spaces.Dict(collections.OrderedDict(boxes))


def observation_offsets(spec: Spec) -> tuple[list[int], int]:
    """Return the offset of each field in a row, as in a C struct, and the bytes of a row."""
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
    """Return the fields together as a Discrete, a MultiDiscrete or a Box."""
    if spec.actions[0].dtype.kind == "i":
        highs = np.concatenate([field.high.reshape(-1) for field in spec.actions]).astype(int)
        return spaces.Discrete(highs[0] + 1) if len(highs) == 1 else spaces.MultiDiscrete(highs + 1)
    if len(spec.actions) == 1:
        return _box(spec.actions[0], True)
    low, high = action_bounds(spec)
    return spaces.Box(low, high, dtype=np.float32)


def layouts(spec: Spec, path: str) -> tuple[Layout, ActionLayout]:
    """Return the layouts of one agent's observations and actions.

    Raises:
        EnvModuleError: observations would not lie in their rows as in a C struct.
    """
    observations = Layout.from_space(observation_space(spec), name="obs")
    if [leaf.offset for leaf in observations.leaves] != observation_offsets(spec)[0]:
        raise EnvModuleError(f"{path}: its observation does not lie in a row as in a C struct")
    return observations, ActionLayout.from_space(action_space(spec))


def action_bounds(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high of each element of a row of actions (float32)."""
    lows = np.concatenate([field.low.reshape(-1) for field in spec.actions])
    highs = np.concatenate([field.high.reshape(-1) for field in spec.actions])
    return lows.astype(np.float32), highs.astype(np.float32)


def _box(field: Field, alone: bool) -> spaces.Box:
    shape = field.shape or ((1,) if alone else ())  # a lone number is a vector
    low, high = field.low.reshape(shape), field.high.reshape(shape)
    dtype: Any = field.dtype.type
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype)
