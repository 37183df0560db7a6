"""Tianshou: a vector as what its collectors step."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from tianshou.env import BaseVectorEnv

from shoal.errors import ClosedError, PendingCallError
from shoal.wrappers.base import info_of

__all__ = ["ShoalVectorEnv"]


class ShoalVectorEnv(BaseVectorEnv):
    """A vector as a Tianshou ``BaseVectorEnv``, for collectors in place of ``SubprocVectorEnv``.

    Observations and actions are flat, as the vector's. Collectors reset what is done and may step
    a part of the environments; the others stay as they are.

    Args:
        vector: made by ``shoal.vectorize(..., autoreset="disabled")``, single-agent, or a wrapper
            of `shoal.wrappers` around it; not a pool.

    Raises:
        ValueError: a vector of another kind.
    """

    def __init__(self, vector: Any):
        mode = vector.metadata["autoreset_mode"]
        if (
            mode is not AutoresetMode.DISABLED
            or vector.batch_size != vector.num_envs
            or vector.agents_per_env != 1
        ):
            raise ValueError(
                'ShoalVectorEnv: expected vectorize(..., autoreset="disabled") of a single-agent '
                f"environment and no pool, got {mode.name.lower()}, batches of "
                f"{vector.batch_size} of {vector.num_envs}, {vector.agents_per_env} agents"
            )
        # Not the base's own __init__, which makes a worker for each environment.
        self.vector = vector
        self.env_num = self.wait_num = vector.num_envs
        self.is_async = self.is_closed = False
        self.timeout = None
        self.ready_id = list(range(self.env_num))
        self.waiting_id: list[int] = []
        self.waiting_conn: list[Any] = []
        self._seeds: list[int | None] = [None] * self.env_num

    def reset(self, env_id: Any = None, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Reset these environments (all by default): their observations and infos.

        Keyword arguments: ``seed`` (of the first one, the others count on from it) and ``options``.
        """
        self._check_open()
        ids = np.asarray(self._wrap_id(env_id))
        seeds, self._seeds = self._seeds, [None] * self.env_num
        if kwargs.get("seed") is not None:
            for i in ids:
                seeds[i] = int(kwargs["seed"]) + int(i)
        only = np.isin(np.arange(self.env_num), ids)
        options = dict(kwargs.get("options") or {})
        seed = seeds if any(each is not None for each in seeds) else None
        try:
            if only.all():
                observations, infos = self.vector.reset(seed=seed, options=options)
            else:
                options["reset_mask"] = only
                observations, infos = self.vector.reset(seed=seed, options=options)
        except PendingCallError as error:
            if error.name != "reset":
                raise
            options.pop("reset_mask", None)  # the first of all
            observations, infos = self.vector.reset(seed=seed, options=options)
        return observations[ids].copy(), np.array([info_of(infos, i) for i in ids], object)

    def step(self, action: Any, id: Any = None) -> tuple[np.ndarray, ...]:
        """Step these environments (all by default): five arrays in their order."""
        self._check_open()
        ids = np.asarray(self._wrap_id(id)).tolist()
        if ids == self.ready_id:  # all of them, as nearly always
            self.vector.send(np.asarray(action))
            batch = self.vector.recv()
            observations, results = batch.observations.copy(), batch[1:4]
        else:
            self.vector.send(np.asarray(action), ids, keep_others=True)
            batch = self.vector.recv()
            observations, *results = (each[ids] for each in batch[:4])
        infos = np.array([{**info_of(batch.infos, i), "env_id": i} for i in ids], object)
        return observations, *results, infos

    def seed(self, seed: int | list[int] | None = None) -> list[list[int] | None]:
        """Return seeds of the next reset; a number counts on from environment to environment."""
        if isinstance(seed, (list, tuple)):
            self._seeds = list(seed)
        else:
            self._seeds = [None if seed is None else seed + i for i in range(self.env_num)]
        return [None if each is None else [each] for each in self._seeds]

    def get_env_attr(self, key: str, id: Any = None) -> list[Any]:
        """Return an attribute of these environments; their spaces are the vector's flat ones."""
        ids = self._wrap_id(id)
        if key in ("observation_space", "action_space"):
            return [getattr(self.vector, f"single_{key}")] * len(ids)
        values = self.vector.get_attr(key)
        return [values[i] for i in ids]

    def set_env_attr(self, key: str, value: Any, id: Any = None) -> None:
        """Set an attribute of these environments."""
        ids = set(self._wrap_id(id))
        if len(ids) < self.env_num:
            raise ValueError("set_env_attr: expected all environments, got some of them")
        self.vector.set_attr(key, [value] * self.env_num)

    def render(self, **kwargs: Any) -> list[Any]:
        """Return what all environments render."""
        return list(self.vector.render())

    def close(self) -> None:
        """Close the vector."""
        self.is_closed = True
        self.vector.close()

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClosedError("this ShoalVectorEnv is closed")
