"""The arrays that an environment's agents are served from: one row each per agent."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = [
    "DISABLED",
    "GIVEN",
    "KEEP",
    "NEXT_STEP",
    "OWN",
    "RESET",
    "SAME_STEP",
    "STEP",
    "row_fields",
    "zero_rows",
]

# Operations on an environment. KEEP delivers the last result again. GIVEN steps with an action that
# comes as an object.
STEP, RESET, KEEP, GIVEN = range(4)
# Autoreset modes: Gymnasium's three. In OWN the environment resets itself.
NEXT_STEP, SAME_STEP, DISABLED, OWN = range(4)


def row_fields(
    observation_layout: Layout, action_layout: ActionLayout
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Dtype and shape of one row of each array, by name.

    - ``observations``, ``final_observations``: as the observation layout says. The final ones are
      written only where an episode ends and the environment is reset in the same step.
    - ``actions``: flat actions.
    - ``rewards`` (float64, as Gymnasium has them), ``terminations``, ``truncations`` (bool).
    - ``masks`` (bool): the row's reward and flags are a real transition of an agent that acted.
      False on padding, empty slots, resets of NEXT_STEP autoreset and an agent's first row.
      After an explicit reset: True for every agent present.
    - ``acting`` (bool): the observation is live, and the next step uses this row's action.
    - ``occupants`` (int64): who is in the row; -1 for nobody.
    - ``action_masks`` (bool): which choices are legal; all True where the environment doesn't say.
    - ``finals`` (bool): the environment was reset in this same step: ``observations`` begin the
      next episode, ``final_observations`` ended the last one.
    - ``episode_returns`` (float64), ``episode_lengths`` (int64): of the row's episode so far, this
      step included.
    """
    flag = (np.dtype(np.bool_), ())
    return {
        "observations": (observation_layout.dtype, observation_layout.shape),
        "final_observations": (observation_layout.dtype, observation_layout.shape),
        "actions": (action_layout.flat.dtype, action_layout.flat.shape),
        "rewards": (np.dtype(np.float64), ()),
        "terminations": flag,
        "truncations": flag,
        "masks": flag,
        "acting": flag,
        "occupants": (np.dtype(np.int64), ()),
        "action_masks": (np.dtype(np.bool_), (action_layout.num_masked,)),
        "finals": flag,
        "episode_returns": (np.dtype(np.float64), ()),
        "episode_lengths": (np.dtype(np.int64), ()),
    }


def zero_rows(
    observation_layout: Layout, action_layout: ActionLayout, num_rows: int
) -> dict[str, Any]:
    """Fresh arrays for `num_rows` agents: see `row_fields`."""
    fields = row_fields(observation_layout, action_layout)
    return {name: np.zeros((num_rows, *shape), dtype) for name, (dtype, shape) in fields.items()}
