"""What every batch wrapper is: a vector that changes what goes into or comes out of another.

Invariants:

- A wrapper changes a batch in `receive`, whole arrays at a time, and actions in `send`; both see
  whichever rows the batch has, so that the same wrapper serves pools. What it remembers is kept
  per agent row of the whole vector and found by ``batch.agent_ids``.
- Rows that are no transition (`Wrapper.transitions`) change no reward and no statistics.
- What a wrapper remembers of actions changes only once they have been accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from shoal.errors import CheckpointError, PendingCallError
from shoal.rows.layout import Layout
from shoal.vectorization.stepper import Deferral
from shoal.vectorization.vector import Batch

__all__ = [
    "ObservationWrapper",
    "Receipt",
    "Wrapper",
    "info_of",
    "load_state_dicts",
    "rows_of",
    "settle",
    "state_dicts",
]


class Receipt:
    """Receives a batch and finishes it once, whenever Ctrl-C comes.

    After KeyboardInterrupt, the next call returns what the interrupted one would have returned.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._result: Any = None
        self._deferral = Deferral()

    def check(self) -> None:
        """Raise PendingCallError if there is a batch that the next call returns."""
        if self._batch is not None or self._result is not None:
            raise PendingCallError("a batch has arrived that was not returned: call recv", "step")

    def __call__(self, receive: Callable[[], Any], finish: Callable[[Any], Any]) -> Any:
        """Return ``finish(receive())``; Ctrl-C waits for `finish`, a second one does not."""
        if self._result is None:
            if self._batch is None:
                self._batch = receive()
            with self._deferral:
                batch, self._batch = self._batch, None
                self._result = finish(batch)
        result, self._result = self._result, None
        return result


def settle(vector: Any) -> None:
    """Receive what an interrupted call has left on its way, for interfaces that know no `recv`."""
    try:
        while True:
            vector.recv()
    except PendingCallError:
        pass


class Wrapper(VectorWrapper):
    """Changes nothing: the base of all batch wrappers.

    It has everything that a `Vector` has: attributes that a wrapper doesn't define are those of
    the vector inside.

    Args:
        env: a vector made by `shoal.vectorize`, or another of these wrappers around one.

    Attributes:
        env: what it was given.
        vector: the vector inside all wrappers.

    Raises:
        TypeError: `env` is something else.
    """

    env: Any
    vector: Any

    def __init__(self, env: Any):
        if not isinstance(env, VectorEnv) or not hasattr(env, "recv"):
            raise TypeError(
                f"{type(self).__name__}: expected a vector made by shoal.vectorize, or a wrapper "
                f"of shoal.wrappers around one, got {type(env).__name__}"
            )
        super().__init__(env)
        self.vector = env.unwrapped  # the innermost, which knows of its last batch
        # Rows that the next batch only repeats: of environments that a partial reset, or a step
        # with `keep_others`, leaves alone.
        self._kept = np.zeros(self.vector.num_rows, np.bool_)
        self._any_kept = False
        self._receipt = Receipt()

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Do as `Vector.reset`."""
        if self.env.batch_size != self.env.num_envs:
            return self.env.reset(seed=seed, options=options)  # which says why it can't
        self.async_reset(seed=seed, options=options)
        batch = self.recv()
        return batch.observations, batch.infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Do as `Vector.step`."""
        if self.env.batch_size != self.env.num_envs:
            return self.env.step(actions)  # which says why it can't
        self.send(actions)
        return self.recv()[:5]

    def async_reset(self, *, seed: Any = None, options: Any = None) -> None:
        """Do as `Vector.async_reset`."""
        self._receipt.check()
        self.env.async_reset(seed=seed, options=options)
        mask = options.get("reset_mask") if isinstance(options, Mapping) else None
        self._any_kept = mask is not None
        self._kept[:] = False if mask is None else ~np.repeat(mask, self.agents_per_env)

    def send(self, actions: Any, env_ids: Any = None, *, keep_others: bool = False) -> None:
        """Do as `Vector.send`."""
        self._receipt.check()
        self.env.send(actions, env_ids, keep_others=keep_others)
        self.keep_others(env_ids, keep_others)

    def keep_others(self, env_ids: Any, keep: bool) -> None:
        """Remember which rows the next batch only repeats, after actions have been sent."""
        if keep and env_ids is not None:
            self._any_kept = True
            self._kept[:] = True
            self._kept[rows_of(env_ids, self.agents_per_env)] = False

    def recv(self, timeout: float | None = None) -> Batch:
        """Do as `Vector.recv`."""
        return self._receipt(lambda: self.env.recv(timeout), self._finish)

    def _finish(self, batch: Batch) -> Batch:
        batch = self.receive(batch)
        if self._any_kept:
            self._kept[batch.agent_ids] = False
            self._any_kept = bool(self._kept.any())
        return batch

    def receive(self, batch: Batch) -> Batch:
        """Return the batch as this wrapper changes it."""
        return batch

    def transitions(self, batch: Batch) -> np.ndarray:
        """Return which rows of the last batch are valid rows of a step, not of a reset."""
        return batch.masks & (self.vector.episode_lengths > 0)

    def render(self, index: int | None = None) -> Any:
        """Do as `Vector.render`."""
        return self.env.render(index)

    def state_dict(self) -> dict[str, Any]:
        """Return this wrapper's part of a checkpoint; see `state_dicts` for a whole stack."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring back what `state_dict` gave."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.env, name)

    def __del__(self) -> None:
        """Do nothing: the vector inside closes itself when nothing refers to it any more."""


class ObservationWrapper(Wrapper):
    """Base of wrappers that change observations, the final ones of SAME_STEP mode included.

    Args:
        env: see `Wrapper`.
        layout: of the new observations.
    """

    def __init__(self, env: Any, layout: Layout):
        super().__init__(env)
        self.observation_layout = layout
        self.single_observation_space = layout.flat_space
        rows = env.batch_size * env.agents_per_env
        self.observation_space = batch_space(self.single_observation_space, rows)
        self._same_step = env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        self._finals: Any = layout.zeros(rows) if self._same_step else None
        self._observations: Any = None

    @property
    def final_observations(self) -> np.ndarray:
        """As `Vector.final_observations`, changed as the observations are."""
        if self._observations is None:
            return self.env.final_observations  # which says that there is no batch yet
        return self._finals if self._same_step else self._observations

    def receive(self, batch: Batch) -> Batch:
        rows, times = batch.agent_ids, self.vector.episode_lengths
        fresh = batch.masks | self.vector.acting
        if self._any_kept:
            fresh &= ~self._kept[rows]
        ended = batch.infos.get("_final_obs")
        if ended is not None:  # first what ended the episodes, then what begins the next ones
            last = self.observe(
                self.env.final_observations[ended], rows[ended], times[ended], fresh[ended]
            )
            times = np.where(ended, 0, times)
            self._finals = self.observation_layout.zeros(len(rows))  # the former is the caller's
            self._finals[ended] = last
            for row, each in zip(np.flatnonzero(ended), last):
                batch.infos["final_obs"][row] = each
        self._observations = self.observe(batch.observations, rows, times, fresh)
        return batch._replace(observations=self._observations)

    def observe(
        self, observations: np.ndarray, rows: np.ndarray, times: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        """Return the new observations.

        Args:
            observations: of the vector inside, ``(n, *shape)``; to be left as they are.
            rows: which agent rows of the whole vector they are of (int64).
            times: steps that led to each since its episode began (int64); 0: it begins one, or
                nobody is there.
            fresh: the observation is live, or ended an episode, and has not been delivered before
                (bool). False for padding, for what a partial reset leaves alone, and for who waits
                for a turn.
        """
        raise NotImplementedError


def rows_of(env_ids: Any, agents_per_env: int) -> np.ndarray:
    """Return the agent rows of these environments, in order."""
    first = np.asarray(env_ids) * agents_per_env
    return (first[:, None] + np.arange(agents_per_env)).reshape(-1)


def info_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return one row's part of the infos of a batch, as the environment gave it."""
    found: dict[str, Any] = {}
    if not infos:
        return found
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if isinstance(mask, np.ndarray) and mask[row] and key not in ("final_obs", "final_info"):
            found[key] = info_of(values, row) if isinstance(values, dict) else values[row]
    return found


def state_dicts(env: Any) -> list[dict[str, Any]]:
    """Return the state of all wrappers around a vector for a checkpoint, outermost first.

    Returns:
        Dicts of NumPy arrays and numbers, one for each wrapper; empty where it learns nothing.
    """
    found = []
    while isinstance(env, VectorWrapper):
        if isinstance(env, Wrapper):
            found.append({"wrapper": type(env).__name__, **env.state_dict()})
        env = env.env
    return found


def load_state_dicts(env: Any, states: Sequence[Mapping[str, Any]]) -> None:
    """Bring back what `state_dicts` gave, into the same wrappers in the same order.

    Raises:
        CheckpointError: these are other wrappers; nothing was changed.
    """
    wrappers: list[Wrapper] = []
    while isinstance(env, VectorWrapper):
        if isinstance(env, Wrapper):
            wrappers.append(env)
        env = env.env
    names = [type(wrapper).__name__ for wrapper in wrappers]
    saved = [state["wrapper"] for state in states]
    if names != saved:
        raise CheckpointError(f"expected the state of the wrappers {names}, got that of {saved}")
    for wrapper, state in zip(wrappers, states):
        wrapper.load_state_dict(state)
