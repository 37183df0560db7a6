"""Many environments stepped together: one class over several backends."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from shoal.errors import (
    ActionError,
    ClosedError,
    PendingCallError,
    ResetNeededError,
    StepTimeoutError,
    WorkerDied,
)
from shoal.rows.actions import ActionLayout
from shoal.rows.fields import GIVEN, KEEP, RESET, STEP
from shoal.vectorization.backend import Backend, Options, seeds
from shoal.vectorization.infos import add_info
from shoal.vectorization.receive import EpisodeLog, any_ended, collect, put_actions
from shoal.vectorization.stepper import Deferral

__all__ = ["Batch", "Vector", "action_rows", "check_reset_mask"]


class Batch(NamedTuple):
    """What `Vector.recv` returns: one row for each agent of each environment in the batch.

    `observations` is a view of shared memory and stays as it is until the second `recv` after the
    one that returned it; every other array is the caller's own.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: Any
    agent_ids: np.ndarray
    masks: np.ndarray


class Vector(VectorEnv):
    """Environments of one kind, stepped together; made by `shoal.vectorize`.

    A `gymnasium.vector.VectorEnv`, whose `reset` and `step` serve all environments at once, with
    the asynchronous `async_reset`, `send` and `recv` besides. All arrays have one row for each
    agent: environment i has rows ``i * agents_per_env`` and on.

    Attributes:
        num_envs: environments.
        agents_per_env: rows of each environment; 1 for single-agent ones.
        num_rows: rows of all environments: ``num_envs * agents_per_env``.
        batch_size: environments in what one `recv` returns; ``num_envs`` unless it is a pool.
        backend: ``"serial"``, ``"multiprocess"``, ``"pool"``, ``"native"``, ``"batched"`` or
            ``"ray"``.
        choice: which backend that is and why it was chosen, in words.
        num_workers: processes that step environments, 0 in this process; of ``"native"``, threads.
        observation_layout: how an observation lies in its row; `Layout.view` nests it.
        action_layout: how an action lies in its row.
        single_observation_space, single_action_space: of one agent.
        observation_space, action_space: of a batch.
        copy: whether observations are copied before they are returned.
        list_infos: set it to True to get infos as a list instead, with a dict for each row: what
            its environment returned. Where an episode has ended in ``SAME_STEP`` mode, it has that
            step's info under ``"final_info"``, and those of the reset beside it.
        env_ids: environments of the last batch (int64).
        action_masks: legal choices in the last batch (bool, ``(rows, choices)``), a view like the
            observations; all True where environments say nothing.
        acting: rows of the last batch whose agent acts next (bool).
        occupants: who is in each row of the last batch: index in ``possible_agents``, or the
            number of an agent that joined; -1 for nobody (int64).
        final_observations: where an episode ended in the last batch, its true last observation; a
            view like the observations. In ``NEXT_STEP`` and ``DISABLED`` mode these are the
            observations themselves.
        finals: rows of the last batch whose environment was reset in the same step (bool).
        episode_returns, episode_lengths: of each row's episode so far, the last step included; at
            the end of an episode, of all of it.

    Examples:
        >>> import shoal
        >>> vector = shoal.vectorize("squared", 4, batch_size=2, order="fixed")
        >>> vector.async_reset(seed=0)
        >>> batch = vector.recv()  # the first two environments; the others go on
        >>> vector.env_ids, batch.masks
        (array([0, 1]), array([ True,  True]))
        >>> vector.send([1, 1])
        >>> vector.recv().agent_ids
        array([2, 3])
        >>> vector.close()
    """

    def __init__(self, backend: Backend, options: Options, choice: str):
        description = backend.description
        self._backend = backend
        self._finalizer = weakref.finalize(self, backend.release)
        self.backend = backend.name
        self.num_workers = backend.num_workers
        self.num_envs = backend.num_envs
        self.batch_size = backend.batch_size
        self.agents_per_env = description.agents_per_env
        self.num_rows = self.num_envs * self.agents_per_env
        self.agents = list(description.agents)
        self.observation_layout = description.observation_layout
        self.action_layout = description.action_layout
        self.copy = options.copy
        self.choice = choice
        self.list_infos = False
        autoreset = None if options.autoreset == "own" else options.autoreset
        self.metadata = {**(description.metadata or {}), "autoreset_mode": autoreset}
        self.render_mode = description.render_mode
        self.spec = None
        self.env_spec = description.spec
        self.autoreset = autoreset
        self._seed: Any = options.seed
        self._arrays: dict[str, np.ndarray] = {}  # of the last batch
        self._begun = autoreset is None  # environments have been reset, or given a state
        self._needs_reset = np.ones(self.num_envs, bool)  # DISABLED: episode over, or never begun
        self._in_flight = np.zeros(self.num_envs, bool)  # posted, not received; in pools only
        self._debug = options.emulation.debug
        self._pending = "reset"  # what was posted last
        self._kept: tuple | None = None  # a batch whose receipt was interrupted at the very end
        self._ended: str | None = None  # why nothing works any more
        # All is in order for `send`: the shortest way through it.
        self._may_step = False
        self._steps_freely = (
            self.batch_size == self.num_envs and autoreset is not AutoresetMode.DISABLED
        )
        self._notes_ends = autoreset in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
        self._lends = backend.lends_actions and self.batch_size == self.num_envs
        self._actions: Any = backend.arena.arrays["actions"]
        self._blocks = backend.arena.blocks
        self._counters = backend.arena.arrays["counters"]
        self._profiled = time.perf_counter_ns(), self._counters.copy()
        self._bounds = self.action_layout.bounds
        self._rows = np.arange(self.num_rows).reshape(self.num_envs, self.agents_per_env)
        self._all_rows = np.arange(self.num_rows)
        self.env_ids = np.arange(self.batch_size)
        self._log = EpisodeLog(self.num_rows, self.agents_per_env)

    # Made when first asked for: of large observations they take seconds and much memory.

    @functools.cached_property
    def single_observation_space(self) -> Space:  # type: ignore[override]
        return self.observation_layout.flat_space

    @functools.cached_property
    def single_action_space(self) -> Space:  # type: ignore[override]
        return self.action_layout.flat.space  # not the one that an environment samples from

    @functools.cached_property
    def observation_space(self) -> Space:  # type: ignore[override]
        return batch_space(self.single_observation_space, self.batch_size * self.agents_per_env)

    @functools.cached_property
    def action_space(self) -> Space:  # type: ignore[override]
        return batch_space(self.single_action_space, self.batch_size * self.agents_per_env)

    # -- all environments at once -------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | np.ndarray | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: environment i gets ``seed + i``, or ``seed[i]``. None: the vector's own `seed` the
                first time, and after that the environments' generators just run on.
            options: for all environments, or one for each. ``options["reset_mask"]`` (bool,
                ``(num_envs,)``) leaves the environments alone where it is False; their rows keep
                what they held, but for `masks`, which are False.

        Returns:
            (observations, infos)
        """
        self._whole("reset")
        num_returned = self._num_returned()
        try:
            self.async_reset(seed=seed, options=options)
            observations, *_, infos, _ = self._receive(None)
            return observations, infos
        except BaseException:
            self._keep(num_returned)
            raise

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment.

        Args:
            actions: one row for each agent, in `action_space`. They must stay as they are until
                this returns, or `recv` if this was interrupted or was not in time.

        Returns:
            (observations, rewards, terminations, truncations, infos); rewards are float64. The
            observations stay as they are until the second step after this one (`copy` makes them
            your own); the rest is yours.

        Raises:
            ActionError: nothing was stepped.
        """
        num_returned = self._num_returned()
        try:
            if self._may_step and put_actions(
                self._actions, actions, self._bounds, copy=not self._lends
            ):
                self._post("step", STEP, None, None, actions if self._lends else None)
            else:
                self._whole("step")
                self.send(actions)
            return self._receive(None)[:5]
        except BaseException:
            self._keep(num_returned)
            raise

    def _whole(self, name: str) -> None:
        if self.batch_size != self.num_envs:
            raise PendingCallError(
                f"{name} serves all environments at once, but this vector receives batches of "
                f"{self.batch_size} of {self.num_envs}; use async_reset, send and recv",
                name,
            )

    # -- asynchronous -------------------------------------------------------------------------

    def async_reset(
        self,
        *,
        seed: int | Sequence[int | None] | np.ndarray | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Reset every environment, see `reset`; `recv` returns their first observations."""
        self._usable()
        if pending := self._to_receive():
            raise PendingCallError(
                f"reset: a {pending} is pending; call recv until all of its environments have "
                "answered",
                pending,
            )
        seed = seeds(seed)
        VectorEnv.reset(self, seed=seed if isinstance(seed, int) else None)
        seed = self._seed if seed is None else seed  # of the first reset, if that is given none
        each_seed = self._each("seed", seed, lambda first, i: first + i)
        mask = None
        if isinstance(options, Mapping) and "reset_mask" in options:
            options = dict(options)
            mask = check_reset_mask(options.pop("reset_mask"), self.num_envs)
            if not self._begun:
                raise PendingCallError("reset_mask: reset all environments first", "reset")
        each = self._each("options", options, lambda same, i: same)
        requests = {i: (each_seed[i], each[i]) for i in range(self.num_envs)}
        ops: Any = RESET if mask is None else np.where(mask, RESET, KEEP).astype(np.int32)
        self._log.restart(self._rows if mask is None else self._rows[mask])
        self._post("reset", ops, None, requests)

    def send(
        self,
        actions: Any,
        env_ids: Sequence[int] | np.ndarray | None = None,
        *,
        keep_others: bool = False,
    ) -> None:
        """Give actions to environments and return at once.

        Args:
            actions: one row for each agent of `env_ids`, in that order.
            env_ids: default: the environments of the last batch. All environments, if a batch is
                all of them (without `keep_others`).
            keep_others: where a batch is all environments: those not in `env_ids` stay as they
                are, and the next batch has what their rows held, with `masks` False.

        Raises:
            ActionError: wrong count, shape, dtype or value; nothing was sent.
            PendingCallError: one of the environments has not answered its last call.
        """
        try:
            if self._may_step and env_ids is None:
                if not put_actions(self._actions, actions, self._bounds):
                    self._write_actions(actions, slice(None))
                self._post("step", STEP, None, None)
                return
            self._usable()
            if keep_others:
                self._whole("send with keep_others")
            whole = self.batch_size == self.num_envs
            some = env_ids is not None or not whole
            pending = self._to_receive()
            if pending and (whole or self._kept is not None):
                raise PendingCallError(f"step: a {pending} is pending; call recv first", pending)
            envs: Any = None
            rows: Any = slice(None)
            if some:
                envs = self.env_ids if env_ids is None else self._check_env_ids(env_ids)
                if self._in_flight[envs].any():
                    busy = envs[self._in_flight[envs]].tolist()
                    raise PendingCallError(
                        f"step: environments {busy} have not answered yet", "step"
                    )
                if whole and len(envs) < self.num_envs and not keep_others:
                    raise ActionError(
                        f"env_ids must name all {self.num_envs} environments, because a batch is "
                        f"all of them, got {len(envs)}; keep_others=True leaves the others alone"
                    )
                rows = self._rows[envs].reshape(-1)
            if not self._begun:
                raise PendingCallError("step: reset the environments first", "reset")
            if self.autoreset is AutoresetMode.DISABLED:
                self._check_not_over(self.env_ids if envs is None else envs)
            if some or not put_actions(self._actions, actions, self._bounds):
                self._write_actions(actions, rows)
            if keep_others and some and len(envs) < self.num_envs:
                ops = np.full(self.num_envs, KEEP, np.int32)
                ops[envs] = STEP
                self._post("step", ops, None, None)
            else:
                self._post("step", STEP, None if whole else envs, None)
        except Exception:
            self._usable()  # has another thread closed it?
            raise

    def send_objects(self, actions: Sequence[Any]) -> None:
        """Give every environment an action as it stands: pickled, not laid out, not checked.

        For adapters to interfaces that let anything be an action. Environments must have one agent.
        """
        self._usable()
        self._whole("send_objects")
        if not self._backend.takes_objects:
            raise ActionError(f"{self.backend} environments take only rows of actions")
        pending = self._to_receive()
        if pending or not self._begun:
            first = f"a {pending} is pending; call recv" if pending else "reset the environments"
            raise PendingCallError(f"step: {first} first", pending or "reset")
        if len(actions) != self.num_envs:
            raise ActionError(f"actions: expected {self.num_envs}, got {len(actions)}")
        if self.autoreset is AutoresetMode.DISABLED:
            self._check_not_over(self.env_ids)
        self._post("step", GIVEN, None, dict(enumerate(actions)))

    def recv(self, timeout: float | None = None) -> Batch:
        """Wait for the next batch: all environments, or the `batch_size` that are ready first.

        Args:
            timeout: seconds; default: that of the vector.

        Raises:
            PendingCallError: no batch is on its way.
            StepTimeoutError: not in time; the batch is still on its way.
            WorkerDied: a worker process has ended.
            Exception: whatever an environment raised, with a note on where.
        """
        num_returned = self._num_returned()
        try:
            observations, rewards, terminations, truncations, infos, masks = self._receive(timeout)
            if self.batch_size == self.num_envs:
                agent_ids = self._all_rows.copy()
            else:
                agent_ids = self._rows[self.env_ids].reshape(-1)
            return Batch(observations, rewards, terminations, truncations, infos, agent_ids, masks)
        except BaseException:
            self._keep(num_returned)
            raise

    def _receive(self, timeout: float | None) -> tuple:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        backend, log, size = self._backend, self._log, self.batch_size
        turn = log.num_batches
        if self._ended is not None or backend.num_posted < (turn + 1) * size:
            self._usable()
            raise PendingCallError(
                f"recv: {backend.num_posted - turn * size} environments are on their way, and a "
                f"batch takes {size}; send actions first",
                "step",
            )
        try:
            if self._debug and turn > 1:  # the call of this recv ends the older one's life
                backend.arena.poison((turn - 2) % len(self._blocks))
            # All that can be interrupted until `collect` is done again by the next call.
            backend.wait(turn, timeout)
            block = turn % len(self._blocks)
            infos = backend.each_info(block) if self.list_infos else backend.infos(block)
            arrays = self._arrays = self._blocks[block]
            if size != self.num_envs:
                self.env_ids = backend.env_ids(block)
            counted: list = []
            if self._pending == "reset":
                self._begun, self._seed = True, None
                self._note_over(arrays)
            if (infos or self._notes_ends) and any_ended(arrays):
                self._note_over(arrays)
                if infos or self.autoreset is AutoresetMode.SAME_STEP:
                    counted = self._last_infos(arrays, infos)
            observations = arrays["observations"]
            if self.copy:
                observations = observations.copy()
            result = collect(arrays, self.env_ids, log, observations, infos, counted)
            if size != self.num_envs:
                self._in_flight[self.env_ids] = False
            self._may_step = self._steps_freely
            return result
        except StepTimeoutError:
            raise
        except Exception as error:
            self._usable()  # has another thread closed it?
            self._end(error)
            raise

    def _num_returned(self) -> int:
        """Return how many batches the caller has got."""
        return self._log.num_batches - (self._kept is not None)

    def _keep(self, num_returned: int) -> None:
        """Keep a batch that was collected, and not returned because of an interrupt."""
        if self._log.num_batches != num_returned:
            self._may_step = False
            self._in_flight[self.env_ids] = False
            self._kept = self._log.last

    def _to_receive(self) -> str | None:
        """Return the name of the call that waits to be received: None if there is none."""
        in_flight = self._backend.num_posted - self._log.num_batches * self.batch_size
        return self._pending if in_flight or self._kept is not None else None

    # -- the last batch -----------------------------------------------------------------------

    def _last(self, name: str) -> np.ndarray:
        if not self._arrays:
            self._usable()
            raise PendingCallError(f"{name}: no batch has been received yet", "reset")
        return self._arrays[name]

    @property
    def final_observations(self) -> np.ndarray:
        same = self.autoreset is AutoresetMode.SAME_STEP
        return self._last("final_observations" if same else "observations")

    @property
    def finals(self) -> np.ndarray:
        return self._last("finals")

    @property
    def action_masks(self) -> np.ndarray:
        return self._last("action_masks")

    @property
    def acting(self) -> np.ndarray:
        return self._last("acting")

    @property
    def occupants(self) -> np.ndarray:
        return self._last("occupants")

    @property
    def episode_returns(self) -> np.ndarray:
        return self._last("episode_returns")

    @property
    def episode_lengths(self) -> np.ndarray:
        return self._last("episode_lengths")

    @property
    def restarts(self) -> int:
        """How many environments have been replaced so far (``on_error="restart"``)."""
        return int(self._counters[:, 3].sum())

    def statistics(self) -> dict[str, float]:
        """Return means over the episodes that have ended since the last call.

        Returns:
            ``episodes`` (how many), ``return``, ``length`` (steps), ``time`` (seconds), and the
            mean of every number in the infos of their last steps; an info that has one of these
            names is called ``info/return``. Just ``{"episodes": 0}`` if none has ended. Episodes
            that a restart cut off do not count.
        """
        return self._log.take()

    def profile(self) -> dict[str, float]:
        """Return where the time of the stepping processes went since the last call.

        Returns:
            Shares that add up to 1: ``environment`` (in the environments' own methods),
            ``packing`` (writing results to their rows), ``waiting`` (workers: for the next
            actions), and ``other`` (infos and signals; with the serial backend, the caller too).

        Raises:
            ValueError: nothing was measured, because the vector was made without ``profile=True``.
        """
        if not self._counters[:, :3].any():
            raise ValueError("profile: nothing was measured; vectorize(..., profile=True) does")
        (since, before), now = self._profiled, time.perf_counter_ns()
        self._profiled = now, self._counters.copy()
        spent = (self._profiled[1] - before)[:, :3].sum(axis=0)
        # A wait counts when it ends, even if it began before `since`.
        used = spent / max((now - since) * len(before), spent.sum())
        shares = dict(zip(("environment", "packing", "waiting"), used.tolist(), strict=True))
        return {**shares, "other": max(0.0, 1 - sum(shares.values()))}

    # -- single environments ------------------------------------------------------------------

    def call(self, name: str | Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment (or read an attribute): a tuple of results.

        Args:
            name: of the method or attribute; or a function, which is called as
                ``name(environment, *args, **kwargs)`` where the environment is.
        """
        return self._call("call", [(name, args, kwargs)] * self.num_envs)

    def call_on(
        self, env_ids: Sequence[int], name: str | Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> list[Any]:
        """Call some of the environments; return a list of results in the order of `env_ids`."""
        arguments: list[Any] = [None] * self.num_envs
        for i in env_ids:
            arguments[i] = (name, args, kwargs)
        results = self._call("call", arguments)
        return [results[i] for i in env_ids]

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every environment: a list or tuple has one value for each."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                f"set_attr: expected {self.num_envs} values, one for each environment, "
                f"got {len(values)}"
            )
        self._call("set_attribute", [(name, value) for value in values])

    def set_options(self, options: Any) -> None:
        """Give these options to every automatic reset from now on.

        Args:
            options: a dict for all environments, or a sequence with one (or None) for each.
        """
        each = self._each("options", options, lambda same, i: same)
        self._call("set_options", [(one,) for one in each])

    def render(self, index: int | None = None) -> Any:
        """Return what environment `index` renders, or a tuple of what all of them render."""
        if index is None:
            return self.call("render")
        return self.call_on([index], "render")[0]

    def get_state(self) -> tuple[Any, ...]:
        """Return a snapshot of every environment, from which `set_state` goes on exactly.

        Environments that save themselves (``get_state`` and ``set_state``, or ``clone_state`` and
        ``restore_state``, as Atari's do) are asked for it; others are pickled, wrappers included.
        Global generators (`random`, `numpy.random`, torch) are not part of it, and Atari's state
        has not the last action, which the first sticky action after it may repeat.

        Raises:
            EmulationError: an environment does neither.
        """
        return self._call("get_state", [()] * self.num_envs)

    def set_state(self, states: Sequence[Any]) -> None:
        """Bring every environment to where it was at `get_state`, of this vector or one like it.

        The next call may be `step`; the attributes of the last batch stay as they are until then.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"set_state: expected {self.num_envs} states, got {len(states)}")
        self._call("set_state", [(state,) for state in states])
        self._needs_reset[:] = [state["loop"]["pending"] for state in states]
        self._begun = True

    def _call(self, method: str, arguments: list[Any]) -> tuple[Any, ...]:
        self._usable()
        if pending := self._to_receive():
            raise PendingCallError(f"{method}: a {pending} is pending; call recv first", pending)
        try:
            return tuple(self._backend.call(method, arguments))
        except (WorkerDied, StepTimeoutError, KeyboardInterrupt) as error:
            self._usable()  # has another thread closed it?
            self._end(error)  # an answer that comes late would be taken for that of another call
            raise
        except Exception:
            self._usable()
            raise

    def close_extras(self, **kwargs: Any) -> None:
        """Release everything: at most 5 seconds, whatever the environments are doing.

        Raises:
            Exception: the first that an environment raised when it was closed.
        """
        self._ended = self._ended or "closed"
        self._may_step = False
        try:
            with Deferral():
                self._backend.close()
        finally:
            self._finalizer.detach()
            # What could hold the memory. Another thread may still come by.
            self._arrays, self._blocks, self._kept, self._log.last = {}, [], None, None
            self._actions, self._counters = np.empty(0), self._counters.copy()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Vector can't be pickled or copied, because its environments are running; pickle the "
            "arguments of shoal.vectorize, or what get_state() returns"
        )

    def _end(self, error: BaseException) -> None:
        """Close after an error, which has been raised."""
        said = str(error)[:1000]
        self._ended = f"ended by an earlier error: {type(error).__name__}: {said}"
        try:
            self.close_extras()
        except Exception:  # the earlier one says more
            pass

    # -- checks -------------------------------------------------------------------------------

    def _usable(self) -> None:
        if self._ended is not None:
            raise ClosedError(f"this vector is {self._ended}")

    def _each(self, what: str, value: Any, one: Callable[[Any, int], Any]) -> list[Any]:
        """Return one value for each environment."""
        if value is None:
            return [None] * self.num_envs
        if isinstance(value, (int, np.integer, Mapping)):
            return [one(value, i) for i in range(self.num_envs)]
        if len(value) != self.num_envs:
            raise ValueError(
                f"{what}: expected one for each of {self.num_envs} environments, got {len(value)}"
            )
        return list(value)

    def _check_env_ids(self, env_ids: Any) -> np.ndarray:
        envs = np.asarray(env_ids)
        if envs.ndim != 1 or envs.dtype.kind not in "iu":
            raise ValueError(f"env_ids: expected a list of integers, got {env_ids!r}")
        if envs.size and (envs.min() < 0 or envs.max() >= self.num_envs):
            raise ValueError(f"env_ids: expected 0 to {self.num_envs - 1}, got {env_ids!r}")
        if len(np.unique(envs)) != len(envs):
            raise ValueError(f"env_ids: an environment is named twice in {env_ids!r}")
        return np.ascontiguousarray(envs, np.int64)

    def _check_not_over(self, envs: np.ndarray) -> None:
        if self._needs_reset[envs].any():
            over = envs[self._needs_reset[envs]].tolist()
            raise ResetNeededError(
                f"step: the episodes of environments {over} are over, and autoreset is disabled; "
                'reset them with options={"reset_mask": ...}'
            )

    def _write_actions(self, actions: Any, rows: Any) -> None:
        """Check actions, and only then put them where the environments find them."""
        count = self.num_rows if isinstance(rows, slice) else len(rows)
        self._actions[rows] = action_rows(self.action_layout, actions, count)

    def _post(
        self,
        name: str,
        ops: Any,
        envs: np.ndarray | None,
        requests: Any,
        lent: np.ndarray | None = None,
    ) -> None:
        """Give environments an operation. An interrupt leaves all of them posted, or none."""
        self._may_step = False
        self._pending = name
        try:
            if self.batch_size == self.num_envs:
                self._backend.post(ops, envs, requests, lent)
                return
            before = self._backend.num_posted
            try:
                self._in_flight[slice(None) if envs is None else envs] = True
                self._backend.post(ops, envs, requests)
            except BaseException:
                if self._backend.num_posted == before:
                    self._in_flight[slice(None) if envs is None else envs] = False
                raise
        except Exception:
            self._usable()  # has another thread closed it?
            raise

    def _note_over(self, arrays: dict) -> None:
        """Note which environments of a batch must be reset, where they do not do it themselves."""
        if self.autoreset is AutoresetMode.DISABLED:
            acting = arrays["acting"].reshape(self.batch_size, -1)  # agents may end one by one
            self._needs_reset[self.env_ids] = ~acting.any(axis=1)

    def _last_infos(self, arrays: dict, infos: Any) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Return the infos of episodes that have ended, each dict with its rows (bool).

        Adds ``final_obs`` to the infos.
        """
        ended = arrays["terminations"] | arrays["truncations"]
        rows, finals = ended & arrays["masks"], arrays["finals"]
        if self.list_infos:
            found = []
            for row in rows.nonzero()[0].tolist():
                last = infos[row].get("final_info") if finals[row] else infos[row]
                if last:
                    info: dict[str, Any] = {}
                    add_info(info, last, 0, 1)
                    found.append((info, np.ones(1, bool)))
            return found
        if self.autoreset is not AutoresetMode.SAME_STEP:
            return [(infos, rows)]
        if finals.any():
            at = np.flatnonzero(finals)
            final_obs = np.empty(len(finals), object)
            for row, observation in zip(at.tolist(), arrays["final_observations"][at]):
                final_obs[row] = observation
            infos["final_obs"], infos["_final_obs"] = final_obs, finals.copy()
        return [(infos, rows & ~finals), (infos.get("final_info", {}), rows & finals)]


def action_rows(layout: ActionLayout, actions: Any, count: int) -> np.ndarray:
    """Return actions for `count` agents as one array of rows, perhaps the caller's own.

    Raises:
        ActionError: wrong count, shape, dtype or value.
    """
    flat = layout.flat
    if isinstance(layout.flat_space, gymnasium.spaces.Dict):
        array = flat.zeros(count)
        parts = flat.view(array)
        if not isinstance(actions, Mapping) or actions.keys() != parts.keys():
            got = list(actions) if isinstance(actions, Mapping) else type(actions).__name__
            raise ActionError(f"actions: expected a dict of {list(parts)}, got {got}")
        for key, part in parts.items():
            part[...] = as_rows(actions[key], part.shape, part.dtype, f"actions[{key!r}]")
    else:
        array = as_rows(actions, (count, *flat.shape), flat.dtype, "actions")
    layout.check(array)
    return array


def as_rows(actions: Any, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    """Return actions as an array of this shape and dtype, if that changes no value."""
    try:
        array = np.asarray(actions)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged; a tensor on another device
        raise ActionError(f"{where}: {error}") from None
    if array.shape != shape:
        raise ActionError(
            f"{where}: expected shape {shape}, one row for each agent, got {array.shape}"
        )
    if array.dtype == dtype:
        return array
    if np.can_cast(array.dtype, dtype, "same_kind") and dtype.kind == "f":
        return array.astype(dtype)
    if array.dtype.kind in "biu" and dtype.kind in "biu":
        cast = array.astype(dtype)
        if (cast == array).all():
            return cast
        raise ActionError(f"{where}: {array[cast != array][0]} doesn't fit {dtype}")
    raise ActionError(f"{where}: expected {dtype}, got {array.dtype}")


def check_reset_mask(mask: Any, num_envs: int) -> np.ndarray:
    """Return a reset mask as Gymnasium demands it."""
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"reset_mask: expected a NumPy array, got {type(mask).__name__}")
    if mask.shape != (num_envs,):
        raise ValueError(f"reset_mask: expected shape ({num_envs},), got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"reset_mask: expected dtype bool, got {mask.dtype}")
    if not mask.any():
        raise ValueError("reset_mask: at least one environment must be reset, got none")
    return mask
