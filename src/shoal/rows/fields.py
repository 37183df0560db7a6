"""The thirteen arrays of a row, the operations on an environment, and the autoreset modes.

Each array has one row for each agent. `rows.h` has the same for C.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = [
    "DISABLED",
    "GIVEN",
    "KEEP",
    "MODES",
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
MODES = ("next_step", "same_step", "disabled", "own")  # names, by number


def row_fields(
    observation_layout: Layout, action_layout: ActionLayout
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return dtype and shape of one row of each array, by name.

    - ``observations``, ``final_observations``: as the observation layout says. The final ones are
      written only if an episode ends and the environment is reset in the same step.
    - ``actions``: flat actions.
    - ``rewards`` (float64, as in Gymnasium), ``terminations``, ``truncations`` (bool).
    - ``masks`` (bool): the row's reward and flags are a real transition of an agent that acted.
      False on padding, empty slots, resets of NEXT_STEP autoreset and an agent's first row.
      After an explicit reset: True for every agent present.
    - ``acting`` (bool): the observation is live, and the next step uses this row's action.
    - ``occupants`` (int64): which agent is in the row; -1 for none.
    - ``action_masks`` (bool): which choices are legal; all True if the environment has no mask.
    - ``finals`` (bool): the environment was reset in this step: ``observations`` begin the next
      episode, ``final_observations`` ended the last one.
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
    """Return zeros of shape ``(num_rows, *shape)`` for each array of `row_fields`, by name."""
    fields = row_fields(observation_layout, action_layout)
    return {name: np.zeros((num_rows, *shape), dtype) for name, (dtype, shape) in fields.items()}
