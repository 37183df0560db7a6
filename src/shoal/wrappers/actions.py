"""Wrappers that change actions before they are sent, a batch at a time.

Actions are those of `Vector`: one array, or, where continuous and discrete parts are mixed, a dict
of ``"continuous"`` and ``"discrete"`` arrays, of which clipping and rescaling touch the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from shoal.errors import ActionError
from shoal.rows.actions import ActionLayout
from shoal.vectorization.vector import Batch, action_rows
from shoal.wrappers.base import Wrapper, rows_of

__all__ = ["ClipAction", "RescaleAction", "StickyAction"]


class ActionWrapper(Wrapper):
    """Base of wrappers that show another range of continuous actions.

    Args:
        env: see `Wrapper`.
        low, high: the new bounds, broadcast to the shape of the continuous part.

    Attributes:
        box, shown: spaces of the continuous part: the vector's own, and the new one.

    Raises:
        TypeError: nothing is continuous in the vector's actions.
    """

    def __init__(self, env: Any, low: Any, high: Any):
        space = env.single_action_space
        mixed = isinstance(space, spaces.Dict)
        box = space["continuous"] if mixed else space
        if not isinstance(box, spaces.Box) or box.dtype.kind != "f":
            raise TypeError(f"{type(self).__name__}: expected continuous actions, got {space}")
        super().__init__(env)
        low, high = (np.broadcast_to(b, box.shape).astype(box.dtype) for b in (low, high))
        self.box, self.shown = box, spaces.Box(low, high, box.shape, box.dtype.type)
        shown: Any = self.shown
        if mixed:
            shown = spaces.Dict({**space.spaces, "continuous": shown})
        self.action_layout = ActionLayout.from_space(shown)
        self.single_action_space = shown
        self.action_space = batch_space(shown, env.batch_size * env.agents_per_env)

    def send(self, actions: Any, env_ids: Any = None, *, keep_others: bool = False) -> None:
        if isinstance(actions, Mapping):
            if "continuous" in actions:  # if not, the vector says what it expects
                actions = {**actions, "continuous": self.change(actions["continuous"])}
        else:
            actions = self.change(actions)
        super().send(actions, env_ids, keep_others=keep_others)

    def change(self, actions: Any) -> np.ndarray:
        """Return the vector's actions for actions in the new range, ``(rows, *shape)``."""
        raise NotImplementedError


class ClipAction(ActionWrapper):
    """Continuous actions of any size, clipped to the environment's bounds; not invertible."""

    def __init__(self, env: Any):
        super().__init__(env, -np.inf, np.inf)

    def change(self, actions: Any) -> np.ndarray:
        return np.clip(actions, self.box.low, self.box.high)


class RescaleAction(ActionWrapper):
    """Continuous actions from `low` to `high`, stretched to the environment's bounds.

    Invert with `rescale`.

    Args:
        env: see `Wrapper`.
        low, high: numbers or arrays; finite, as the environment's bounds must be.

    Raises:
        ValueError: bounds that are infinite or empty.
    """

    def __init__(self, env: Any, low: Any = -1.0, high: Any = 1.0):
        super().__init__(env, low, high)
        # In float64, so that both ends are met exactly before they are rounded.
        bounds = (self.shown.low, self.shown.high, self.box.low, self.box.high)
        self._low, self._high, self._to_low, self._to_high = (b.astype(float) for b in bounds)
        if not np.isfinite(bounds).all() or not (self._low < self._high).all():
            raise ValueError(
                f"RescaleAction: expected finite bounds and low < high, got {self.shown} for "
                f"the environment's {self.box}"
            )
        self._factor = (self._to_high - self._to_low) / (self._high - self._low)

    def change(self, actions: Any) -> np.ndarray:
        values = np.asarray(actions, np.float64)
        if not ((values >= self._low) & (values <= self._high)).all():
            raise ActionError(f"actions: expected {self.shown}, got {actions}")
        wide = (values - self._low) * self._factor + self._to_low
        return np.clip(wide, self._to_low, self._to_high).astype(self.box.dtype)  # rounding

    def rescale(self, actions: np.ndarray) -> np.ndarray:
        """Return the new range's actions for the environment's actions: the inverse of `send`."""
        narrow = (np.asarray(actions, np.float64) - self._to_low) / self._factor + self._low
        return narrow.astype(self.box.dtype)


class StickyAction(Wrapper):
    """With some probability an agent's last action is taken again instead of the new one.

    After Machado et al. (2018), "Revisiting the Arcade Learning Environment", section 5.2. Not
    invertible: what was done is in `taken`.

    Args:
        env: see `Wrapper`.
        probability: of each action to be the last one; 0 to 1, without 1.
        duration: for how many steps it then is: a number, or the least and the most.
        seed: of the generator that decides; one number is drawn for each row that has a last
            action and is not repeating already.

    Attributes:
        taken: the actions that were last sent, as they went to the environments.
    """

    def __init__(
        self,
        env: Any,
        probability: float,
        duration: int | tuple[int, int] = 1,
        *,
        seed: int | None = None,
    ):
        if not 0 <= probability < 1:
            raise ValueError(f"StickyAction: expected 0 <= probability < 1, got {probability}")
        least, most = (duration, duration) if isinstance(duration, int) else duration
        if not 1 <= least <= most:
            raise ValueError(f"StickyAction: expected a duration of 1 or more, got {duration}")
        super().__init__(env)
        self.probability, self.duration = probability, (least, most)
        self.rng = np.random.default_rng(seed)
        self.taken: Any = None
        self._left = np.zeros(env.num_rows, np.int64)  # steps for which each row still repeats
        self._acted = np.zeros(env.num_rows, bool)  # it has a last action, of this episode
        self._last = env.action_layout.flat.zeros(env.num_rows)

    def send(self, actions: Any, env_ids: Any = None, *, keep_others: bool = False) -> None:
        rows = rows_of(self.env_ids if env_ids is None else env_ids, self.agents_per_env)
        layout = self.env.action_layout
        sent = np.array(action_rows(layout, actions, len(rows)))  # a copy
        state = self.rng.bit_generator.state
        left = self._left[rows]
        free = np.flatnonzero(self._acted[rows] & (left == 0))
        begin = free[self.rng.random(len(free)) < self.probability]
        left[begin] = self.rng.integers(self.duration[0], self.duration[1] + 1, len(begin))
        stuck = left > 0
        sent[stuck] = self._last[rows[stuck]]
        try:
            super().send(layout.flat.view(sent), env_ids, keep_others=keep_others)
        except BaseException:
            self.rng.bit_generator.state = state
            raise
        self._left[rows] = left - stuck
        self._acted[rows] = True
        self._last[rows] = sent
        self.taken = layout.flat.view(sent)

    def receive(self, batch: Batch) -> Batch:
        rows = batch.agent_ids
        over = (self.vector.episode_lengths == 0) | batch.terminations | batch.truncations
        self._left[rows[over]] = 0
        self._acted[rows[over]] = False
        return batch
