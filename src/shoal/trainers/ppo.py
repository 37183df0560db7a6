"""Proximal policy optimisation (Schulman et al. 2017), from top to bottom in one file.

    collect: the policy acts in a vector of environments until the rollout is full
    learn:   some passes over the rollout; each computes advantages from fresh values, and steps
             the optimiser once for every minibatch
    report:  one dict of metrics

How a rollout lies in memory. It has segments of `horizon` slots, and a row of the vector (an agent)
fills one segment after the other. A slot holds what the policy saw, what it did, and what came of
it: the reward and the flags that arrive with the row's next observation, which is the next slot's.
The observation after a segment's last slot is kept too, in slot `horizon`, so the value of what
follows is at hand everywhere. These are the invariants:

- Vectors reset in NEXT_STEP mode, so the final observation of an episode is an ordinary slot. It is
  invalid, for its action does nothing; its value is what a truncated episode is worth from there.
- ``valid`` is False for it, for what a restarted worker lost, and for whatever was not filled. Such
  slots are in no loss, no statistic, no normalisation and no return.
- ``starts`` says that a slot's observation begins an episode, which empties the recurrent state.
- Rows without an agent, and agents that wait for their turn, take no slot at all.
- Everything in a rollout was done by the policy that learns from it. Actions still under way when
  the rollout is full (pools) are not learnt from.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shoal.errors import CheckpointError, ConfigError, NotFiniteError
from shoal.registry.names import load_named
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.rows.spec import where
from shoal.trainers.advantage import advantages
from shoal.trainers.config import Config, from_dict, to_dict
from shoal.trainers.distributions import Actions, Distribution
from shoal.trainers.policies import DefaultPolicy, Recurrent
from shoal.vectorization import vectorize
from shoal.wrappers.base import load_state_dicts, state_dicts
from shoal.wrappers.rewards import ClipReward, NormalizeReward

__all__ = ["Result", "act", "load_policy", "make_policy", "make_vector", "train"]

Metrics = dict[str, float]


class Result(NamedTuple):
    """What training leaves: the policy, and the metrics of the last update."""

    policy: Any
    metrics: Metrics


# -- the rollout -----------------------------------------------------------------------------------


@dataclass
class Rollout:
    """Segments of experience; see the head of this file.

    All have shape ``(segments, horizon + 1, ...)`` but `states`. Only the first `used` segments of
    the last rollout hold anything. The first group lies on the policy's device, the second is NumPy
    (written row by row) until `to_device`.
    """

    observations: Tensor  # uint8: the bytes of each row
    discrete: Tensor  # int64: see Actions
    continuous: Tensor  # float32
    masks: Tensor  # bool: which choices were legal
    log_probabilities: Tensor  # float32: of the action, by the policy that took it
    values: Tensor  # float32: of the observation, by that policy
    states: Tensor  # float32 (2, segments, features): recurrent state before the first slot

    rewards: Any  # float32
    terminated: Any  # bool
    truncated: Any  # bool
    valid: Any  # bool
    starts: Any  # bool
    used: int = 0

    @property
    def horizon(self) -> int:
        """Slots of a segment that are learnt from."""
        return self.values.shape[1] - 1

    def to_device(self) -> Rollout:
        """The same with the second group as tensors on the device, and `used` segments only."""
        n, device = self.used, self.values.device

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array[:n]).to(device)

        return Rollout(
            observations=self.observations[:n],
            discrete=self.discrete[:n],
            continuous=self.continuous[:n],
            masks=self.masks[:n],
            log_probabilities=self.log_probabilities[:n],
            values=self.values[:n],
            states=self.states[:, :n],
            rewards=tensor(self.rewards),
            terminated=tensor(self.terminated),
            truncated=tensor(self.truncated),
            valid=tensor(self.valid),
            starts=tensor(self.starts),
            used=n,
        )


def new_rollout(
    segments: int,
    horizon: int,
    row_bytes: int,
    kind: Distribution,
    num_state: int,
    device: torch.device,
) -> Rollout:
    """Room for a rollout, of zeros, so that what is never filled is at least finite."""
    shape = (segments, horizon + 1)

    def zeros(dtype: torch.dtype, *columns: int) -> Tensor:
        return torch.zeros(*shape, *columns, dtype=dtype, device=device)

    return Rollout(
        observations=zeros(torch.uint8, row_bytes),
        discrete=zeros(torch.int64, kind.num_discrete),
        continuous=zeros(torch.float32, kind.num_continuous),
        masks=zeros(torch.bool, kind.layout.num_masked),
        log_probabilities=zeros(torch.float32),
        values=zeros(torch.float32),
        states=torch.zeros(2, segments, num_state, device=device),
        rewards=np.zeros(shape, np.float32),
        terminated=np.zeros(shape, bool),
        truncated=np.zeros(shape, bool),
        valid=np.zeros(shape, bool),
        starts=np.zeros(shape, bool),
    )


class Batch(NamedTuple):
    """What the policy needs to know of one batch from the vector; row i is agent ``rows[i]``.

    Rows that hold nothing (no agent, or one that waits for its turn) have been left out.
    """

    rows: np.ndarray  # int64
    env_ids: np.ndarray | None  # whom to answer: None for all
    places: np.ndarray  # int64: where the rows stand among all rows of those environments
    num_rows: int  # of those environments, those left out included
    observations: np.ndarray  # uint8 (n, bytes of a row); a view of shared memory
    masks: np.ndarray  # bool (n, num_masked): legal choices
    starts: np.ndarray  # bool: the observation begins an episode


class Collector:
    """Steps a vector with a policy, and writes down what happens.

    `episodes` counts those that ended. `shares` has the seconds spent on the ``environment``, on
    ``copy`` (to and from the device and the rollout) and in the ``policy``.
    """

    def __init__(self, vector: Any, kind: Distribution, config: Config, policy: Any, device: Any):
        self.vector, self.kind, self.config, self.device = vector, kind, config, device
        n = vector.num_rows
        self.layout: Layout = vector.observation_layout
        horizon = config.horizon or default_horizon(n * world_size())
        self.capacity = n * horizon
        # Rows that run ahead of others take more than one segment, and each may leave one unfilled.
        even = vector.batch_size == vector.num_envs and vector.agents_per_env == 1
        num_state = policy.num_features if isinstance(policy, Recurrent) else 0
        self.rollout = new_rollout(
            n if even else 2 * n,
            horizon,
            self.layout.nbytes,
            kind,
            num_state,
            device,
        )
        self.owners = np.zeros(len(self.rollout.values), np.int64)  # the row of each segment
        self.segment = np.full(n, -1)  # that each row is filling; -1: none
        self.position = np.zeros(n, np.int64)  # of its open slot
        self.filled = 0  # slots of this rollout that have been closed
        self.states = torch.zeros(2, n, num_state, device=device)
        self.pending: Batch | None = None  # has been received, not answered
        self.begun = np.zeros(n, bool)  # rows that have been received at all
        self.generator = torch.Generator(device)
        self.generator.manual_seed(config.seed)
        self.shares = dict.fromkeys(("environment", "copy", "policy"), 0.0)
        self.episodes = 0

    # -- from the vector ---------------------------------------------------------------------------

    def receive(self) -> Batch:
        """The next batch. What it says about earlier actions goes into their slots."""
        begun = time.perf_counter()
        vector = self.vector
        batch = vector.recv()
        received = time.perf_counter()
        self.shares["environment"] += received - begun
        acting, masks = vector.acting, batch.masks
        whole = vector.batch_size == vector.num_envs
        here = acting | masks
        places = np.flatnonzero(here)
        select: Any = slice(None) if len(places) == len(here) else places
        rows = batch.agent_ids[select]
        masks = masks[select] & self.begun[rows]  # what a reset returns ends no action
        self.begun[rows] = True

        open_slots = self.segment[rows] >= 0
        closing: Any = slice(None) if open_slots.all() else open_slots
        segment, position = self.segment[rows[closing]], self.position[rows[closing]]
        into, done = self.rollout, masks[closing]
        into.rewards[segment, position] = batch.rewards[select][closing] * done
        into.terminated[segment, position] = batch.terminations[select][closing] & done
        into.truncated[segment, position] = batch.truncations[select][closing] & done
        into.valid[segment, position] = done
        self.position[rows[closing]] += 1
        self.filled += len(segment)

        observations = np.ascontiguousarray(batch.observations).reshape(len(here), -1)
        made = Batch(
            rows=rows,
            env_ids=None if whole else vector.env_ids,
            places=places,
            num_rows=len(here),
            observations=observations.view(np.uint8)[select],
            masks=vector.action_masks[select],
            starts=~masks,
        )
        self.shares["copy"] += time.perf_counter() - received
        return made

    # -- to the vector -----------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, batch: Batch, policy: Any, last: bool = False) -> None:
        """Let the policy see a batch, write it down, and send its actions.

        Args:
            last: the rollout is full: only note what the observations are worth.
        """
        begun = time.perf_counter()
        rows, into, device = batch.rows, self.rollout, self.device
        if not len(rows):
            if not last:
                self.send(batch, self.nothing(0))
            return
        observations = torch.from_numpy(batch.observations).to(device)
        masks = torch.from_numpy(batch.masks).to(device)
        continuing = np.flatnonzero(self.segment[rows] >= 0)
        after = self.segment[rows[continuing]], self.position[rows[continuing]]
        into.observations[after] = observations[continuing]
        if not last:
            self.open_slots(rows)
            slots = self.segment[rows], self.position[rows]
            into.starts[slots] = batch.starts
            into.observations[slots] = observations
            into.masks[slots] = masks
        copied = time.perf_counter()

        starts = torch.from_numpy(batch.starts).to(device)
        state = self.states[:, rows] * ~starts[:, None]
        if not last:
            fresh = np.flatnonzero(slots[1] == 0)
            into.states[:, slots[0][fresh]] = state[:, fresh]
        seen = typed(observations, self.layout)
        with autocast(self.config, device):
            parameters, values, state = forward_step(policy, seen, state)
        check_outputs(parameters, values, policy, batch, self)
        into.values[after] = values[continuing]
        if not last:
            actions, log_probabilities = self.kind.sample(parameters, masks, self.generator)
            self.states[:, rows] = state
            into.values[slots] = values
            into.log_probabilities[slots] = log_probabilities
            into.discrete[slots] = actions.discrete
            into.continuous[slots] = actions.continuous
        acted = time.perf_counter()
        self.shares["copy"] += copied - begun
        self.shares["policy"] += acted - copied
        if not last:
            self.send(batch, self.kind.to_env(actions))
            self.shares["environment"] += time.perf_counter() - acted

    def open_slots(self, rows: np.ndarray) -> None:
        """Give each of these rows a slot to write to."""
        needy = rows[(self.segment[rows] < 0) | (self.position[rows] == self.rollout.horizon)]
        self.segment[needy] = self.rollout.used + np.arange(len(needy))
        self.owners[self.segment[needy]] = needy
        self.position[needy] = 0
        self.rollout.used += len(needy)

    def send(self, batch: Batch, actions: Any) -> None:
        """Send the actions of a batch's rows; rows that were left out do nothing."""
        if len(batch.rows) < batch.num_rows:
            every = self.nothing(batch.num_rows)
            if isinstance(every, dict):
                for key, part in actions.items():
                    every[key][batch.places] = part
            else:
                every[batch.places] = actions
            actions = every
        self.vector.send(actions, batch.env_ids)

    def nothing(self, count: int) -> Any:
        """Actions of so many rows whose actions are not used."""
        kind = self.kind
        parts = {}
        if kind.num_discrete:
            parts["discrete"] = np.tile(kind.low, (count, 1))
        if kind.num_continuous:
            parts["continuous"] = np.clip(np.zeros((count, kind.num_continuous)), *kind.bounds)
        return kind.rows(parts)

    # -- a rollout ---------------------------------------------------------------------------------

    def collect(self, policy: Any) -> Rollout:
        """Fill the rollout, and return it."""
        self.segment[:] = -1
        self.filled = self.rollout.used = 0
        for array in (self.rollout.valid, self.rollout.starts):
            array[:] = False
        if self.pending is None:  # at the very first, or where environments could not be saved
            self.vector.async_reset(seed=self.config.seed + self.episodes)
            self.pending = self.receive()
        self.answer(self.pending, policy)
        while True:
            batch = self.receive()
            if self.filled >= self.capacity:
                break
            self.answer(batch, policy)
        self.answer(batch, policy, last=True)
        self.pending = batch
        return self.rollout.to_device()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly: only between rollouts."""
        vector = self.vector
        whole = vector.batch_size == vector.num_envs  # else some environments are under way
        pending = self.pending
        try:
            environments = vector.get_state() if whole and world_size() == 1 else None
        except Exception:  # they can't be saved; the run will go on with a reset
            environments = None
        return {
            "environments": environments,
            "pending": {
                name: value if value is None else np.array(value)  # what is not a view stays
                for name, value in (pending._asdict() if pending is not None else {}).items()
            },
            "states": self.states.to("cpu", copy=True),
            "wrappers": state_dicts(vector),
            "generator": self.generator.get_state(),
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore_generator(self.generator, state["generator"])
        self.episodes = state["episodes"]
        load_state_dicts(self.vector, state["wrappers"])
        if state["environments"] is not None:
            self.vector.set_state(state["environments"])
            self.begun[:] = True
            self.states = state["states"].to(self.device)
            self.pending = Batch(**state["pending"])


# -- the policy ------------------------------------------------------------------------------------


def default_horizon(num_rows: int) -> int:
    """The horizon of a config that names none.

    With many agents a rollout of 128 steps each would be so large that a run of usual length has
    only a few updates.
    """
    return int(np.clip(16_384 // num_rows, 8, 128))


def typed(rows: Tensor, layout: Layout) -> Tensor:
    """Rows of bytes ``(n, nbytes)`` as the policy sees them: ``(n, *layout.shape)``."""
    return rows.view(getattr(torch, layout.dtype.name)).reshape(len(rows), *layout.shape)


def make_policy(config: Config, observation_layout: Layout, action_layout: ActionLayout) -> Any:
    """The policy that a config asks for: the default one or the user's, recurrent or not.

    Raises:
        ConfigError: it lacks what a policy must have.
    """
    make = DefaultPolicy if config.policy == "default" else load_named(config.policy)
    policy: Any = make(observation_layout, action_layout, config)
    for name in ("encode", "decode", "num_features"):
        if not hasattr(policy, name):
            raise ConfigError(f"policy: {config.policy} has no {name}; see shoal.trainers.policies")
    if config.normalize_observations and getattr(policy, "normalizer", None) is None:
        raise ConfigError(f"normalize_observations: {config.policy} has no attribute normalizer")
    return Recurrent(policy) if config.recurrent else policy


def forward_step(policy: Any, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every row: parameters ``(n, p)``, values ``(n,)``, and the state after it."""
    features = policy.encode(observations)
    if isinstance(policy, Recurrent):
        begun = torch.zeros(len(features), 1, dtype=torch.bool, device=features.device)
        features, state = policy.recur(features[:, None], state, begun)
        features = features[:, 0]
    parameters, values = policy.decode(features)
    return parameters.float(), values.float(), state.float()


def forward_segments(
    policy: Any, rollout: Rollout, layout: Layout, segments: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The first `steps` slots of whole segments: parameters ``(n, steps, p)``, values."""
    flat = rollout.observations[segments, :steps].flatten(0, 1)
    features = policy.encode(typed(flat, layout))
    if isinstance(policy, Recurrent):
        features = features.reshape(len(segments), steps, -1)
        state = rollout.states[:, segments].contiguous()
        features, _ = policy.recur(features, state, rollout.starts[segments, :steps])
        features = features.flatten(0, 1)
    parameters, values = policy.decode(features)
    shape = (len(segments), steps)
    return parameters.float().reshape(*shape, -1), values.float().reshape(shape)


def autocast(config: Config, device: torch.device) -> Any:
    """The arithmetic that a config wants, as a context."""
    if config.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def load_policy(state: dict[str, Any], device: str = "cpu") -> Any:
    """The policy of a checkpoint, ready to act: see `act`."""
    config = from_dict(state["config"])
    observation_layout = Layout.from_json(state["observation_layout"], "obs")
    action_layout = ActionLayout(Layout.from_json(state["action_layout"], "action"))
    policy = make_policy(config, observation_layout, action_layout)
    load_weights(policy, state["policy"])
    policy.observation_layout = observation_layout
    policy.distribution = Distribution(action_layout, config.squash)
    return policy.to(device).eval()


def load_weights(policy: Any, weights: dict[str, Tensor]) -> None:
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's weights don't fit this policy: {error}") from None


@torch.no_grad()
def act(
    policy: Any,
    observations: np.ndarray,
    state: Tensor | None = None,
    action_masks: np.ndarray | None = None,
    starts: np.ndarray | None = None,
    greedy: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Any, Tensor]:
    """What a policy from `load_policy` does.

    Args:
        observations: rows as the vector serves them, ``(n, *layout.shape)``.
        state: what the last call returned; None at the beginning.
        action_masks: bool ``(n, num_masked)``; default: everything is legal.
        starts: bool ``(n,)``: rows whose episode begins, whose state is emptied.
        greedy: the likeliest action; else a draw.

    Returns:
        (actions for `Vector.send`, state for the next call).
    """
    device = next(policy.parameters()).device
    n = len(observations)
    if state is None:
        size = policy.num_features if isinstance(policy, Recurrent) else 0
        state = torch.zeros(2, n, size, device=device)
    if starts is not None:
        state = state * ~torch.from_numpy(starts).to(device)[:, None]
    rows = torch.from_numpy(np.ascontiguousarray(observations).reshape(n, -1).view(np.uint8))
    seen = typed(rows.to(device), policy.observation_layout)
    parameters, _, state = forward_step(policy, seen, state)
    masks = None if action_masks is None else torch.from_numpy(action_masks).to(device)
    actions, _ = policy.distribution.sample(parameters, masks, generator, greedy)
    return policy.distribution.to_env(actions), state


# -- numbers that are none -------------------------------------------------------------------------


def check_outputs(
    parameters: Tensor, values: Tensor, policy: Any, batch: Batch, collector: Collector
) -> None:
    """Raise NotFiniteError, before anything is done with them, if the policy's numbers are none."""
    if math.isfinite(float(parameters.sum() + values.sum())):
        return
    check_observations(torch.from_numpy(batch.observations), batch.rows, collector)
    for name, parameter in policy.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NotFiniteError(f"the policy's parameter {name} is not finite")
    bad = (~torch.isfinite(parameters).all(1) | ~torch.isfinite(values)).nonzero()
    if len(bad):
        raise NotFiniteError(
            "the policy put out a number that is not finite for "
            f"{agent_name(int(batch.rows[int(bad[0])]), collector)}, though its observation and "
            "its parameters are finite: is a magnitude too great?"
        )


def check_observations(rows: Tensor, agents: np.ndarray, collector: Collector) -> None:
    """Raise NotFiniteError if NaN or infinity is among rows of bytes, each of that agent."""
    layout = collector.layout
    for leaf, values in zip(layout.leaves, layout.view_leaves(typed(rows, layout)).values()):
        if leaf.dtype[:5] == "float" or layout.form == "float32":
            values = values.reshape(len(rows), -1)
            bad = ~torch.isfinite(values)
            if bad.any():
                row, column = bad.nonzero()[0].tolist()
                raise NotFiniteError(
                    f"observation {where('obs', leaf.path)} of "
                    f"{agent_name(int(agents[row]), collector)} is {float(values[row, column])}"
                )


def check_rollout(rollout: Rollout, collector: Collector) -> None:
    """Raise NotFiniteError for an observation or a reward that is NaN or infinite."""
    bad = rollout.valid & ~torch.isfinite(rollout.rewards)
    if bad.any():
        segment, slot = bad.nonzero()[0].tolist()
        agent = agent_name(int(collector.owners[segment]), collector)
        raise NotFiniteError(f"a reward of {agent} is {float(rollout.rewards[segment, slot])}")
    agents = np.repeat(collector.owners[: rollout.used], rollout.values.shape[1])
    check_observations(rollout.observations.flatten(0, 1), agents, collector)


def agent_name(row: int, collector: Collector) -> str:
    """What error messages call a row."""
    each = collector.vector.agents_per_env
    agent = f", agent {collector.vector.agents[row % each]}" if each > 1 else ""
    return f"environment {row // each}{agent}"


# -- learning --------------------------------------------------------------------------------------


def losses(
    parameters: Tensor,
    values: Tensor,
    actions: Actions,
    masks: Tensor,
    old_log_probabilities: Tensor,
    old_values: Tensor,
    advantage: Tensor,
    returns: Tensor,
    kind: Distribution,
    config: Config,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The terms of PPO's objective, summed over valid slots: divide by their count.

    Schulman et al. 2017, equations 7 and 9; `advantage` is normalised already. All arguments are
    flat, one entry for each valid slot.

    Returns:
        ``policy``, ``value``, ``entropy`` (a bonus, in nats), ``kl`` (estimate k3 of Schulman 2020,
        "Approximating KL divergence"), ``clipped`` (how many), and ``ratio`` (not summed).
    """
    log_probabilities, entropy = kind.evaluate(parameters, actions, masks, generator)
    log_ratio = log_probabilities - old_log_probabilities
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).sum()
    error = (values - returns) ** 2
    if config.value_clip is not None:
        near = old_values + (values - old_values).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (near - returns) ** 2)
    return {
        "policy": policy_loss,
        "value": 0.5 * error.sum(),
        "entropy": entropy.sum(),
        "kl": ((ratio - 1) - log_ratio).detach().sum(),
        "clipped": ((ratio - 1).abs() > config.clip).sum(),
        "ratio": ratio.detach(),
    }


class Learner:
    """The optimisers of a policy, and the passes over a rollout."""

    def __init__(
        self, policy: Any, kind: Distribution, layout: Layout, config: Config, device: Any
    ):
        self.policy, self.kind, self.layout, self.config = policy, kind, layout, config
        self.device = device
        self.optimizers = make_optimizers(policy, config)
        self.shuffler = torch.Generator()  # on the CPU: the same minibatches on every device
        self.shuffler.manual_seed(config.seed + 1)
        self.generator = torch.Generator(device)
        self.generator.manual_seed(config.seed + 2)

    def set_learning_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def learn(self, rollout: Rollout) -> Metrics:
        """All passes over one rollout.

        Returns:
            The metrics of losses, gradients and advantages: means over minibatches, but for
            ``ratio/first_error`` (first minibatch) and ``explained_variance`` (before learning).
        """
        config, policy = self.config, self.policy
        horizon = rollout.horizon
        valid = rollout.valid[:, :horizon]
        totals: dict[str, float] = {}
        num_minibatches = 0
        first: Metrics = {}
        ratios = None
        for epoch in range(config.update_epochs):
            if epoch:
                values, ratios = self.refresh(rollout)
            else:
                values = rollout.values
                if config.vtrace_rho is not None:
                    ratios = torch.ones_like(rollout.rewards[:, :horizon])
            advantage = advantages(
                rollout.rewards[:, :horizon],
                values,
                rollout.terminated[:, :horizon],
                rollout.truncated[:, :horizon],
                valid,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda,
                ratios=ratios,
                rho=config.vtrace_rho,
                c=config.vtrace_c,
            )
            returns = advantage + values[:, :horizon]
            if not epoch:
                first = self.describe(advantage[valid], returns[valid], values[:, :horizon][valid])
                first["ratio/first_error"] = 0.0  # where nothing is valid
            kl = 0.0
            for minibatch in self.minibatches(valid):
                step, ratio_error = self.step(rollout, minibatch, advantage, returns)
                if not num_minibatches:
                    first["ratio/first_error"] = float(ratio_error)
                for name, number in step.items():
                    totals[name] = totals.get(name, 0.0) + number
                num_minibatches += 1
                kl = step["kl"]
            if config.target_kl is not None and kl > config.target_kl:
                break
        if config.normalize_observations:
            inner = policy.policy if isinstance(policy, Recurrent) else policy
            seen = typed(rollout.observations[:, :horizon][valid], self.layout)
            inner.normalizer.update(inner.numbers(seen))
        means = {name: total / max(1, num_minibatches) for name, total in totals.items()}
        return {**means, **first}

    def describe(self, advantage: Tensor, returns: Tensor, values: Tensor) -> Metrics:
        """How well the values foresaw the returns, and how large the advantages are."""
        count = all_sum(torch.tensor(float(len(returns)), device=returns.device)).clamp_min(1)

        def mean(x: Tensor) -> Tensor:
            return all_sum(x.double().sum()) / count

        spread = mean((returns - mean(returns)) ** 2)
        missed = returns - values
        left = mean((missed - mean(missed)) ** 2)
        explained = float(1 - left / spread) if spread > 1e-12 else float("nan")
        deviation = mean((advantage - mean(advantage)) ** 2).sqrt()
        return {
            "explained_variance": explained,
            "value/mean": float(mean(values)),
            "advantage/std": float(deviation),
        }

    def minibatches(self, valid: Tensor) -> Iterator[Tensor]:
        """A random partition: of segments for recurrent policies, else of single valid slots."""
        if isinstance(self.policy, Recurrent):
            items = valid.any(1).nonzero().flatten()
        else:
            items = valid.flatten().nonzero().flatten()
        order = torch.randperm(len(items), generator=self.shuffler).to(items.device)
        for part in torch.tensor_split(items[order], self.config.num_minibatches):
            if len(part) or world_size() > 1:  # every process takes part in every step
                yield part

    @torch.no_grad()
    def refresh(self, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
        """Values of all slots and ratios of their actions, by the policy as it is now."""
        config, horizon = self.config, rollout.horizon
        values = torch.zeros_like(rollout.values)
        ratios = torch.ones_like(rollout.values[:, :horizon])
        chunk = max(1, 8192 // (horizon + 1))
        for part in torch.arange(rollout.used, device=self.device).split(chunk):
            with autocast(config, self.device):
                parameters, fresh = forward_segments(
                    self.policy, rollout, self.layout, part, horizon + 1
                )
            values[part] = fresh
            if config.vtrace_rho is not None:
                log_probabilities, _ = self.kind.evaluate(
                    parameters[:, :horizon].flatten(0, 1),
                    Actions(
                        rollout.discrete[part, :horizon].flatten(0, 1),
                        rollout.continuous[part, :horizon].flatten(0, 1),
                    ),
                    rollout.masks[part, :horizon].flatten(0, 1),
                    self.generator,
                )
                old = rollout.log_probabilities[part, :horizon]
                ratios[part] = (log_probabilities.reshape(old.shape) - old).exp()
        return values, ratios if config.vtrace_rho is not None else None

    def step(
        self, rollout: Rollout, minibatch: Tensor, advantage: Tensor, returns: Tensor
    ) -> tuple[dict[str, float], Tensor]:
        """One step of the optimiser on one minibatch: segments, or slots (flat, horizon wide).

        Returns:
            Its metrics, and the greatest distance of a ratio from 1 (left on the device).
        """
        config, horizon = self.config, rollout.horizon
        recurrent = isinstance(self.policy, Recurrent)
        valid = rollout.valid[:, :horizon]
        chosen = (
            advantage[minibatch][valid[minibatch]] if recurrent else advantage.flatten()[minibatch]
        )
        count = all_sum(torch.tensor(float(len(chosen)), device=self.device))
        center = torch.zeros((), device=self.device)
        scale = torch.ones_like(center)
        if config.normalize_advantages:
            mean = all_sum(chosen.sum()) / count
            variance = all_sum(((chosen - mean) ** 2).sum()) / (count - 1).clamp_min(1)
            center, scale = mean, 1 / (variance.sqrt() + 1e-8)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        ratio_error = torch.zeros((), device=self.device)
        for part in torch.tensor_split(minibatch, config.accumulate):
            if not len(part):
                continue
            with autocast(config, self.device):
                if recurrent:
                    parameters, values = forward_segments(
                        self.policy, rollout, self.layout, part, horizon
                    )
                    inside = valid[part]
                    parameters, values = parameters[inside], values[inside]
                    segment, slot = inside.nonzero(as_tuple=True)
                    segment = part[segment]
                else:
                    segment, slot = part // horizon, part % horizon
                    seen = typed(rollout.observations[segment, slot], self.layout)
                    parameters, values = self.policy.decode(self.policy.encode(seen))
            at = segment, slot
            terms = losses(
                parameters.float(),
                values.float(),
                Actions(rollout.discrete[at], rollout.continuous[at]),
                rollout.masks[at],
                rollout.log_probabilities[at],
                rollout.values[at],
                (advantage[at] - center) * scale,
                returns[at],
                self.kind,
                config,
                self.generator,
            )
            ratio_error = torch.maximum(ratio_error, (terms.pop("ratio") - 1).abs().max())
            loss = (
                terms["policy"]
                + config.value_coefficient * terms["value"]
                - config.entropy_coefficient * terms["entropy"]
            ) / count
            if not torch.isfinite(loss):
                name = next(k for k, term in terms.items() if not torch.isfinite(term))
                raise NotFiniteError(f"the {name} loss is {float(terms[name])}")
            loss.backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
        norm = self.clip_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        names = ("policy", "value", "entropy", "kl", "clipped")
        means = all_sum(
            torch.stack(
                [torch.as_tensor(sums.get(n, 0.0), device=self.device).double() for n in names]
            )
        )
        policy_loss, value_loss, entropy, kl, clipped = (means / count).tolist()
        return {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "loss/entropy": entropy,
            "loss/total": policy_loss
            + config.value_coefficient * value_loss
            - config.entropy_coefficient * entropy,
            "kl": kl,
            "clip_fraction": clipped,
            "gradient_norm": norm,
        }, ratio_error

    def clip_gradients(self) -> float:
        """Add up the gradients of all processes, and scale them to the greatest norm allowed."""
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        if world_size() > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                all_sum(parameter.grad)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm))
        if not math.isfinite(norm):
            for name, parameter in self.policy.named_parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    raise NotFiniteError(f"the gradient of {name} is not finite")
            raise NotFiniteError(f"the gradient's norm is {norm}")
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "shuffler": self.shuffler.get_state(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.shuffler.set_state(state["shuffler"])
        restore_generator(self.generator, state["generator"])


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Set a generator's state; one saved on another kind of device seeds a new stream instead."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        digest = hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest()
        generator.manual_seed(int.from_bytes(digest))


def make_optimizers(policy: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Adam for everything; or Muon for the matrices of hidden layers, and Adam for the rest."""
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    ends = {id(m.weight) for m in policy.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            continue
        head = parameter.ndim == 2 and (min(parameter.shape) == 1 or ".head." in f".{name}")
        hidden = parameter.ndim == 2 and not head and id(parameter) not in ends
        (muon if config.optimizer == "muon" and hidden else adam).append(parameter)
    made: list[torch.optim.Optimizer] = []
    if muon:
        # Updates as large as Adam's, so that one learning rate serves both.
        made.append(
            torch.optim.Muon(
                muon,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if adam:
        made.append(
            torch.optim.AdamW(
                adam,
                lr=config.learning_rate,
                eps=config.adam_eps,
                weight_decay=config.weight_decay,
                fused=True,
            )
        )
    return made


def annealed(config: Config, steps: int) -> float:
    """The learning rate after so many steps."""
    done = min(1.0, steps / config.total_steps)
    if config.anneal == "linear":
        return config.learning_rate * (1 - done)
    if config.anneal == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate


# -- several processes (torchrun) ------------------------------------------------------------------


def world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """The sum over all processes, in place; just `x` where there is one."""
    if world_size() > 1:
        torch.distributed.all_reduce(x)
    return x


def any_stops(stop: Callable[[], bool] | None, device: torch.device) -> bool:
    """Whether any process is told to stop: then all do, or the others would wait for it."""
    told = bool(stop and stop())
    return bool(all_sum(torch.tensor(float(told), device=device)))


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started: (rank, how many); (0, 1) without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or torch.distributed.is_initialized():
        yield (torch.distributed.get_rank(), world_size()) if size > 1 else (0, 1)
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield torch.distributed.get_rank(), size
        torch.distributed.barrier()  # nobody leaves while another still needs it
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def current_device(device: torch.device) -> Iterator[None]:
    """Make a CUDA device the current one: NCCL and Triton work on that one."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_device()
    torch.cuda.set_device(device)
    try:
        yield
    finally:
        torch.cuda.set_device(before)


def shared_config(config: Config, rank: int, size: int) -> Config:
    """One process's part of a run: its share of the environments, and seeds of its own.

    Raises:
        ConfigError: the environments can't be shared evenly.
    """
    if config.num_envs % size:
        raise ConfigError(f"num_envs: {config.num_envs} can't be shared by {size} processes")
    each = config.num_envs // size
    batch = None if config.batch_size is None else max(1, config.batch_size // size)
    return replace(config, num_envs=each, batch_size=batch, seed=config.seed + rank * each)


# -- training --------------------------------------------------------------------------------------


def make_vector(config: Config) -> Any:
    """The environments of a config."""
    pool = config.batch_size not in (None, config.num_envs)
    return vectorize(
        config.env,
        config.num_envs,
        backend=("pool" if pool else "serial" if config.num_workers == 0 else "auto"),
        num_workers=config.num_workers or None,
        batch_size=config.batch_size if pool else None,
        autoreset="next_step",
        seed=config.seed,
        max_len=config.max_len,
        max_agents=config.max_agents,
        pad=config.pad,
        env_kwargs=config.env_kwargs,
    )


def with_reward_options(vector: Any, config: Config) -> Any:
    """The vector with rewards as the config wants them."""
    if config.normalize_rewards:
        vector = NormalizeReward(vector, config.gamma)
    if config.reward_clip is not None:
        vector = ClipReward(vector, -config.reward_clip, config.reward_clip)
    return vector


def choose_device(config: Config) -> torch.device:
    """The device of a config; under torchrun, each process takes the GPU of its local rank."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} was asked for, but torch finds no CUDA device")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return torch.device(name)


@contextlib.contextmanager
def torch_settings(config: Config) -> Iterator[None]:
    """torch's process-wide settings as the config wants them, and afterwards as they were."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.set_num_threads(config.torch_threads)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def train(
    config: Config,
    *,
    policy: Any = None,
    vector: Any = None,
    checkpoint: dict[str, Any] | None = None,
    report: Callable[[Metrics], None] | None = None,
    save: Callable[[dict[str, Any], Metrics], None] | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a policy.

    Args:
        config: see `Config`. Under torchrun it is the same in every process, and says what all of
            them do together.
        policy: a module to train instead of the one that the config names.
        vector: environments to train on instead of those that the config names (NEXT_STEP
            autoreset); the caller closes it.
        checkpoint: what an earlier run gave to `save`: goes on from there. On the CPU, with
            environments that can be saved, the run is the same bit for bit as one that never
            stopped. Under torchrun only the first process's environments are saved; the others
            begin theirs anew.
        report: gets the metrics after every update; see docs/metrics.md.
        save: gets the state of everything every ``checkpoint_interval`` updates and at the end.
        watch: gets up to 256 observation rows of every rollout.
        stop: asked before every update; True ends the run as if it were complete.

    Returns:
        The policy and the last metrics.

    Raises:
        NotFiniteError: NaN or infinity, named where it first appeared.
        CheckpointError: the checkpoint belongs to other spaces or another policy.
        Exception: whatever an environment raised.
    """
    device = choose_device(config)
    with current_device(device), processes(device) as (rank, size):
        own = shared_config(config, rank, size)
        made = vector is None
        if vector is None:
            vector = make_vector(own)
        try:
            with torch_settings(config):
                return _train(
                    config, own, rank, device, policy, vector, checkpoint, report, save, watch, stop
                )
        finally:
            if made:
                vector.close()


def _train(
    config: Config,
    own: Config,
    rank: int,
    device: torch.device,
    policy: Any,
    vector: Any,
    checkpoint: dict[str, Any] | None,
    report: Callable[[Metrics], None] | None,
    save: Callable[[dict[str, Any], Metrics], None] | None,
    watch: Callable[[np.ndarray], None] | None,
    stop: Callable[[], bool] | None,
) -> Result:
    torch.manual_seed(config.seed)  # weights: the same in every process
    layout, action_layout = vector.observation_layout, vector.action_layout
    spaces = {
        "observation_layout": layout.to_json(),
        "action_layout": action_layout.native.to_json(),
    }
    if policy is None:
        policy = make_policy(config, layout, action_layout)
    policy = policy.to(device)
    kind = Distribution(action_layout, config.squash)
    vector = with_reward_options(vector, config)
    collector = Collector(vector, kind, own, policy, device)
    learner = Learner(policy, kind, layout, own, device)
    steps = updates = 0
    seconds = 0.0
    metrics: Metrics = {}
    if checkpoint is not None:
        for name, text in spaces.items():
            if checkpoint[name] != text:
                raise CheckpointError(
                    f"the checkpoint's {name.replace('_layout', '')} space is not this "
                    f"environment's:\n{checkpoint[name]}\nagainst\n{text}"
                )
        load_weights(policy, checkpoint["policy"])
        learner.load_state_dict(checkpoint["learner"])
        if rank == 0:  # whose environments and random numbers these are
            collector.load_state_dict(checkpoint["collector"])
        steps, updates = checkpoint["steps"], checkpoint["updates"]
        seconds, metrics = checkpoint["seconds"], checkpoint["metrics"]
    if config.compile:
        policy.encode, policy.decode = torch.compile(policy.encode), torch.compile(policy.decode)

    def snapshot() -> dict[str, Any]:
        return {
            "config": to_dict(config),
            **spaces,
            # Copies: what torch gives are the very tensors that the next update changes.
            "policy": {k: v.to("cpu", copy=True) for k, v in policy.state_dict().items()},
            "learner": copy.deepcopy(learner.state_dict()),
            "collector": collector.state_dict(),
            "steps": steps,
            "updates": updates,
            "seconds": seconds,
            "metrics": metrics,
        }

    saved = updates
    while steps < config.total_steps and not any_stops(stop, device):
        begun = time.perf_counter()
        learner.set_learning_rate(annealed(config, steps))
        collector.shares = dict.fromkeys(collector.shares, 0.0)
        rollout = collector.collect(policy)
        check_rollout(rollout, collector)
        collected = time.perf_counter()
        learnt = learner.learn(rollout)
        ended = time.perf_counter()
        if watch is not None:
            rows = rollout.observations[:, :-1][rollout.valid[:, :-1]][:256]
            watch(typed(rows.cpu(), layout).numpy())
        metrics = {
            **summarize(rollout, vector, collector),
            **learnt,
            "learning_rate": annealed(config, steps),
        }
        taken = int(metrics.pop("taken"))
        spent = ended - begun
        shares = {**collector.shares, "learn": ended - collected}
        steps, updates, seconds = steps + taken, updates + 1, seconds + spent
        metrics |= {
            "steps": steps,
            "updates": updates,
            "seconds": seconds,
            "steps_per_second": taken / spent,
            **{f"time/{name}": share / spent for name, share in shares.items()},
        }
        if report is not None and rank == 0:
            report(metrics)
        if save is not None and updates % config.checkpoint_interval == 0 and rank == 0:
            save(snapshot(), metrics)
            saved = updates
    if save is not None and saved != updates and rank == 0:
        save(snapshot(), metrics)
    return Result(policy, metrics)


def summarize(rollout: Rollout, vector: Any, collector: Collector) -> Metrics:
    """What happened in a rollout, over all processes: rewards and episodes."""
    valid = rollout.valid
    rewards = rollout.rewards[valid].double()
    statistics = vector.statistics()
    episodes = float(statistics.pop("episodes"))
    statistics.pop("time", None)
    numbers = [float(len(rewards)), float(rewards.sum()), float((rewards != 0).sum()), episodes]
    names = sorted(statistics) if world_size() == 1 else ["length", "return"]
    numbers += [episodes * statistics.get(name, 0.0) for name in names]
    summed = all_sum(torch.tensor(numbers, dtype=torch.float64, device=collector.device)).tolist()
    taken, total, nonzero, episodes, *sums = summed
    collector.episodes += int(episodes)
    metrics = {
        "taken": taken,
        "episodes": float(collector.episodes),
        "reward/mean": total / max(1.0, taken),
        "reward/nonzero": nonzero / max(1.0, taken),
    }
    if episodes:
        metrics |= {f"episode/{name}": value / episodes for name, value in zip(names, sums)}
    return metrics
