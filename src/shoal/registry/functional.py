"""Environments that are functions of a state, in JAX, as a batched environment.

Every environment has its own random key, which each reset and step splits. So an environment
depends on its seed and its actions, and not on how many others there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode

__all__ = ["FunctionalEnv"]


class FunctionalEnv:
    """Many environments of one functional kind, as `shoal.vectorize` takes them.

    They are mapped with ``jax.vmap`` and compiled at the first reset and step. They are reset only
    on request, so all autoreset modes work.

    Args:
        reset: ``reset(key)`` of one environment: (observation, state).
        step: ``step(key, state, action)`` of one environment: (observation, state, reward,
            terminated, truncated, info). Observation, state and info may be any nesting of arrays.
        num_envs: how many environments.
        observation_space, action_space: of one environment.
    """

    def __init__(
        self,
        reset: Callable[[Any], tuple[Any, Any]],
        step: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any, Any, dict[str, Any]]],
        num_envs: int,
        observation_space: Any,
        action_space: Any,
    ):
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self._begin = jax.jit(jax.vmap(lambda key: begin(reset, key)))
        self._begin_some = jax.jit(jax.vmap(lambda chosen, *held: begin_if(reset, chosen, *held)))
        self._step = jax.jit(jax.vmap(lambda *held: advance(step, *held)))
        self._keys = make_keys(int.from_bytes(os.urandom(4), "little") + np.arange(num_envs))
        self._held: tuple[Any, Any] | None = None  # observations and states

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in all environments, or in those of ``options["reset_mask"]`` (bool).

        Args:
            seed: environment i gets ``seed + i``, or ``seed[i]`` unless that is None.
            options: nothing else is known.

        Returns:
            (observations of all environments, {})
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if options:
            raise ValueError(f"options: expected none but reset_mask, got {sorted(options)}")
        if seed is not None:
            seeds = seed + np.arange(self.num_envs) if isinstance(seed, int) else seed
            given = np.array([each is not None for each in seeds])
            keys = make_keys(np.array([each or 0 for each in seeds]))
            self._keys = jnp.where(given[:, None], keys, self._keys)
        if mask is None or self._held is None:
            self._keys, *held = self._begin(self._keys)
        else:
            self._keys, *held = self._begin_some(mask, self._keys, *self._held)
        self._held = (held[0], held[1])
        return held[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all; return (observations, rewards, terminations, truncations, infos)."""
        if self._held is None:
            raise RuntimeError("step: reset the environment first")
        result = self._step(self._keys, self._held[1], actions)
        self._keys, observations, states, rewards, terminations, truncations, infos = result
        self._held = observations, states
        return observations, rewards, terminations, truncations, infos

    def close(self) -> None:
        """Drop the states of the environments."""
        self._held = None


def make_keys(seeds: np.ndarray) -> Any:
    """Return a random key for each seed, shape ``(n, 2)``: of the old type, for all libraries."""
    return jax.vmap(jax.random.PRNGKey)(jnp.asarray(seeds % 2**32, jnp.uint32))


def begin(reset: Callable[[Any], tuple[Any, Any]], key: Any) -> tuple[Any, Any, Any]:
    """Reset one environment; return (its next key, observation, state)."""
    key, own = jax.random.split(key)
    return key, *reset(own)


def begin_if(
    reset: Callable[[Any], tuple[Any, Any]], chosen: Any, key: Any, observation: Any, state: Any
) -> tuple[Any, Any, Any]:
    """Reset one environment if it is chosen; return what `begin` returns, or what it holds."""

    def pick(new: Any, old: Any) -> Any:
        return jnp.where(chosen, new, old)

    return jax.tree.map(pick, begin(reset, key), (key, observation, state))


def advance(step: Callable[..., tuple], key: Any, state: Any, action: Any) -> tuple:
    """Step one environment; return (its next key, and what `step` returns)."""
    key, own = jax.random.split(key)
    return key, *step(own, state, action)
