"""Numbers that nothing can be learnt from: found before they do harm, and named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.errors import EmulationError, NotFiniteError
from shoal.rows.layout import Layout
from shoal.rows.spec import Leaf, where
from shoal.trainers.policies import typed

__all__ = ["agent_name", "check_categories", "check_outputs", "check_rollout"]


def check_outputs(
    parameters: Tensor,
    values: Tensor,
    policy: Any,
    observations: Tensor,
    agents: np.ndarray,
    vector: Any,
) -> None:
    """Raise NotFiniteError, before anything is done with them, if the policy's numbers are none.

    Args:
        parameters, values: what the policy has put out.
        observations: uint8, the rows of bytes that the policy has seen.
        agents: the row of the vector that each of them is of.
    """
    if math.isfinite(float(parameters.sum() + values.sum())):
        return
    check_observations(observations, agents, vector)
    for name, parameter in policy.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NotFiniteError(f"the policy's parameter {name} is not finite")
    bad = (~torch.isfinite(parameters).all(1) | ~torch.isfinite(values)).nonzero()
    if len(bad):
        raise NotFiniteError(
            "the policy put out a number that is not finite for "
            f"{agent_name(int(agents[int(bad[0])]), vector)}, though its observation and its "
            "parameters are finite: is a magnitude too great?"
        )


def check_rollout(rollout: Any, owners: np.ndarray, vector: Any) -> None:
    """Raise an error for a reward or an observation that can't be learnt from.

    Args:
        owners: the row of the vector that each segment is of.

    Raises:
        NotFiniteError: one is NaN or infinite.
        EmulationError: an observation is outside its Discrete space.
    """
    if not math.isfinite(float(rollout.rewards.sum())):
        bad = (rollout.valid & ~torch.isfinite(rollout.rewards)).nonzero()
        if len(bad):
            segment, step = bad[0].tolist()
            agent = agent_name(int(owners[segment]), vector)
            raise NotFiniteError(f"a reward of {agent} is {float(rollout.rewards[segment, step])}")
    agents = np.repeat(owners[: rollout.used], rollout.values.shape[1])
    rows = rollout.observations.flatten(0, 1)
    check_observations(rows, agents, vector)
    if any_outside(rows, vector.observation_layout):  # perhaps only what was never filled
        valid = rollout.valid.flatten()
        check_categories(
            rows[valid].cpu(),
            vector.observation_layout,
            lambda row: agent_name(int(agents[valid.cpu().numpy()][row]), vector),
        )


def check_observations(rows: Tensor, agents: np.ndarray, vector: Any) -> None:
    """Raise NotFiniteError if NaN or infinity is among rows of bytes, each of that agent."""
    layout = vector.observation_layout
    for leaf, values in zip(layout.leaves, layout.view_leaves(typed(rows, layout)).values()):
        if leaf.dtype[:5] != "float" and layout.form != "float32":
            continue
        if math.isfinite(float(values.sum())):  # what is not finite shows in the sum
            continue
        values = values.reshape(len(rows), -1)
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise NotFiniteError(
                f"observation {where('obs', leaf.path)} of "
                f"{agent_name(int(agents[row]), vector)} is {float(values[row, column])}"
            )


def any_outside(rows: Tensor, layout: Layout) -> bool:
    """Return whether any category in rows of bytes is outside its space."""
    for _, values, low, high in categories(rows, layout):
        if bool(((values.amin(0) < low) | (values.amax(0) > high)).any()):
            return True
    return False


def check_categories(rows: Tensor, layout: Layout, name: Any = "row {}".format) -> None:
    """Raise EmulationError for a category that is outside its space.

    Args:
        rows: uint8 ``(n, layout.nbytes)``.
        name: gets the number of a row, and returns what the message calls it.
    """
    for leaf, values, low, high in categories(rows, layout):
        bad = ((values < low) | (values > high)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise EmulationError(
                f"observation {where('obs', leaf.path)} of {name(row)} must be from "
                f"{low[column]} to {high[column]}, got {values[row, column]}"
            )


def categories(rows: Tensor, layout: Layout) -> Iterator[tuple[Leaf, Tensor, Tensor, Tensor]]:
    """Yield each leaf of categories: its values ``(n, elements)``, and the bounds of elements."""
    if layout.form == "float32":
        return
    for leaf, values in zip(layout.leaves, layout.view_leaves(typed(rows, layout)).values()):
        if leaf.kind == "discrete" and leaf.count:
            values = values.reshape(len(rows), -1)
            if values.dtype in (torch.uint16, torch.uint32, torch.uint64):  # have no minimum
                values = values.long()
            low, high = (
                torch.as_tensor(np.broadcast_to(bound, leaf.shape).ravel().astype(np.int64))
                for bound in (leaf.low, leaf.high)
            )
            if leaf.optional:  # what is absent is 0
                low, high = low.clamp_max(0), high.clamp_min(0)
            yield leaf, values, low.to(rows.device), high.to(rows.device)


def agent_name(row: int, vector: Any) -> str:
    """Return what error messages call a row of the vector."""
    each = vector.agents_per_env
    agent = f", agent {vector.agents[row % each]}" if each > 1 else ""
    return f"environment {row // each}{agent}"
