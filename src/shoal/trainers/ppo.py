"""Proximal policy optimisation (Schulman et al. 2017), from top to bottom in one file.

    train:   collect, learn, report, until there have been enough steps
    collect: the policy acts in a vector of environments until the rollout is full
    learn:   some passes over the rollout; each computes advantages from fresh values, and steps
             the optimiser once for every minibatch

How a rollout lies in memory. A rollout has segments of `horizon` steps, and a row of the vector (an
agent) fills one segment after the other. A step holds what the policy saw, what it did, and what
came of it: the reward and the flags that arrive with the row's next observation, which is the next
step's. The observation after a segment's last step is kept too, at position `horizon`, so the value
of what follows is at hand everywhere. These are the invariants:

- Vectors reset in NEXT_STEP mode, so the final observation of an episode is an ordinary step. The
  step is invalid, because its action does nothing; its value is what a truncated episode is worth
  from there.
- ``valid`` is False for such a step, for what a restarted environment lost, and for whatever was
  not filled. Invalid steps are in no loss, no statistic, no normalisation and no return.
- ``starts`` says that a step's observation begins an episode, which empties the recurrent state.
- Rows without an agent, and agents that wait for their turn, take no step at all. If a batch is
  all environments and each has one agent, every row takes one step in every batch, so that segment
  i is row i.
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
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shoal.errors import CheckpointError, ConfigError, NotFiniteError
from shoal.registry.creators import find_source
from shoal.registry.names import load_named
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.advantage import advantages
from shoal.trainers.checks import agent_name, check_categories, check_outputs, check_rollout
from shoal.trainers.config import Config, from_dict, kept
from shoal.trainers.distributions import Actions, Distribution
from shoal.trainers.plain import arrays, plain
from shoal.trainers.policies import DefaultPolicy, Recurrent, initial_state, typed
from shoal.trainers.processes import (
    all_sum,
    any_of,
    current_device,
    gather,
    join_processes,
    moments,
    rank,
    world_size,
)
from shoal.trainers.rewards import RewardScale
from shoal.trainers.seeds import TRAINING, environment_seed, generator_seed
from shoal.vectorization import vectorize
from shoal.wrappers.base import load_state_dicts, state_dicts

__all__ = ["Result", "act", "load_policy", "make_policy", "make_vector", "train"]

Metrics = dict[str, float]


class Result(NamedTuple):
    """What training leaves: the policy, and the metrics of the last update."""

    policy: Any
    metrics: Metrics


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
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Train a policy.

    Args:
        config: see `Config`. Under torchrun it is the same in every process, and says what all of
            them do together.
        policy: a module to train instead of the one that the config names; ``memory`` puts an LSTM
            or a MinGRU around it.
        vector: environments to train on instead of those that the config names (NEXT_STEP
            autoreset); the caller closes it.
        checkpoint: what an earlier run gave to `save`: goes on from there. On the same kind of
            device, with the same number of processes and with environments that can be saved, the
            run is the same bit for bit as one that never stopped.
        report: gets the metrics after every update; see docs/metrics.md.
        save: gets the state of everything every ``checkpoint_interval`` updates and at the end:
            a dict of tensors, numbers and text.
        watch: gets up to 256 observation rows of every rollout.
        stop: asked before every update; True ends the run as if it were complete.
        progress: gets the number of this process's steps in the rollout so far, after every batch.

    Returns:
        The policy and the last metrics.

    Raises:
        NotFiniteError: NaN or infinity, named where it first appeared.
        EmulationError: an observation that is not in its space.
        CheckpointError: the checkpoint belongs to other spaces or another policy.
        Exception: whatever an environment raised.
    """
    device = choose_device(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(current_device(device))
        stack.enter_context(join_processes(device))
        stack.enter_context(torch_settings(config))
        own = shared_config(config, world_size())
        if vector is None:
            vector = stack.enter_context(contextlib.closing(make_vector(own)))
        trainer = Trainer(config, own, policy, vector, device)
        trainer.collector.progress = progress or trainer.collector.progress
        if checkpoint is not None:
            trainer.load_state_dict(checkpoint)
        saves = any_of(save is not None, device)  # then every process gives its part
        saved = trainer.updates
        while trainer.steps < config.total_steps and not any_of(bool(stop and stop()), device):
            trainer.update(watch)
            if report is not None and rank() == 0:
                report(trainer.metrics)
            if saves and trainer.updates % config.checkpoint_interval == 0:
                trainer.save(save)
                saved = trainer.updates
        if saves and saved != trainer.updates:
            trainer.save(save)
        return Result(trainer.policy, trainer.metrics)


class Trainer:
    """A policy in training: who collects, who learns, and how far the run has come.

    Args:
        config: of the whole run.
        own: this process's part of it; see `shared_config`.
        policy: a module, or None for the one that the config names.
        vector: this process's environments.
        device: of the policy.

    Attributes:
        steps, updates, seconds: how far the run has come; steps are those of all processes.
        metrics: of the last update.
    """

    def __init__(self, config: Config, own: Config, policy: Any, vector: Any, device: torch.device):
        torch.manual_seed(config.seed)  # weights: the same in every process
        self.config, self.vector = config, vector
        self.layout, action_layout = vector.observation_layout, vector.action_layout
        self.spaces = {
            "observation_layout": self.layout.to_json(),
            "action_layout": action_layout.native.to_json(),
        }
        if policy is None:
            made = make_policy(config, self.layout, action_layout)
        else:
            made = checked_policy(policy, config)
        self.policy = made.to(device)
        distribution = Distribution(action_layout, config.squash)
        self.collector = Collector(vector, distribution, own, self.policy, device)
        self.learner = Learner(self.policy, distribution, self.layout, own, device)
        self.steps, self.updates, self.seconds = 0, 0, 0.0
        self.metrics: Metrics = {}
        if config.compile:
            self.policy.encode = torch.compile(self.policy.encode)
            self.policy.decode = torch.compile(self.policy.decode)

    def update(self, watch: Callable[[np.ndarray], None] | None = None) -> None:
        """Collect one rollout and learn from it."""
        begun = time.perf_counter()
        collector, learner = self.collector, self.learner
        learning_rate = annealed(self.config, self.steps)
        learner.set_learning_rate(learning_rate)
        collector.shares = dict.fromkeys(collector.shares, 0.0)
        rollout = collector.collect(self.policy)
        check_rollout(rollout, collector.owners, self.vector)
        collector.rewards.apply(rollout.rewards)
        collected = time.perf_counter()
        learnt = learner.learn(rollout)
        ended = time.perf_counter()
        if watch is not None:
            watch(sample_of(rollout, self.layout))
        metrics = {**summarize(rollout, self.vector, collector), **learnt}
        taken = int(metrics.pop("taken"))
        spent = ended - begun
        shares = {**collector.shares, "learn": ended - collected}
        self.steps, self.updates = self.steps + taken, self.updates + 1
        self.seconds += spent
        self.metrics = metrics | {
            "learning_rate": learning_rate,
            "steps": self.steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "steps_per_second": taken / spent,
            **{f"time/{name}": share / spent for name, share in shares.items()},
        }

    def save(self, save: Callable[[dict[str, Any], Metrics], None] | None) -> None:
        """Give the state of everything to `save`, in the first process; all have to call this."""
        state = self.state_dict()
        if save is not None and rank() == 0:
            save(state, self.metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly, as tensors, numbers and text.

        ``processes`` has one entry for each process; it is None in all processes but the first.
        """
        own = {"collector": self.collector.state_dict(), **self.learner.generators()}
        return {
            "config": plain(kept(self.config), text=True),
            **self.spaces,
            "policy": plain(self.policy.state_dict()),
            "optimizers": plain([each.state_dict() for each in self.learner.optimizers]),
            "processes": gather(own),
            "steps": self.steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "metrics": self.metrics,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            CheckpointError: it is of other spaces or another policy.
        """
        for name, text in self.spaces.items():
            if state[name] != text:
                raise CheckpointError(
                    f"the checkpoint's {name.replace('_layout', '')} space is not this "
                    f"environment's:\n{state[name]}\nagainst\n{text}"
                )
        load_weights(self.policy, state["policy"])
        for optimizer, saved in zip(self.learner.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(saved))
        processes = state["processes"]
        if len(processes) == world_size():
            own = processes[rank()]
            self.collector.load_state_dict(own["collector"])
            self.learner.load_generators(own)
        else:  # other processes, with other environments: what they share goes on
            self.collector.load_shared(processes[0]["collector"])
        self.steps, self.updates = state["steps"], state["updates"]
        self.seconds, self.metrics = state["seconds"], dict(state["metrics"])


def summarize(rollout: Rollout, vector: Any, collector: Collector) -> Metrics:
    """Return what happened in a rollout, over all processes: rewards and episodes."""
    rewards = rollout.rewards[rollout.valid].double()
    statistics = vector.statistics()
    episodes = float(statistics.pop("episodes"))
    statistics.pop("time", None)
    numbers = [float(len(rewards)), float(rewards.sum()), float((rewards != 0).sum()), episodes]
    names = sorted(statistics) if world_size() == 1 else ["length", "return"]
    numbers += [episodes * statistics.get(name, 0.0) for name in names]
    summed = all_sum(torch.tensor(numbers, dtype=torch.float64, device=collector.device))
    taken, total, nonzero, episodes, *sums = summed.tolist()
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


def sample_of(rollout: Rollout, layout: Layout, most: int = 256) -> np.ndarray:
    """Return up to `most` observations of a rollout's valid steps: ``(n, *layout.shape)``."""
    segment, step = rollout.valid.nonzero(as_tuple=True)
    rows = rollout.observations[segment[:most], step[:most]]
    return typed(rows.cpu(), layout).numpy()


def annealed(config: Config, steps: int) -> float:
    """Return the learning rate after so many steps."""
    done = min(1.0, steps / config.total_steps)
    if config.anneal == "linear":
        return config.learning_rate * (1 - done)
    if config.anneal == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate


# -- before training -------------------------------------------------------------------------------


def make_vector(config: Config) -> Any:
    """Return the environments of a config; under torchrun, of this process's part of it."""
    pool = config.batch_size not in (None, config.num_envs)
    alone = config.num_workers == 0
    if alone:  # a native environment's thread is the caller's own
        source = find_source(config.env, config.num_envs, config.env_kwargs)
        alone = source.native is None
    return vectorize(
        config.env,
        config.num_envs,
        backend="pool" if pool else "serial" if alone else "auto",
        num_workers=config.num_workers or None,
        batch_size=config.batch_size if pool else None,
        autoreset="next_step",
        seed=environment_seed(config.seed, TRAINING) + rank() * config.num_envs,
        max_len=config.max_len,
        max_agents=config.max_agents,
        pad=config.pad,
        env_kwargs=config.env_kwargs,
    )


def shared_config(config: Config, processes: int) -> Config:
    """Return one process's part of a run: its share of the environments and workers.

    Raises:
        ConfigError: the environments can't be shared evenly.
    """
    if config.num_envs % processes:
        raise ConfigError(f"num_envs: {config.num_envs} can't be shared by {processes} processes")

    def share(number: int | None) -> int | None:
        return max(1, number // processes) if number else number

    return replace(
        config,
        num_envs=config.num_envs // processes,
        batch_size=share(config.batch_size),
        num_workers=share(config.num_workers),
    )


def choose_device(config: Config) -> torch.device:
    """Return the device of a config; under torchrun, the GPU of this process's local rank."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} was asked for, but torch finds no CUDA device")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name == "cpu" and config.precision == "bfloat16":
        warnings.warn(
            "precision: bfloat16 is meant for CUDA; on most CPUs it is slower than float32",
            RuntimeWarning,
            stacklevel=3,
        )
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
    states: Tensor  # float32 (-, segments, features): memory before the first step

    rewards: Any  # float32
    terminated: Any  # bool
    truncated: Any  # bool
    valid: Any  # bool
    starts: Any  # bool
    used: int = 0

    @property
    def horizon(self) -> int:
        """Steps of a segment that are learnt from."""
        return self.values.shape[1] - 1

    def to_device(self) -> Rollout:
        """Return the `used` segments, with the second group as tensors on the device."""
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
    distribution: Distribution,
    policy: Any,
    device: torch.device,
) -> Rollout:
    """Return room for a rollout, of zeros, so that what is never filled is at least finite."""
    shape = (segments, horizon + 1)

    def zeros(dtype: torch.dtype, *columns: int) -> Tensor:
        return torch.zeros(*shape, *columns, dtype=dtype, device=device)

    return Rollout(
        observations=zeros(torch.uint8, row_bytes),
        discrete=zeros(torch.int64, distribution.num_discrete),
        continuous=zeros(torch.float32, distribution.num_continuous),
        masks=zeros(torch.bool, distribution.layout.num_masked),
        log_probabilities=zeros(torch.float32),
        values=zeros(torch.float32),
        states=initial_state(policy, segments, device),
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

    Args:
        config: this process's part of the run; see `shared_config`.
    """

    def __init__(
        self,
        vector: Any,
        distribution: Distribution,
        config: Config,
        policy: Any,
        device: torch.device,
    ):
        self.vector, self.distribution, self.config = vector, distribution, config
        self.device = device
        n = vector.num_rows
        self.layout: Layout = vector.observation_layout
        horizon = config.horizon or default_horizon(n * world_size())
        self.capacity = n * horizon
        self.whole = vector.batch_size == vector.num_envs
        self.even = self.whole and vector.agents_per_env == 1  # all rows are at the same step
        # Rows that run ahead of others take more than one segment, and each may leave one unfilled.
        segments = n if self.even else 2 * n
        nbytes = self.layout.nbytes
        self.rollout = new_rollout(segments, horizon, nbytes, distribution, policy, device)
        self.owners = np.zeros(segments, np.int64)  # the row of each segment
        self.segment = np.full(n, -1)  # that each row is filling; -1: none
        self.position = np.zeros(n, np.int64)  # of its open step
        self.filled = 0  # steps of this rollout that have been closed
        self.states = initial_state(policy, n, device)
        self.pending: Batch | None = None  # has been received, not answered
        self.begun = np.zeros(n, bool)  # rows that have been received at all
        self.rewards = RewardScale(n, config, device)
        self.generator = torch.Generator(device)
        self.generator.manual_seed(generator_seed(config.seed, "actions", rank()))
        self.shares = dict.fromkeys(("environment", "copy", "policy"), 0.0)
        self.episodes = 0
        self.progress: Callable[[int], None] = lambda steps: None  # see `train`

    def collect(self, policy: Any) -> Rollout:
        """Fill the rollout, and return it with the rewards as the environments gave them."""
        self.segment[:] = -1
        self.filled = self.rollout.used = 0
        for array in (self.rollout.valid, self.rollout.starts):
            array[:] = False
        if self.pending is None:  # at the very first, or where environments could not be saved
            later = [self.episodes] if self.episodes else []
            seed = environment_seed(self.config.seed, TRAINING, *later)
            self.vector.async_reset(seed=seed + rank() * self.vector.num_envs)
            self.pending = self.receive()
        self.answer(self.pending, policy)
        while True:
            batch = self.receive()
            self.progress(self.filled)
            if self.filled >= self.capacity:
                break
            self.answer(batch, policy)
        self.answer(batch, policy, last=True)
        self.pending = batch
        return self.rollout.to_device()

    # -- from the vector ---------------------------------------------------------------------------

    def receive(self) -> Batch:
        """Return the next batch; what it says about earlier actions goes into their steps."""
        begun = time.perf_counter()
        vector = self.vector
        batch = vector.recv()
        received = time.perf_counter()
        self.shares["environment"] += received - begun
        masks = batch.masks
        # A row that a restart has lost is neither acting nor a transition; it keeps step.
        here = np.ones(len(masks), bool) if self.even else vector.acting | masks
        places = np.flatnonzero(here)
        select: Any = slice(None) if len(places) == len(here) else places
        rows = batch.agent_ids[select]
        masks = masks[select] & self.begun[rows]  # what a reset returns ends no action
        self.begun[rows] = True

        opened = self.segment[rows] >= 0
        closing: Any = slice(None) if opened.all() else opened
        closed = rows[closing]
        if len(closed):
            at, into, done = self.index(closed), self.rollout, masks[closing]
            rewards = batch.rewards[select][closing] * done
            terminated = batch.terminations[select][closing] & done
            into.rewards[at] = rewards
            into.terminated[at] = terminated
            into.truncated[at] = batch.truncations[select][closing] & done
            into.valid[at] = done
            self.rewards.note(closed[done], rewards[done], terminated[done])
            self.position[closed] += 1
            self.filled += len(closed)

        observations = np.ascontiguousarray(batch.observations).reshape(len(here), -1)
        made = Batch(
            rows=rows,
            env_ids=None if self.whole else vector.env_ids,
            places=places,
            num_rows=len(here),
            observations=observations.view(np.uint8)[select],
            masks=vector.action_masks[select],
            starts=~masks,
        )
        self.shares["copy"] += time.perf_counter() - received
        return made

    def index(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Return where the open steps of these rows lie: segments and positions."""
        if self.even and len(rows):
            return slice(0, len(rows)), int(self.position[0])
        return self.segment[rows], self.position[rows]

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
        # An observation stands once, but for one that ends a segment: it begins the next one, too.
        ends = (self.segment[rows] >= 0) & (last | (self.position[rows] == self.rollout.horizon))
        ending: Any = slice(None) if ends.all() else np.flatnonzero(ends)
        after = self.index(rows[ending])
        if ends.any():
            into.observations[after] = observations[ending]
        if not last:
            self.open_steps(rows)
            at = self.index(rows)
            into.starts[at] = batch.starts
            into.observations[at] = observations
            into.masks[at] = masks
        copied = time.perf_counter()

        starts = torch.from_numpy(batch.starts).to(device)
        every: Any = slice(None) if self.even else rows
        state = self.states[:, every] * ~starts[:, None]
        fresh = np.flatnonzero(self.position[rows] == 0)
        if not last and len(fresh):
            into.states[:, self.segment[rows[fresh]]] = state[:, fresh]
        parameters, values, state = self.act(policy, observations, state, batch)
        if ends.any():
            into.values[after] = values[ending]
        if not last:
            sampled = self.distribution.sample(parameters, masks, self.generator)
            actions, into.log_probabilities[at] = sampled
            self.states[:, every] = state
            into.values[at] = values
            into.discrete[at] = actions.discrete
            into.continuous[at] = actions.continuous
        acted = time.perf_counter()
        self.shares["copy"] += copied - begun
        self.shares["policy"] += acted - copied
        if not last:
            self.send(batch, self.distribution.to_env(actions))
            self.shares["environment"] += time.perf_counter() - acted

    def act(
        self, policy: Any, observations: Tensor, state: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward_step` does, after a check that names what went wrong."""
        seen, rows = typed(observations, self.layout), torch.from_numpy(batch.observations)
        try:
            with autocast(self.config, self.device):
                parameters, values, state = forward_step(policy, seen, state)
        except (IndexError, RuntimeError):  # of an embedding, say
            vector = self.vector
            check_categories(rows, self.layout, lambda i: agent_name(int(batch.rows[i]), vector))
            raise
        check_outputs(parameters, values, policy, rows, batch.rows, self.vector)
        return parameters, values, state

    def open_steps(self, rows: np.ndarray) -> None:
        """Give each of these rows a step to write to."""
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
        """Return actions of so many rows whose actions are not used."""
        distribution = self.distribution
        parts = {}
        if distribution.num_discrete:
            parts["discrete"] = np.tile(distribution.low, (count, 1))
        if distribution.num_continuous:
            zeros = np.zeros((count, distribution.num_continuous))
            parts["continuous"] = np.clip(zeros, *distribution.bounds)
        return distribution.rows(parts)

    # -- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly; only between rollouts."""
        environments = None
        if self.whole:  # else some environments are under way
            # What can't be saved begins again with a reset, whatever its error is.
            with contextlib.suppress(Exception):
                environments = plain(self.vector.get_state())
        return {
            "environments": environments,
            "pending": {} if self.pending is None else plain(self.pending._asdict()),
            "states": plain(self.states),
            "wrappers": plain(state_dicts(self.vector)),
            "rewards": plain(self.rewards.state_dict()),
            "generator": self.generator.get_state(),
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; with a reset if it has no environments."""
        restore_generator(self.generator, state["generator"])
        self.load_shared(state)
        if state["environments"] is not None:
            self.vector.set_state(arrays(state["environments"]))
            self.begun[:] = True
            self.states = state["states"].to(self.device)
            self.pending = Batch(**arrays(state["pending"]))

    def load_shared(self, state: dict[str, Any]) -> None:
        """Take from `state_dict` what does not belong to single environments."""
        self.episodes = state["episodes"]
        load_state_dicts(self.vector, arrays(state["wrappers"]))
        self.rewards.load_state_dict(arrays(state["rewards"]))


# -- the policy ------------------------------------------------------------------------------------


def default_horizon(num_rows: int) -> int:
    """Return the horizon of a config that names none.

    With many agents a rollout of 128 steps each would be so large that a run of usual length has
    only a few updates.
    """
    return int(np.clip(16_384 // num_rows, 8, 128))


def make_policy(config: Config, observation_layout: Layout, action_layout: ActionLayout) -> Any:
    """Return the policy that a config asks for: the default one or the user's, with its memory.

    Raises:
        ConfigError: it lacks what a policy must have.
    """
    make = DefaultPolicy if config.policy == "default" else load_named(config.policy)
    return checked_policy(make(observation_layout, action_layout, config), config)


def checked_policy(policy: Any, config: Config) -> Any:
    """Return a policy with the memory that the config wants.

    Raises:
        ConfigError: the policy lacks what one must have, or has memory that the config doesn't.
    """
    if isinstance(policy, Recurrent):
        if policy.kind != config.memory:
            raise ConfigError(f"memory: the policy has {policy.kind}, got {config.memory}")
        return policy
    named = type(policy).__name__ if config.policy == "default" else config.policy
    for name in ("encode", "decode", "num_features"):
        if not hasattr(policy, name):
            raise ConfigError(f"policy: {named} has no {name}; see shoal.trainers.policies")
    if config.normalize_observations and getattr(policy, "normalizer", None) is None:
        raise ConfigError(f"normalize_observations: {named} has no attribute normalizer")
    return policy if config.memory == "none" else Recurrent(policy, config.memory)


def forward_step(policy: Any, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameters ``(n, p)``, values ``(n,)`` and the state after one step of every row."""
    features = policy.encode(observations)
    if isinstance(policy, Recurrent):
        begun = torch.zeros(1, len(features), dtype=torch.bool, device=features.device)
        features, state = policy.recur(features[None], state, begun)
        features = features[0]
    parameters, values = policy.decode(features)
    return parameters.float(), values.float(), state.float()


def forward_segments(
    policy: Any, rollout: Rollout, layout: Layout, segments: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Return parameters ``(n, steps, p)`` and values of the first steps of whole segments."""
    flat = rollout.observations[segments, :steps].flatten(0, 1)
    features = policy.encode(typed(flat, layout))
    if isinstance(policy, Recurrent):
        features = features.reshape(len(segments), steps, -1).transpose(0, 1).contiguous()
        starts = rollout.starts[segments, :steps].T
        features, _ = policy.recur(features, rollout.states[:, segments], starts)
        features = features.transpose(0, 1).flatten(0, 1)
    parameters, values = policy.decode(features)
    shape = (len(segments), steps)
    return parameters.float().reshape(*shape, -1), values.float().reshape(shape)


def autocast(config: Config, device: torch.device) -> Any:
    """Return a context with the arithmetic that a config wants."""
    if config.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def load_policy(state: dict[str, Any], device: str = "cpu") -> Any:
    """Return the policy of a checkpoint, ready to act: see `act`."""
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
    """Return what a policy from `load_policy` does.

    Args:
        observations: rows as the vector serves them, ``(n, *layout.shape)``.
        state: what the last call returned; None at the beginning.
        action_masks: bool ``(n, num_masked)``; default: everything is legal.
        starts: bool ``(n,)``: rows whose episode begins, whose state is emptied.
        greedy: the likeliest action; else a draw.

    Returns:
        (actions for `Vector.send`, state for the next call).

    Raises:
        EmulationError: an observation is not in its space.
    """
    device = next(policy.parameters()).device
    n = len(observations)
    if state is None:
        state = initial_state(policy, n, device)
    if starts is not None:
        state = state * ~torch.from_numpy(starts).to(device)[:, None]
    rows = torch.from_numpy(np.ascontiguousarray(observations).reshape(n, -1).view(np.uint8))
    check_categories(rows, policy.observation_layout)
    seen = typed(rows.to(device), policy.observation_layout)
    parameters, _, state = forward_step(policy, seen, state)
    masks = None if action_masks is None else torch.from_numpy(action_masks).to(device)
    actions, _ = policy.distribution.sample(parameters, masks, generator, greedy)
    return policy.distribution.to_env(actions), state


# -- learning --------------------------------------------------------------------------------------


class Learner:
    """The optimisers of a policy, and the passes over a rollout."""

    def __init__(
        self, policy: Any, distribution: Distribution, layout: Layout, config: Config, device: Any
    ):
        self.policy, self.distribution, self.layout = policy, distribution, layout
        self.config, self.device = config, device
        self.optimizers = make_optimizers(policy, config)
        self.shuffler = torch.Generator()  # on the CPU: the same minibatches on every device
        self.shuffler.manual_seed(generator_seed(config.seed, "minibatches", rank()))
        self.generator = torch.Generator(device)
        self.generator.manual_seed(generator_seed(config.seed, "losses", rank()))

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
        columns = torch.stack([returns, returns - values, values, advantage], 1)
        mean, variance, _ = moments(columns)
        spread, left, _, deviation = variance.tolist()
        metrics = {"value/mean": float(mean[2]), "advantage/std": math.sqrt(deviation)}
        if spread > 1e-12:  # else there is nothing to explain
            metrics["explained_variance"] = 1 - left / spread
        return metrics

    def minibatches(self, valid: Tensor) -> Iterator[Tensor]:
        """A random partition: of segments for recurrent policies, else of single valid steps."""
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
        """Values of all steps and ratios of their actions, by the policy as it is now."""
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
                log_probabilities, _ = self.distribution.evaluate(
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
        """One step of the optimiser on one minibatch: segments, or steps (flat, horizon wide).

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
        if config.normalize_advantages and count > 1:  # one alone has no deviation
            mean = all_sum(chosen.sum()) / count
            variance = all_sum(((chosen - mean) ** 2).sum()) / (count - 1)
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
                    segment, step = inside.nonzero(as_tuple=True)
                    segment = part[segment]
                else:
                    segment, step = part // horizon, part % horizon
                    seen = typed(rollout.observations[segment, step], self.layout)
                    parameters, values = self.policy.decode(self.policy.encode(seen))
            at = segment, step
            terms = losses(
                parameters.float(),
                values.float(),
                Actions(rollout.discrete[at], rollout.continuous[at]),
                rollout.masks[at],
                rollout.log_probabilities[at],
                rollout.values[at],
                (advantage[at] - center) * scale,
                returns[at],
                self.distribution,
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

    def generators(self) -> dict[str, Tensor]:
        """Return the states of this process's generators."""
        return {"shuffler": self.shuffler.get_state(), "losses": self.generator.get_state()}

    def load_generators(self, state: dict[str, Tensor]) -> None:
        """Go on from what `generators` returned."""
        self.shuffler.set_state(state["shuffler"])
        restore_generator(self.generator, state["losses"])


def losses(
    parameters: Tensor,
    values: Tensor,
    actions: Actions,
    masks: Tensor,
    old_log_probabilities: Tensor,
    old_values: Tensor,
    advantage: Tensor,
    returns: Tensor,
    distribution: Distribution,
    config: Config,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the terms of PPO's objective, summed over valid steps: divide by their count.

    Schulman et al. 2017, equations 7 and 9; `advantage` is normalised already. All arguments are
    flat, one entry for each valid step.

    Returns:
        ``policy``, ``value``, ``entropy`` (a bonus, in nats), ``kl`` (estimate k3 of Schulman 2020,
        "Approximating KL divergence"), ``clipped`` (how many), and ``ratio`` (not summed).
    """
    log_probabilities, entropy = distribution.evaluate(parameters, actions, masks, generator)
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


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Set a generator's state; one of another kind of device gives the seed of a new stream."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        digest = hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest()
        generator.manual_seed(int.from_bytes(digest))


def make_optimizers(policy: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Return Adam for everything; or Muon for the matrices of hidden layers, and Adam for the rest.

    Raises:
        ConfigError: this torch has no Muon.
    """
    if config.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"optimizer: muon needs torch 2.9 or newer, got {torch.__version__}")
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
