"""Proximal policy optimisation (Schulman et al. 2017), from top to bottom in one file.

    train:   collect, learn, report, until there have been enough steps
    collect: the policy acts in a vector of environments until the rollout is full
    learn:   some passes over the rollout; each computes advantages from fresh values, and steps
             the optimiser once for every minibatch

rollout.py says how a rollout lies in memory and what always holds for it. The host waits for the
device three times only: for the actions of every batch, for what was collected (`summarize`), and
for what was learnt (`Learner.report`).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shoal.errors import CheckpointError, ConfigError, NotFiniteError
from shoal.registry.creators import find_source
from shoal.registry.names import load_named
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.advantage import advantages
from shoal.trainers.checks import check_categories, check_rollout, check_step, outside_sum
from shoal.trainers.config import Config, from_dict, kept
from shoal.trainers.defaults import filled
from shoal.trainers.distributions import Actions, Distribution
from shoal.trainers.flops import model_flops, peak_flops
from shoal.trainers.optimizers import make_optimizers
from shoal.trainers.phases import Phases, grouped
from shoal.trainers.plain import arrays, plain
from shoal.trainers.policies import DefaultPolicy, Recurrent, initial_state, typed
from shoal.trainers.precision import autocast, choose_precision
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
from shoal.trainers.rollout import Rollout, new_rollout, on_device
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
    say: Callable[[str], None] | None = None,
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
        say: gets lines of text about what was chosen at the start.

    Returns:
        The policy and the last metrics.

    Raises:
        NotFiniteError: NaN or infinity, named where it first appeared.
        EmulationError: an observation that is not in its space.
        CheckpointError: the checkpoint belongs to other spaces or another policy.
        Exception: whatever an environment raised.
    """
    config = filled(config, vector)
    device = choose_device(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(current_device(device))
        stack.enter_context(join_processes(device))
        stack.enter_context(torch_settings(config))
        if checkpoint is not None and config.precision == "auto":
            config = replace(config, precision=checkpoint["config"]["precision"])
        own = shared_config(config, world_size())
        if vector is None:
            vector = stack.enter_context(contextlib.closing(make_vector(own)))
        trainer = Trainer(config, own, policy, vector, device)
        trainer.collector.progress = progress or trainer.collector.progress
        if say is not None and rank() == 0:
            say(trainer.chosen)
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
        chosen: what was chosen at the start, as text.
        at_peak: steps/s of one process if its device did nothing but the policy, at its peak.
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
        assert own.horizon is not None and own.minibatch_size is not None  # see `filled`
        rows = min(own.minibatch_size, vector.num_rows * own.horizon)
        precision, why = choose_precision(own, self.policy, self.layout, rows, own.horizon, device)
        self.chosen = f"precision: {precision} ({why})"
        self.config, own = replace(config, precision=precision), replace(own, precision=precision)
        self.collector = Collector(vector, distribution, own, self.policy, device)
        self.learner = Learner(self.policy, distribution, self.layout, own, device)
        self.phases = self.learner.phases = self.collector.phases
        flops = model_flops(self.config, self.policy, self.layout, device)
        self.at_peak = peak_flops(device, precision) / flops
        self.steps, self.updates, self.seconds = 0, 0, 0.0
        self.metrics: Metrics = {}
        if config.compile:
            self.policy.encode = torch.compile(self.policy.encode)
            self.policy.decode = torch.compile(self.policy.decode)

    def update(self, watch: Callable[[np.ndarray], None] | None = None) -> None:
        """Collect one rollout and learn from it."""
        self.phases.restart()
        collector, learner = self.collector, self.learner
        learning_rate = annealed(self.config, self.steps)
        learner.set_learning_rate(learning_rate)
        rollout = collector.collect(self.policy)
        self.phases.enter("checks")
        metrics = self.checked(rollout, summarize, rollout, collector)
        learnt = self.checked(rollout, learner.learn, rollout)
        self.phases.enter("rest")
        shares = grouped(self.phases.seconds)
        spent = sum(shares.values())
        if watch is not None:
            watch(sample_of(rollout, self.layout))
        taken = int(metrics.pop("taken"))
        self.steps, self.updates = self.steps + taken, self.updates + 1
        self.seconds += spent
        self.metrics = {**metrics, **learnt} | {
            "learning_rate": learning_rate,
            "steps": self.steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "steps_per_second": taken / spent,
            "peak_share": taken / world_size() / spent / self.at_peak,
            **{f"time/{name}": share / spent for name, share in shares.items()},
        }

    def checked(self, rollout: Rollout, function: Callable[..., Metrics], *args: Any) -> Metrics:
        """Call a function; if a number was not finite, name the first one in the rollout."""
        try:
            return function(*args)
        except NotFiniteError:
            raw = replace(rollout, rewards=self.collector.raw_rewards)
            check_rollout(raw, self.collector.owners, self.policy, self.vector)
            raise

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


def summarize(rollout: Rollout, collector: Collector) -> Metrics:
    """Scale the rollout's rewards, and return what happened in it, over all processes.

    Reads from the device once.

    Raises:
        NotFiniteError: a reward, a value or a log-probability is not finite, or an observation is
            outside its space.
    """
    vector, device = collector.vector, collector.device
    sound = rollout.rewards.sum() + rollout.values.sum() + rollout.log_probabilities.sum()
    sound = sound + outside_sum(rollout, vector.observation_layout)
    rollout.rewards = collector.rewards.scaled(rollout.rewards)
    weighed = rollout.rewards * rollout.valid
    statistics = vector.statistics()
    episodes = float(statistics.pop("episodes"))
    statistics.pop("time", None)
    names = sorted(statistics) if world_size() == 1 else ["length", "return"]
    ended = [episodes, *(episodes * statistics.get(name, 0.0) for name in names)]
    seen = torch.stack([sound, rollout.valid.sum(), weighed.sum(), (weighed != 0).sum()]).double()
    numbers = all_sum(torch.cat([seen, on_device(np.array(ended), device)]))
    finite, taken, total, nonzero, episodes, *sums = numbers.tolist()
    if not math.isfinite(finite):
        raise NotFiniteError("a reward, a value or a log-probability is not finite")
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
    for step in range(rollout.horizon):
        valid = rollout.valid[step]
        if valid.any():  # the first step, but for a rollout of nothing else
            rows = rollout.observations[step][valid][:most]
            return typed(rows.cpu(), layout).numpy()
    return np.zeros((0, *layout.shape), layout.dtype)


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
    config = filled(config)
    assert config.num_envs is not None
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
    """Return one process's part of a run: its share of environments, workers and minibatches.

    Args:
        config: after `filled`.

    Raises:
        ConfigError: the environments can't be shared evenly.
    """
    assert config.num_envs is not None
    if config.num_envs % processes:
        raise ConfigError(f"num_envs: {config.num_envs} can't be shared by {processes} processes")

    def share(number: int | None) -> int | None:
        return max(1, number // processes) if number else number

    return replace(
        config,
        num_envs=config.num_envs // processes,
        batch_size=share(config.batch_size),
        num_workers=share(config.num_workers),
        minibatch_size=share(config.minibatch_size),
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
    return torch.device(name)


@contextlib.contextmanager
def torch_settings(config: Config) -> Iterator[None]:
    """Set torch's process-wide settings as the config wants them, and afterwards as they were."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.set_num_threads(config.torch_threads)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


# -- the rollout -----------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What the policy needs to know of one batch from the vector; row i is agent ``rows[i]``.

    Rows that hold nothing (no agent, or one that waits for its turn) have been left out.
    """

    rows: np.ndarray  # int64
    env_ids: np.ndarray | None  # whom to answer: None for all
    places: np.ndarray | None  # int64: where the rows stand among all rows of those environments
    num_rows: int  # of those environments, those left out included
    observations: np.ndarray  # uint8 (n, bytes of a row); a view of shared memory
    masks: np.ndarray | None  # bool (n, num_masked): legal choices; None for all
    starts: np.ndarray  # bool: the observation begins an episode


class Collector:
    """Steps a vector with a policy, and writes down what happens.

    `episodes` counts those that ended; `phases` says where the time goes.

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
        assert config.horizon is not None  # see `filled`
        self.horizon = config.horizon
        self.capacity = n * self.horizon
        self.whole = vector.batch_size == vector.num_envs
        self.even = self.whole  # until a row is absent for the first time
        self.recurrent = isinstance(policy, Recurrent)
        self.rollout = new_rollout(
            n, self.horizon, self.layout.nbytes, distribution, policy, device
        )
        self.flat = self.rollout.flat()
        self.owners = np.zeros(n, np.int64)  # the row of each segment
        self.segment = np.full(n, -1)  # that each row is filling; -1: none
        self.position = np.zeros(n, np.int64)  # of its open step
        self.filled = 0  # steps of this rollout that have been closed
        self.states = initial_state(policy, n, device)
        self.pending: Batch | None = None  # has been received, not answered
        self.begun = np.zeros(n, bool)  # rows that have been received at all
        self.rewards = RewardScale(n, config, device)
        self.generator = torch.Generator(device)
        self.generator.manual_seed(generator_seed(config.seed, "actions", rank()))
        self.phases = Phases()
        self.episodes = 0
        if not self.even:
            self.become_uneven()
        self.progress: Callable[[int], None] = lambda steps: None  # see `train`

    def become_uneven(self) -> None:
        """Go on with index arrays: the first row is absent.

        Rows that run ahead of others take more than one segment, and each may leave one unfilled.
        """
        self.even, self.rollout = False, self.rollout.doubled()
        self.flat = self.rollout.flat()
        self.owners = np.concatenate([self.owners, self.owners])

    def collect(self, policy: Any) -> Rollout:
        """Fill the rollout, and return it with the rewards as the environments gave them."""
        self.segment[:] = -1
        self.filled = self.rollout.used = 0
        for array in (self.rollout.valid, self.rollout.starts):
            array[:] = False
        if self.rollout.masked:
            self.rollout.masks.fill_(True)
            self.rollout.masked = False
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

    @property
    def raw_rewards(self) -> Tensor:
        """The last rollout's rewards as the environments gave them, on the CPU."""
        return torch.from_numpy(self.rollout.rewards)

    # -- from the vector ---------------------------------------------------------------------------

    def receive(self) -> Batch:
        """Return the next batch; what it says about earlier actions goes into their steps."""
        vector = self.vector
        self.phases.enter("environment")
        batch = vector.recv()
        self.phases.enter("copy")
        masks, places = batch.masks, None
        if vector.agents_per_env > 1 or not self.whole:
            # A row that a restart has lost is neither acting nor a transition; with one agent an
            # environment it keeps step.
            here = vector.acting | masks
            if not here.all():
                places = np.flatnonzero(here)
                if self.even:
                    self.become_uneven()
        select: Any = slice(None) if places is None else places
        rows = batch.agent_ids[select]
        every: Any = slice(None) if self.even else rows
        masks = masks[select] & self.begun[every]  # what a reset returns ends no action
        self.begun[every] = True

        opened = self.segment[every] >= 0
        if opened.any():
            closing: Any = slice(None) if opened.all() else opened
            closed: Any = slice(None) if self.even else rows[closing]
            at, into, done = self.index(closed), self.flat, masks[closing]
            rewards = batch.rewards[select][closing] * done
            terminated = batch.terminations[select][closing] & done
            into.rewards[at] = rewards
            into.terminated[at] = terminated
            into.truncated[at] = batch.truncations[select][closing] & done
            into.valid[at] = done
            self.rewards.note(rows[closing][done], rewards[done], terminated[done])
            self.position[closed] += 1
            self.filled += len(done)

        observations = np.ascontiguousarray(batch.observations)
        observations = observations.reshape(len(batch.masks), -1).view(np.uint8)
        legal = vector.action_masks[select]
        self.phases.enter("rest")
        return Batch(
            rows=rows,
            env_ids=None if self.whole else vector.env_ids,
            places=places,
            num_rows=len(batch.masks),
            observations=observations[select],
            masks=None if legal.all() else legal,
            starts=~masks,
        )

    def index(self, rows: Any) -> Any:
        """Return where the open steps of these rows lie in the flat rollout."""
        segments = len(self.owners)
        if self.even:
            first = int(self.position[0]) * segments
            return slice(first, first + segments)
        return self.position[rows] * segments + self.segment[rows]

    # -- to the vector -----------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, batch: Batch, policy: Any, last: bool = False) -> None:
        """Let the policy see a batch, write it down, and send its actions.

        Args:
            last: the rollout is full: only note what the observations are worth.
        """
        if not len(batch.rows):
            if not last:
                self.send(batch, self.nothing(0))
            return
        self.phases.enter("copy")
        into, device = self.flat, self.device
        every: Any = slice(None) if self.even else batch.rows
        observations = on_device(batch.observations, device)
        masks = None if batch.masks is None else on_device(batch.masks, device)
        # An observation stands once, but for one that ends a segment: it begins the next one, too.
        ends = (self.segment[every] >= 0) & (last | (self.position[every] == self.horizon))
        ending = after = at = None
        if ends.any():
            ending = slice(None) if ends.all() else np.flatnonzero(ends)
            after = self.to_index(self.index(batch.rows[ending]))
            ending = self.to_index(ending)
            into.observations[after] = observations[ending]
        fresh: Any = ()
        if not last:
            self.open_steps(every)
            at = self.index(every)
            into.starts[at] = batch.starts
            at = self.to_index(at)
            into.observations[at] = observations
            if masks is not None:
                into.masks[at] = masks
                self.rollout.masked = True
            fresh = np.flatnonzero(self.position[every] == 0)

        self.phases.enter("act")
        state = self.states
        if self.recurrent:
            row = self.to_index(every)
            state = self.states[:, row] * ~on_device(batch.starts, device)[:, None]
            if len(fresh):
                segment = self.to_index(self.segment[batch.rows[fresh]])
                self.rollout.states[:, segment] = state[:, self.to_index(fresh)]
        parameters = values = None
        try:
            with autocast(self.config, device):
                seen = typed(observations, self.layout)
                parameters, values, state = forward_step(policy, seen, state)
            if after is not None:
                into.values[after] = values[ending]
            if last:
                self.phases.enter("rest")
                return
            actions, log_probabilities = self.distribution.sample(parameters, masks, self.generator)
            into.log_probabilities[at] = log_probabilities
            into.values[at] = values
            into.discrete[at] = actions.discrete
            into.continuous[at] = actions.continuous
            if self.recurrent:
                self.states[:, row] = state
            sent = self.distribution.to_env(actions)
            self.phases.enter("environment")
            self.send(batch, sent)
        except Exception:  # of an embedding, say, or of an action that is NaN
            check_step(parameters, values, policy, batch, self.vector)
            raise
        self.phases.enter("rest")

    def to_index(self, where: Any) -> Any:
        """Return what indexes tensors of the device like these numbers, or the slice that it is."""
        return where if isinstance(where, slice) else on_device(where, self.device)

    def open_steps(self, rows: Any) -> None:
        """Give each of these rows a step to write to: an index array, or a slice of all."""
        needs = (self.segment[rows] < 0) | (self.position[rows] == self.horizon)
        if not needs.any():
            return
        needy = np.arange(len(self.segment))[rows][needs]
        self.segment[needy] = self.rollout.used + np.arange(len(needy))
        self.owners[self.segment[needy]] = needy
        self.position[needy] = 0
        self.rollout.used += len(needy)

    def send(self, batch: Batch, actions: Any) -> None:
        """Send the actions of a batch's rows; rows that were left out do nothing."""
        if batch.places is not None:
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
            "even": self.even,
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
            if self.even and not state["even"]:
                self.become_uneven()
            self.pending = Batch(**arrays(state["pending"]))

    def load_shared(self, state: dict[str, Any]) -> None:
        """Take from `state_dict` what does not belong to single environments."""
        self.episodes = state["episodes"]
        load_state_dicts(self.vector, arrays(state["wrappers"]))
        self.rewards.load_state_dict(arrays(state["rewards"]))


# -- the policy ------------------------------------------------------------------------------------


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


def forward_part(
    policy: Any, rollout: Rollout, layout: Layout, steps: slice, segments: Any
) -> tuple[Tensor, Tensor]:
    """Return parameters ``(steps, n, p)`` and values ``(steps, n)`` of some steps of some segments.

    Args:
        steps: of a recurrent policy, from 0 on.
        segments: a slice, or a tensor of indices.
    """
    seen = rollout.observations[steps, segments]
    shape = seen.shape[:2]
    features = policy.encode(typed(seen.flatten(0, 1), layout))
    if isinstance(policy, Recurrent):
        features, _ = policy.recur(
            features.reshape(*shape, -1),
            rollout.states[:, segments],
            rollout.starts[steps, segments],
        )
        features = features.flatten(0, 1)
    parameters, values = policy.decode(features)
    return parameters.float().reshape(*shape, -1), values.float().reshape(shape)


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

TERMS = ("policy", "value", "entropy", "kl", "clipped", "ratio")  # see `losses`


class Learner:
    """The optimisers of a policy, and the passes over a rollout."""

    def __init__(
        self, policy: Any, distribution: Distribution, layout: Layout, config: Config, device: Any
    ):
        self.policy, self.distribution, self.layout = policy, distribution, layout
        self.config, self.device = config, device
        self.phases = Phases()
        self.optimizers = make_optimizers(policy, config)
        self.parameters = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
        self.shuffler = torch.Generator()  # on the CPU: the same minibatches on every device
        self.shuffler.manual_seed(generator_seed(config.seed, "minibatches", rank()))
        self.generator = torch.Generator(device)
        self.generator.manual_seed(generator_seed(config.seed, "losses", rank()))

    def set_learning_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def learn(self, rollout: Rollout) -> Metrics:
        """Do all passes over one rollout.

        Returns:
            The metrics of losses, gradients and advantages: means over minibatches, but for
            ``ratio/first_error`` (first minibatch) and ``explained_variance`` (before learning).

        Raises:
            NotFiniteError: a loss or a gradient is not finite.
        """
        config, horizon = self.config, rollout.horizon
        valid = rollout.valid[:horizon]
        steps: list[Tensor] = []
        ratios = None
        passes = float(config.update_epochs)
        for epoch in range(math.ceil(passes)):
            values = rollout.values
            self.phases.enter("forward")
            if epoch:
                values, ratios = self.refresh(rollout)
            elif config.vtrace_rho is not None:
                ratios = torch.ones_like(rollout.rewards[:horizon])
            self.phases.enter("advantages")
            advantage = advantages(  # whose kernels want segments first
                rollout.rewards[:horizon].T,
                values.T,
                rollout.terminated[:horizon].T,
                rollout.truncated[:horizon].T,
                valid.T,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda,
                ratios=None if ratios is None else ratios.T,
                rho=config.vtrace_rho,
                c=config.vtrace_c,
            ).T.contiguous()
            returns = advantage + values[:horizon]
            if not epoch:
                first = self.describe(advantage, returns, values[:horizon], valid)
            self.phases.enter("forward")
            for minibatch in self.minibatches(rollout, min(1.0, passes - epoch)):
                steps.append(self.step(rollout, minibatch, advantage, returns))
            if config.target_kl is None or not steps:
                continue
            if float(steps[-1][TERMS.index("kl")]) > config.target_kl:
                break
        self.phases.enter("checks")
        if config.normalize_observations:
            policy = self.policy
            inner = policy.policy if isinstance(policy, Recurrent) else policy
            seen = typed(rollout.observations[:horizon].flatten(0, 1), self.layout)
            inner.normalizer.update(inner.numbers(seen), valid.flatten())
            first = torch.cat([first, inner.normalizer.mean.sum()[None]])
        return self.report(first, steps)

    def report(self, first: Tensor, steps: list[Tensor]) -> Metrics:
        """Return the metrics out of what `describe` and every `step` returned: one read.

        Raises:
            NotFiniteError: a loss, a gradient or an observation's mean is not finite.
        """
        numbers = torch.cat([first, *(step.double() for step in steps)]).tolist()
        (spread, left, value, deviation), rest = numbers[:4], numbers[4 : len(first)]
        rows = np.array(numbers[len(first) :]).reshape(len(steps), -1)
        for row in rows[~np.isfinite(rows).all(1)]:
            for name, number in zip(TERMS, row):
                if not math.isfinite(number):
                    raise NotFiniteError(f"the {name} loss is {number}")
            names = [name for name, p in self.parameters if p.grad is not None]
            for name, number in zip(names, row[len(TERMS) + 1 :]):
                if not math.isfinite(number):
                    raise NotFiniteError(f"the gradient of {name} is not finite")
            raise NotFiniteError(f"the gradient's norm is {row[len(TERMS)]}")
        if not all(map(math.isfinite, rest)):
            raise NotFiniteError("the mean of an observation is not finite")
        metrics = {"value/mean": value, "advantage/std": math.sqrt(deviation)}
        if spread > 1e-12:  # else there is nothing to explain
            metrics["explained_variance"] = 1 - left / spread
        metrics["ratio/first_error"] = rows[0, TERMS.index("ratio")] if steps else 0.0
        if steps:
            policy_loss, value_loss, entropy, kl, clipped, _, norm = rows.mean(0)[: len(TERMS) + 1]
            metrics |= {
                "loss/policy": policy_loss,
                "loss/value": value_loss,
                "loss/entropy": entropy,
                "loss/total": policy_loss
                + self.config.value_coefficient * value_loss
                - self.config.entropy_coefficient * entropy,
                "kl": kl,
                "clip_fraction": clipped,
                "gradient_norm": norm,
            }
        return {name: float(number) for name, number in metrics.items()}

    def describe(self, advantage: Tensor, returns: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """Return how well the values foresaw the returns, and how large the advantages are.

        Returns:
            The variances of the returns and of the values' errors, the mean value, and the variance
            of the advantages, over valid steps.
        """
        columns = torch.stack([returns, returns - values, values, advantage], -1).flatten(0, 1)
        mean, variance, _ = moments(columns, valid.flatten())
        return torch.stack([variance[0], variance[1], mean[2], variance[3]])

    def minibatches(self, rollout: Rollout, share: float = 1.0) -> Iterator[Tensor]:
        """Yield the minibatches of one pass, or of its first part.

        They are a random partition: of segments for policies with memory, else of single steps. How
        many there are is the same in every process.
        """
        valid = rollout.valid[: rollout.horizon]
        items = valid.any(0) if isinstance(self.policy, Recurrent) else valid.flatten()
        order = torch.randperm(len(items), generator=self.shuffler)
        order = on_device(order.numpy(), self.device)
        if not rollout.even:
            order = order[items[order]]
        size = self.config.minibatch_size or rollout.capacity
        count = max(1, round(rollout.capacity / size))
        for part in torch.tensor_split(order, count)[: max(1, round(share * count))]:
            if len(part) or world_size() > 1:  # every process takes part in every step
                yield part

    @torch.no_grad()
    def refresh(self, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
        """Return values of all steps and ratios of their actions, by the policy as it is now."""
        config, horizon, used = self.config, rollout.horizon, rollout.used
        values = torch.zeros_like(rollout.values)
        ratios = torch.ones_like(rollout.values[:horizon])
        whole = slice(0, horizon + 1), slice(0, used)
        if isinstance(self.policy, Recurrent):  # some segments at a time, else some steps
            size = max(1, 8192 // (horizon + 1))
            parts = [(whole[0], slice(i, i + size)) for i in range(0, used, size)]
        else:
            size = max(1, 8192 // max(1, used))
            parts = [(slice(i, i + size), whole[1]) for i in range(0, horizon + 1, size)]
        for at in parts:
            with autocast(config, self.device):
                parameters, values[at] = forward_part(self.policy, rollout, self.layout, *at)
            if config.vtrace_rho is not None:
                old = rollout.log_probabilities[:horizon][at]
                log_probabilities, _ = self.distribution.evaluate(
                    parameters[: len(old)].flatten(0, 1),
                    Actions(
                        rollout.discrete[:horizon][at].flatten(0, 1),
                        rollout.continuous[:horizon][at].flatten(0, 1),
                    ),
                    rollout.masks[:horizon][at].flatten(0, 1) if rollout.masked else None,
                    self.generator,
                )
                ratios[at] = (log_probabilities.reshape(old.shape) - old).exp()
        return values, ratios if config.vtrace_rho is not None else None

    def step(
        self, rollout: Rollout, minibatch: Tensor, advantage: Tensor, returns: Tensor
    ) -> Tensor:
        """Take one optimiser step on one minibatch: segments, or steps of the flat rollout.

        Returns:
            What `TERMS` names, the norm of the gradient, and that of each parameter's gradient;
            left on the device.
        """
        config, horizon = self.config, rollout.horizon
        recurrent = isinstance(self.policy, Recurrent)

        def take(array: Tensor, part: Tensor) -> Tensor:
            """Return the minibatch's steps of an array, flat."""
            if recurrent:
                return array[:horizon].index_select(1, part).flatten(0, 1)
            return array[:horizon].flatten(0, 1).index_select(0, part)

        weights = take(rollout.valid, minibatch).float()
        count = all_sum(weights.sum())
        least = count.clamp_min(1)
        center, scale = torch.zeros_like(count), torch.ones_like(count)
        if config.normalize_advantages:
            chosen = take(advantage, minibatch).double()  # sums alike for any number of processes
            mean = all_sum((chosen * weights).sum()) / least
            variance = all_sum(((chosen - mean) ** 2 * weights).sum()) / (count - 1).clamp_min(1)
            several = count > 1  # one alone has no deviation
            center = torch.where(several, mean, center).float()
            scale = torch.where(several, 1 / (variance.sqrt() + 1e-8), scale).float()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        sums = torch.zeros(len(TERMS), device=self.device)
        for part in torch.tensor_split(minibatch, config.accumulate):
            if not len(part):
                continue
            with autocast(config, self.device):
                if recurrent:
                    parameters, values = forward_part(
                        self.policy, rollout, self.layout, slice(horizon), part
                    )
                    parameters, values = parameters.flatten(0, 1), values.flatten()
                else:
                    seen = typed(take(rollout.observations, part), self.layout)
                    parameters, values = self.policy.decode(self.policy.encode(seen))
            terms = losses(
                parameters.float(),
                values.float(),
                Actions(take(rollout.discrete, part), take(rollout.continuous, part)),
                take(rollout.masks, part) if rollout.masked else None,
                take(rollout.log_probabilities, part),
                take(rollout.values, part),
                (take(advantage, part) - center) * scale,
                take(returns, part),
                take(rollout.valid, part).float(),
                self.distribution,
                config,
                self.generator,
            )
            loss = (
                terms["policy"]
                + config.value_coefficient * terms["value"]
                - config.entropy_coefficient * terms["entropy"]
            ) / least
            self.phases.enter("backward")
            loss.backward()
            self.phases.enter("forward")
            found = torch.stack([terms[name].detach() for name in TERMS])
            sums = torch.cat([sums[:-1] + found[:-1], torch.maximum(sums[-1:], found[-1:])])
        self.phases.enter("optimiser")
        norms = self.clip_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        self.phases.enter("forward")
        means = all_sum(sums[:-1].double()) / least
        return torch.cat([means, sums[-1:], norms])

    def clip_gradients(self) -> Tensor:
        """Add up the gradients of all processes, and scale them to the greatest norm allowed.

        Returns:
            Their norm before that, and the norm of each parameter's.
        """
        if world_size() > 1:
            for _, parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                all_sum(parameter.grad)
        gradients = [p.grad for _, p in self.parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = torch.linalg.vector_norm(norms)
        scale = (self.config.max_gradient_norm / (norm + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(gradients, scale)
        return torch.cat([norm[None], norms])

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
    masks: Tensor | None,
    old_log_probabilities: Tensor,
    old_values: Tensor,
    advantage: Tensor,
    returns: Tensor,
    weights: Tensor,
    distribution: Distribution,
    config: Config,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the terms of PPO's objective, summed over valid steps: divide by their count.

    Schulman et al. 2017, equations 7 and 9; `advantage` is normalised already. All arguments are
    flat, one entry for each step.

    Args:
        weights: 1 for valid steps, 0 for others, which change nothing whatever is in them.

    Returns:
        What `TERMS` names: ``policy``, ``value``, ``entropy`` (a bonus, in nats), ``kl`` (estimate
        k3 of Schulman 2020, "Approximating KL divergence"), ``clipped`` (how many), and ``ratio``
        (not summed: the greatest distance of a ratio from 1).
    """
    log_probabilities, entropy = distribution.evaluate(parameters, actions, masks, generator)
    log_ratio = (log_probabilities - old_log_probabilities) * weights
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    advantage = advantage * weights
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).sum()
    off = (ratio.detach() - 1).abs()
    error = (values - returns) ** 2
    if config.value_clip is not None:
        near = old_values + (values - old_values).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (near - returns) ** 2)
    return {
        "policy": policy_loss,
        "value": 0.5 * (error * weights).sum(),
        "entropy": (entropy * weights).sum(),
        "kl": ((ratio - 1) - log_ratio).detach().sum(),
        "clipped": (off > config.clip).sum(),
        "ratio": off.max(),
    }


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Set a generator's state; one of another kind of device gives the seed of a new stream."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        digest = hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest()
        generator.manual_seed(int.from_bytes(digest))
