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

__all__ = ["agent_name", "check_categories", "check_rollout", "check_step", "outside_sum"]


def check_step(
    parameters: Tensor | None, values: Tensor | None, policy: Any, batch: Any, vector: Any
) -> None:
    """Name what was wrong with a batch, after an error in acting on it.

    Args:
        parameters, values: what the policy has put out; None if that is where the error was.
        batch: the rows that it has seen.

    Raises:
        NotFiniteError: an observation, a parameter or an output is NaN or infinite.
        EmulationError: an observation is outside its Discrete space.
    """
    rows = torch.from_numpy(batch.observations)
    check_observations(rows, batch.rows, vector)
    check_categories(
        rows, vector.observation_layout, lambda row: agent_name(int(batch.rows[row]), vector)
    )
    if parameters is not None and values is not None:
        check_policy(parameters, values, policy, batch.rows, vector)


def check_policy(
    parameters: Tensor, values: Tensor, policy: Any, agents: np.ndarray, vector: Any
) -> None:
    """Raise NotFiniteError if the policy's weights or its outputs are not finite.

    Args:
        parameters: what it has put out, ``(n, ...)``, and `values` ``(n,)``.
        agents: the row of the vector that each of them is of.
    """
    for name, parameter in policy.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NotFiniteError(f"the policy's parameter {name} is not finite")
    finite = torch.isfinite(parameters).reshape(len(values), -1).all(1) & torch.isfinite(values)
    bad = (~finite).nonzero()
    if len(bad):
        raise NotFiniteError(
            "the policy put out a number that is not finite for "
            f"{agent_name(int(agents[int(bad[0])]), vector)}, though its observation and its "
            "parameters are finite: is a magnitude too great?"
        )


def check_rollout(rollout: Any, owners: np.ndarray, policy: Any, vector: Any) -> None:
    """Name what can't be learnt from in a rollout, after a number was not finite.

    Args:
        rollout: with rewards as the environments gave them.
        owners: the row of the vector that each segment is of.

    Raises:
        NotFiniteError: a reward, an observation, or what the policy put out is NaN or infinite.
        EmulationError: an observation is outside its Discrete space.
    """
    valid = rollout.valid.cpu()
    rewards = rollout.rewards.cpu()
    for step, segment in (valid & ~torch.isfinite(rewards)).nonzero().tolist():
        agent = agent_name(int(owners[segment]), vector)
        raise NotFiniteError(f"a reward of {agent} is {float(rewards[step, segment])}")
    rows = rollout.observations.flatten(0, 1).cpu()
    agents = np.tile(owners, len(valid))
    check_observations(rows, agents, vector)
    filled = agents[valid.flatten().numpy()]
    check_categories(
        rows[valid.flatten()],
        vector.observation_layout,
        lambda row: agent_name(int(filled[row]), vector),
    )
    log_probabilities, values = rollout.log_probabilities.flatten(), rollout.values.flatten()
    check_policy(log_probabilities, values, policy, agents, vector)


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


def outside_sum(rollout: Any, layout: Layout) -> Tensor:
    """Return 0, or NaN if a category in a valid step is outside its space, left on the device."""
    rows, bad = rollout.observations.flatten(0, 1), torch.zeros_like(rollout.valid.flatten())
    for _, values, low, high in categories(rows, layout):
        bad = bad | (values < low).any(1) | (values > high).any(1)
    return torch.where((bad & rollout.valid.flatten()).any(), math.nan, 0.0)


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
