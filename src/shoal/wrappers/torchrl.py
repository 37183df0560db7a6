"""TorchRL: a vector as an ``EnvBase`` with one batch dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict, TensorDictBase
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    TensorSpec,
    Unbounded,
)
from torchrl.envs import EnvBase

from shoal.wrappers.base import settle

__all__ = ["ShoalEnv"]


class ShoalEnv(EnvBase):
    """A vector as a TorchRL environment of batch size ``[num_envs]``.

    Keys are ``observation`` (flat, as the vector's; ``vector.observation_layout.view`` nests the
    tensor without a copy), ``action``, ``reward``, ``done``, ``terminated`` and ``truncated``, and
    ``action_mask`` if asked for. With several agents, what each has of its own lies under
    ``agents``, with a dimension more, as ``("agents", "observation")``; and so does ``acting``,
    which is False for rows whose agent has left or is not to move. An environment is done when it
    is over for all of them.

    Discrete actions count from 0, also where the environment's own don't. Environments are reset by
    TorchRL, where they are done.

    Args:
        vector: made by ``shoal.vectorize(..., autoreset="disabled")``, or a wrapper of
            `shoal.wrappers` around it; not a pool.
        device: of the tensors.
        action_mask: tell which actions are legal (for TorchRL's ``ActionMask``); discrete actions
            only.

    Raises:
        ValueError: a vector of another kind.
    """

    def __init__(self, vector: Any, *, device: Any = None, action_mask: bool = False):
        mode = vector.metadata["autoreset_mode"]
        if mode is not AutoresetMode.DISABLED or vector.batch_size != vector.num_envs:
            raise ValueError(
                "ShoalEnv: TorchRL resets what is done itself, so it needs vectorize(..., "
                f'autoreset="disabled") and no pool; got {mode.name.lower()}, batches of '
                f"{vector.batch_size} of {vector.num_envs}"
            )
        super().__init__(device=device, batch_size=[vector.num_envs])
        self.vector = vector
        self._masked = action_mask
        space = vector.single_action_space
        # What discrete actions of the vector count from, for each part of them.
        self._starts: Any = start_of(space)
        if isinstance(space, spaces.Dict):
            self._starts = {name: start_of(part) for name, part in space.spaces.items()}
        self._seed: int | None = None
        agents = vector.agents_per_env
        self._rows = (vector.num_envs,) if agents == 1 else (vector.num_envs, agents)
        layout = vector.observation_layout
        dtype = torch.from_numpy(layout.zeros()[None]).dtype
        observed: dict[str, Any] = {
            "observation": Unbounded((*self._rows, *layout.shape), dtype=dtype, device=device)
        }
        if agents > 1:
            observed["acting"] = Binary(shape=self._rows, dtype=torch.bool, device=device)
        if action_mask:
            if not isinstance(vector.single_action_space, (spaces.Discrete, spaces.MultiDiscrete)):
                raise ValueError("ShoalEnv: action_mask=True is for discrete actions")
            shape = (*self._rows, vector.action_layout.num_masked)
            observed["action_mask"] = Binary(shape=shape, dtype=torch.bool, device=device)
        self.observation_spec = self._grouped(observed)
        self.action_spec = self._grouped(
            {"action": spec_of(vector.single_action_space, self._rows, device)}
        )
        reward = Unbounded((*self._rows, 1), dtype=torch.float32, device=device)
        self.reward_spec = self._grouped({"reward": reward})
        flag = Categorical(2, shape=(vector.num_envs, 1), dtype=torch.bool, device=device)
        self.done_spec = Composite(
            {name: flag.clone() for name in ("done", "terminated", "truncated")},
            shape=(vector.num_envs,),
            device=device,
        )

    def _grouped(self, specs: dict[str, TensorSpec]) -> Composite:
        """Return specs of agent rows, under ``agents`` where there are several."""
        group = Composite(specs, shape=self._rows, device=self.device)
        if len(self._rows) == 1:
            return group
        return Composite({"agents": group}, shape=self._rows[:1], device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        seed, self._seed = kwargs.pop("seed", self._seed), None
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None and not mask.all():
            kwargs["options"] = {"reset_mask": mask.reshape(-1).cpu().numpy()}
        settle(self.vector)
        observations, _ = self.vector.reset(seed=seed, **kwargs)
        terminated, truncated = np.zeros((2, self.vector.num_envs), bool)
        return self._tensordict(observations, None, terminated, truncated)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        grouped = len(self._rows) == 2
        actions = tensordict.get(("agents", "action") if grouped else "action")
        if isinstance(self._starts, dict):
            rows: Any = {
                name: self._action_rows(actions.get(name), start)
                for name, start in self._starts.items()
            }
        else:
            rows = self._action_rows(actions, self._starts)
        observations, rewards, terminations, truncations, _ = self.vector.step(rows)
        if grouped:
            over = ~self.vector.acting.reshape(self._rows).any(axis=1)
            truncated = over & truncations.reshape(self._rows).any(axis=1)
            terminated = over & ~truncated
        else:
            terminated, truncated = terminations, truncations
        return self._tensordict(observations, rewards, terminated, truncated)

    def _action_rows(self, actions: torch.Tensor, start: Any) -> np.ndarray:
        """Return the vector's actions: one axis for the agent rows, and the vector's numbers."""
        if len(self._rows) == 2:
            actions = actions.flatten(0, 1)
        rows = actions.numpy(force=True)
        return rows if start is None else rows + start

    def _tensordict(
        self,
        observations: np.ndarray,
        rewards: np.ndarray | None,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> TensorDict:
        grouped = len(self._rows) == 2
        # Copies of what lies in the vector's memory: a rollout keeps every step.
        rows: dict[str, Any] = {"observation": observations.copy()}
        if self._masked:
            rows["action_mask"] = self.vector.action_masks.copy()
        if rewards is not None:
            rows["reward"] = rewards.astype(np.float32)[:, None]
        if grouped:
            rows["acting"] = self.vector.acting.copy()
        found: dict[str, Any] = {name: torch.from_numpy(array) for name, array in rows.items()}
        if grouped:
            found = {name: tensor.unflatten(0, self._rows) for name, tensor in found.items()}
            found = {"agents": TensorDict(found, batch_size=self._rows)}
        flags = {
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        for name, flag in flags.items():
            found[name] = torch.from_numpy(flag[:, None])
        result = TensorDict(found, batch_size=self._rows[:1])
        return result if self.device is None else result.to(self.device)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the vector."""
        super().close(raise_if_closed=raise_if_closed)
        self.vector.close()


def start_of(space: spaces.Space) -> Any:
    """Return what discrete actions count from; None if that is 0."""
    start = getattr(space, "start", 0)
    return start if np.any(start) else None


def spec_of(space: spaces.Space, rows: tuple[int, ...], device: Any) -> TensorSpec:
    """Return TorchRL's spec of a batch of flat actions."""
    if isinstance(space, spaces.Dict):
        parts = {name: spec_of(part, rows, device) for name, part in space.spaces.items()}
        return Composite(parts, shape=rows, device=device)
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), shape=rows, dtype=torch.int64, device=device)
    if isinstance(space, spaces.MultiDiscrete):
        counts = space.nvec.reshape(-1).tolist()
        return MultiCategorical(
            counts, shape=(*rows, len(counts)), dtype=torch.int64, device=device
        )
    if isinstance(space, spaces.MultiBinary):
        return Binary(shape=(*rows, *space.shape), dtype=torch.int8, device=device)
    assert isinstance(space, spaces.Box)
    low, high = (torch.from_numpy(b).expand(*rows, *space.shape) for b in (space.low, space.high))
    if low.isinf().all() and high.isinf().all():  # as TorchRL's own wrapper has it
        return Unbounded(shape=(*rows, *space.shape), dtype=low.dtype, device=device)
    if low.dtype.is_floating_point:  # TorchRL samples between bounds, so both must be finite
        largest = torch.finfo(low.dtype).max / 2
        low, high = low.clamp(min=-largest), high.clamp(max=largest)
    return Bounded(low, high, shape=(*rows, *space.shape), dtype=low.dtype, device=device)
