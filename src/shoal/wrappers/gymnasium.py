"""Gymnasium: drop-in classes for its vectors, and creation through its registry.

`ShoalSyncVectorEnv` and `ShoalAsyncVectorEnv` are Gymnasium's own classes with another way to the
environments. Their constructors, checks, states, errors and warnings are inherited. What is new is
a fast lane: actions that are arrays of the right dtype, and observations with a fixed layout, go
through a Shoal vector, which packs them in compiled code; asynchronous ones through shared memory.
All else (custom spaces, lists of actions, resets, calls) takes Gymnasium's own code: of the
synchronous class as it is; of the asynchronous one, with a `Line` for each pipe, which hands what
is sent to the environment as a `Command`.

Invariants:
- Environments reset themselves (`SubEnv`), and the vector below (``autoreset="own"``) just steps.
- Every environment gets one command, or one action, before the answers of all are received. An
  answer that came too late (a timeout) is dropped before the next is asked for.
"""

from __future__ import annotations

import copy as copying
import functools
import importlib
import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, CustomSpaceError
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space, create_empty_array, create_shared_memory, iterate

from shoal.errors import ActionError, LayoutError, StepTimeoutError
from shoal.rows.layout import Layout
from shoal.rows.spec import ARRAYS, kind_of
from shoal.vectorization import vectorize
from shoal.vectorization.sync import usable_cores
from shoal.vectorization.workers import pickle_messages
from shoal.vectorization.workers.channel import error_message, read_error
from shoal.vectorization.workers.group import find_attribute

__all__ = ["ShoalAsyncVectorEnv", "ShoalSyncVectorEnv", "make_vec", "vector_spec"]

ASIDE = "shoal: aside"  # key of the infos in which `SubEnv` returns what is not part of a step
NOT_BY_CALL = ("reset", "step", "close", "_setattr", "_check_spaces")


# -- spaces ---------------------------------------------------------------------------------------


def has_rows(space: Any) -> bool:
    """Return whether Gymnasium batches this space as arrays: one row, one observation."""
    try:
        leaves = Layout.from_space(space).leaves
    except LayoutError:
        return False
    return bool(leaves) and all(leaf.kind in ("box", "discrete", "binary") for leaf in leaves)


def row_space(space: Any) -> spaces.Space | None:
    """Return a space of the same dtype and shape that every action is in; None if there is none.

    Gymnasium checks no actions, so bounds must not stop any from reaching the environment. Small
    integers are left out, for they would count as choices, of which there can be masks.
    """
    dtype = space.dtype
    if kind_of(space) not in ARRAYS or not 4 <= dtype.itemsize <= 8:
        return None
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(2**62, start=-(2**61)) if dtype == np.int64 else None
    if not space.shape:  # Gymnasium gives scalars, a row has an array
        return None
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, space.shape, dtype.type)
    return spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, space.shape, dtype.type)


# -- beside an environment ------------------------------------------------------------------------


class Command:
    """What Gymnasium's class sends to an environment: a name and what goes with it."""

    def __init__(self, name: str, data: Any):
        self.name = name
        self.data = data


class Failure:
    """What an environment raised; it survives pickling, whatever its type."""

    def __init__(self, error: Exception, trace: str):
        self.error = error
        self.trace = trace

    def __reduce__(self) -> Any:
        return unpack_failure, (
            error_message(pickle_messages, self.error, "in an environment"),
            self.trace,
        )

    def __deepcopy__(self, memo: Any) -> Failure:
        return self  # the error as it is


def unpack_failure(message: bytes, trace: str) -> Failure:
    """Return the failure that was pickled."""
    return Failure(read_error(pickle_messages, message), trace)


class SubEnv(gymnasium.Env):
    """An environment as Gymnasium's vectors treat it: it resets itself, and takes commands.

    It raises nothing: a `Failure` is in ``info[ASIDE]``, and so are the answers to commands.

    Args:
        env_fn: creates the environment.
        mode: when it is reset.
        space: of observations, in rows; None if they travel in answers only.
        action_space: of actions, in rows; None if they travel in commands only.
        share: answers leave out observations, which are in the rows.
        sync: it is for the synchronous class, which closes its environments itself, and asserts
            that none is stepped past its end where nobody has reset it.

    Attributes:
        env: the environment.
        over: its episode has ended, and it has not been reset.
    """

    def __init__(
        self,
        env_fn: Callable[[], Any],
        mode: AutoresetMode,
        space: spaces.Space | None,
        action_space: spaces.Space | None,
        share: bool = False,
        sync: bool = False,
    ):
        nothing = spaces.Box(0, 1, (1,), np.float32)
        self.env = env_fn()
        self.observation_space = nothing if space is None else space
        self.action_space = nothing if action_space is None else action_space
        self.over = False
        layout = Layout.from_space(self.observation_space)
        self._in_rows = space is not None
        self._zero = layout.unpack(layout.zeros())
        self._last: Any = None  # the last observation
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._share = share
        self._sync = sync
        self._strict = sync and mode is AutoresetMode.DISABLED

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environment, or do what its mode says; or carry out a `Command`."""
        try:
            command = action if type(action) is Command else None
            if command is not None and command.name != "step":
                aside: Any = cloudpickle.dumps(self._obey(command.name, command.data))
            else:
                result = self._go_on() if self.over else None
                if result is None:
                    result = self.env.step(action if command is None else command.data)
                    if result[2] or result[3]:
                        result = self._end(result)
                self._last = result[0]
                if command is None:
                    return result
                aside = cloudpickle.dumps((None if self._share else self._last, *result[1:]))
        except Exception as error:
            aside = Failure(error, traceback.format_exc())
        row = self._last if self._in_rows and self._last is not None else self._zero
        return row, 0.0, False, False, {ASIDE: aside}

    def _go_on(self) -> tuple[Any, Any, Any, Any, dict[str, Any]] | None:
        """Return the first result of the next episode; None if the episode goes on."""
        if self._strict:
            raise AssertionError("the episode is over, and autoreset is disabled: reset first")
        self.over = False
        if not self._next_step:
            return None
        observation, info = self.env.reset()
        return observation, 0.0, False, False, info

    def _end(self, result: tuple[Any, Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Return the result that ends an episode, as the autoreset mode changes it."""
        if not self._same_step:
            self.over = True
            return result
        # Copies, for environments fill the same objects again.
        last, reward, terminated, truncated, final_info = result
        if self._in_rows:
            last, final_info = copying.deepcopy(last), dict(final_info)
        ends = {"final_info": final_info, "final_obs": last}
        observation, info = self.env.reset()
        return observation, reward, terminated, truncated, {**ends, **info}

    def _obey(self, name: str, data: Any) -> Any:
        """Do what a worker of Gymnasium's does with what comes through its pipe."""
        if name == "reset":
            self._last, info = self.env.reset(**data)
            self.over = False
            return None if self._share else self._last, info
        if name == "reset-noop":
            return None if self._share else self._last, {}
        if name == "_call":
            name, args, kwargs = data
            if name in NOT_BY_CALL:
                raise ValueError(f"call: {name!r} has a method of the vector, use that")
            value = find_attribute(self.env, name)
            return value(*args, **kwargs) if callable(value) else value
        if name == "_setattr":
            return self.env.set_wrapper_attr(*data)
        mode, space, action_space = data  # "_check_spaces"
        own = self.env.observation_space
        same = space == own if mode == "same" else is_space_dtype_shape_equiv(space, own)
        return same, action_space == self.env.action_space

    def close(self) -> None:
        """Close the environment, if nobody else does."""
        if not self._sync:
            self.env.close()


# -- in place of pipes ----------------------------------------------------------------------------


class Hub:
    """Sends commands to all environments of a vector, and holds their answers.

    Attributes:
        vector: the environments, as `SubEnv`.
        pending: something has been sent whose batch has not been received.
        rows: observations of the last batch.
        broken: why no more can be sent: an environment has failed.
    """

    def __init__(self, vector: Any):
        self.vector = vector
        self.pending = False
        self.rows: Any = None
        self.broken: str | None = None
        self._commands: dict[int, Command] = {}
        self._answers: dict[int, Any] = {}

    def send(self, index: int, command: Command) -> None:
        """Note a command; with that of the last environment, all are sent."""
        self._commands[index] = command
        if len(self._commands) == self.vector.num_envs:
            self.make_way()
            commands, self._commands = self._commands, {}
            self.vector.send_objects([commands[i] for i in range(len(commands))])
            self.pending = True

    def make_way(self) -> None:
        """Drop answers that nobody has waited for long enough, but for failures among them."""
        self._answers = {}
        late = self.recv(None).infos if self.pending else {}
        for i, answer in enumerate(late.get(ASIDE, ())):
            if isinstance(answer, Failure):
                self.broken = f"environment {i} has failed"
                raise answer.error

    def recv(self, timeout: float | None) -> Any:
        """Return the next batch; None if there is none in time."""
        try:
            batch = self.vector.recv(timeout)
        except StepTimeoutError:
            return None
        except Exception as error:  # a worker has died, or an observation fits no row
            self.broken = f"it has ended with {type(error).__name__}"
            self.pending = False
            raise
        self.pending = False
        self.rows = batch.observations
        return batch

    def wait(self, timeout: float | None) -> bool:
        """Wait for answers to commands; False if they are not there in time."""
        if not self._answers:
            batch = self.recv(timeout) if self.pending else None
            if batch is None:
                return False
            self._answers = dict(enumerate(batch.infos[ASIDE]))
        return True

    def take(self, index: int) -> Any:
        """Return the answer of one environment, once: pickled, or a `Failure`."""
        self.wait(None)
        return self._answers.pop(index)


class Line:
    """One environment's end of a `Hub`, with what Gymnasium uses of a pipe.

    Args:
        errors: gets what is raised, as Gymnasium's workers put it there.
    """

    def __init__(self, hub: Hub, errors: queue.SimpleQueue, index: int):
        self.closed = False
        self._hub = hub
        self._errors = errors
        self._index = index

    def send(self, message: tuple[str, Any]) -> None:
        """Send a command; "close" is for the vector."""
        if message[0] == "close":
            self.closed = True
        else:
            self._hub.send(self._index, Command(*message))

    def recv(self) -> tuple[Any, bool]:
        """Return the answer, and whether there is one."""
        answer = self._hub.take(self._index)
        if isinstance(answer, Failure):
            put_failure(self._errors, self._index, answer)
            self._hub.broken = f"environment {self._index} has failed"
            return None, False
        return cloudpickle.loads(answer), True

    def close(self) -> None:
        """End the conversation: nothing more will be sent."""
        self.closed = True


def put_failure(errors: queue.SimpleQueue, index: int, failure: Failure) -> None:
    """Tell Gymnasium's class of a failure. It raises ``first(second)``: the error as it is."""
    errors.put((index, lambda error: error, failure.error, failure.trace))


# -- the drop-in classes --------------------------------------------------------------------------


class ShoalAsyncVectorEnv(AsyncVectorEnv):
    """Gymnasium's `AsyncVectorEnv` over Shoal's workers and shared memory.

    Takes the arguments of the original, and behaves like it. What differs:

    - Workers step several environments each: `max_concurrency` says how many workers there are, by
      default one for each usable core. Environments that wait for one another need one each.
    - With `copy=False`, observations stay as they are until the second batch after them.
    - Nested observations are views of one row for each environment.
    - `context` says how workers start (as `start_method` of `shoal.vectorize`); they are no
      `multiprocessing.Process`, so `processes` is empty, and end with this process whatever
      `daemon` says.
    - A `worker` speaks through pipes: with one, all is as in the original.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env]],
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: Callable[..., None] | None = None,
        observation_mode: Any = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_concurrency: int | None = None,
    ):
        self._hub: Hub | None = None
        limit = max_concurrency
        fine = limit is None or (isinstance(limit, (int, np.integer)) and limit >= 1)
        if worker is not None or not fine:  # what is not fine, the original refuses
            limited = {} if limit is None else {"max_concurrency": limit}
            super().__init__(
                env_fns,
                shared_memory,
                copy,
                context,
                daemon,
                worker,
                observation_mode,
                autoreset_mode,
                **limited,
            )
            return
        # The synchronous class finds out what the environments are, and closes them again.
        all_differ = isinstance(observation_mode, str) and observation_mode == "different"
        model = SyncVectorEnv(
            env_fns if all_differ else env_fns[:1],
            observation_mode=observation_mode,
            autoreset_mode=autoreset_mode,
        )
        model.close()
        self.env_fns = env_fns
        self.copy = copy
        self.context = context
        self.daemon = daemon
        self.worker = worker
        self.observation_mode = observation_mode
        self.autoreset_mode = model.autoreset_mode
        self.max_concurrency = max_concurrency
        self.num_envs = len(env_fns)
        self.metadata = model.metadata
        self.render_mode = model.render_mode
        self.single_observation_space = model.single_observation_space
        self.observation_space = model.observation_space
        if observation_mode == "same":
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = model.single_action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        in_rows = has_rows(self.single_observation_space)
        if shared_memory and not in_rows:
            try:
                create_shared_memory(self.single_observation_space)
            except CustomSpaceError as error:
                raise ValueError(
                    f"{self.single_observation_space} can't be in shared memory; "
                    "use shared_memory=False"
                ) from error
        self.shared_memory = shared_memory and in_rows
        self.observations = create_empty_array(self.single_observation_space, self.num_envs)
        space = self.single_observation_space if in_rows else None
        actions = row_space(self.single_action_space) if in_rows else None
        self._action_dtype = None if actions is None else actions.dtype
        make = functools.partial(
            SubEnv,
            mode=self.autoreset_mode,
            space=space,
            action_space=actions,
            share=self.shared_memory,
        )
        vector = vectorize(
            [functools.partial(make, env_fn) for env_fn in env_fns],
            backend="multiprocess",
            num_workers=min(limit or usable_cores(), self.num_envs),
            autoreset="own",
            start_method=multiprocessing.get_context(context).get_start_method(),
        )
        self._view = vector.observation_layout.view
        self._hub = Hub(vector)
        self._in_lane = False  # the pending step has gone through the fast lane
        self.error_queue: Any = queue.SimpleQueue()
        self.parent_pipes: Any = [Line(self._hub, self.error_queue, i) for i in range(len(env_fns))]
        self.processes = []
        self._state = AsyncState.DEFAULT
        try:
            self._check_spaces()
        except BaseException:
            vector.close()
            self.closed = True
            raise

    def step_async(self, actions: Any) -> None:
        """Send each environment its action; see `AsyncVectorEnv.step_async`."""
        hub = self._hub
        if hub is None or self._state is not AsyncState.DEFAULT:
            return super().step_async(actions)  # which raises, in the second case
        if self.closed or hub.broken is not None:
            self._assert_is_running()  # which raises
        if type(actions) is np.ndarray and actions.dtype == self._action_dtype:
            if hub.pending:
                hub.make_way()
            try:
                hub.vector.send(actions)
            except ActionError:  # of another shape, or with NaN
                pass
            else:
                hub.pending = self._in_lane = True
                self._state = AsyncState.WAITING_STEP
                return
        self._in_lane = False
        single = list(iterate(self.action_space, actions))
        check_count(len(single), self.num_envs)
        for pipe, action in zip(self.parent_pipes, single):
            pipe.send(("step", action))
        self._state = AsyncState.WAITING_STEP

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Return the results of `step_async`; see `AsyncVectorEnv.step_wait`."""
        hub = self._hub
        if hub is None or not self._in_lane or self._state is not AsyncState.WAITING_STEP:
            return super().step_wait(timeout)
        if self.closed or hub.broken is not None:
            self._assert_is_running()  # which raises
        self._state = AsyncState.DEFAULT
        batch = hub.recv(timeout)
        if batch is None:
            raise multiprocessing.TimeoutError(f"step_wait: no results within {timeout} seconds")
        infos = batch.infos
        if ASIDE in infos:
            failures = infos[ASIDE]
            for i in np.flatnonzero(infos[f"_{ASIDE}"]).tolist():
                put_failure(self.error_queue, i, failures[i])
                hub.broken = f"environment {i} has failed"
            self._raise_if_errors(failures == None)  # noqa: E711
        observations = self._view(hub.rows.copy() if self.copy else hub.rows)
        return observations, batch.rewards, batch.terminations, batch.truncations, infos

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the workers; see `AsyncVectorEnv.close`."""
        if self._hub is None:
            return super().close_extras(timeout=timeout, terminate=terminate)
        if self._hub.broken is not None:
            self._state = AsyncState.DEFAULT
        try:
            super().close_extras(timeout=timeout, terminate=terminate)
        finally:
            self._hub.vector.close()

    def _poll_pipe_envs(self, timeout: float | None = None) -> bool:
        """Wait for the answers to what has been sent; False if they are not there in time."""
        if self._hub is None:
            return super()._poll_pipe_envs(timeout)
        self._assert_is_running()
        if not self._hub.wait(timeout):
            return False
        if self.shared_memory:
            self.observations = self._view(self._hub.rows)
        return True

    def _assert_is_running(self) -> None:
        super()._assert_is_running()
        if self._hub is not None and self._hub.broken is not None:
            raise ClosedEnvironmentError(f"this vector is of no more use: {self._hub.broken}")


class ShoalSyncVectorEnv(SyncVectorEnv):
    """Gymnasium's `SyncVectorEnv` with steps through Shoal's serial backend.

    Takes the arguments of the original, and behaves like it. What differs: where an environment
    raises, those after it have been stepped too; and with ``copy=False``, observations stay as
    they are until the second step after them.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env]],
        copy: bool = True,
        observation_mode: str | tuple[spaces.Space, spaces.Space] = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ):
        super().__init__(env_fns, copy, observation_mode, autoreset_mode)
        self._vector: Any = None
        self._rows: Any = None  # observations of the last step, if it was Shoal's
        space = self.single_observation_space
        actions = row_space(self.single_action_space)
        if actions is None or not has_rows(space):
            return
        self._action_dtype = actions.dtype
        self._subs = [
            SubEnv(functools.partial(the, env), self.autoreset_mode, space, actions, sync=True)
            for env in self.envs
        ]
        self._vector = vectorize(
            [functools.partial(the, sub) for sub in self._subs], backend="serial", autoreset="own"
        )
        self._layout = self._vector.observation_layout

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of a mask; see `SyncVectorEnv.reset`."""
        self._leave_lane()
        try:
            return super().reset(seed=seed, options=options)
        finally:
            self._enter_lane()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments; see `SyncVectorEnv.step`."""
        if (
            self._vector is not None
            and type(actions) is np.ndarray
            and actions.dtype == self._action_dtype
        ):
            try:
                rows, rewards, terminations, truncations, infos = self._vector.step(actions)
            except ActionError:  # of another shape, or with NaN; nothing was stepped
                pass
            except Exception:  # an observation fits no row: go on without
                self._vector = None
                raise
            else:
                self._rows = rows
                if ASIDE in infos:
                    raise next(one.error for one in infos[ASIDE] if one is not None)
                observations = self._layout.view(rows.copy() if self.copy else rows)
                return observations, rewards, terminations, truncations, infos
        if isinstance(self.action_space, (spaces.Box, spaces.MultiDiscrete)):
            actions = list(actions)  # of an iterator, too
            check_count(len(actions), self.num_envs)
        self._leave_lane()
        try:
            return super().step(actions)
        finally:
            self._enter_lane()

    def _leave_lane(self) -> None:
        """Let Gymnasium's code go on from the last step."""
        if self._rows is not None:
            self._observations = self._layout.view(self._rows)
            self._env_obs = [self._layout.unpack(row) for row in self._rows]
            self._autoreset_envs = np.array([sub.over for sub in self._subs])
            self._rows = None

    def _enter_lane(self) -> None:
        """Let Shoal's vector go on from what Gymnasium's code did."""
        if self._vector is not None:
            for sub, over in zip(self._subs, self._autoreset_envs.tolist()):
                sub.over = over


def the(env: Any) -> Any:
    """Return the existing environment, in place of a function that creates it."""
    return env


def check_count(got: int, expected: int) -> None:
    """Raise ValueError unless there is an action for each environment."""
    if got != expected:
        raise ValueError(f"actions: expected {expected}, one for each environment, got {got}")


# -- through the registry -------------------------------------------------------------------------


def vector_spec(
    id: str | EnvSpec,
    vectorization_mode: str = "auto",
    vector_kwargs: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]] | None = None,
) -> EnvSpec:
    """Return a specification from which `gymnasium.make_vec` makes Shoal's vectors.

    A copy, so that nothing is registered or changed for others.

    Args:
        id: as for `gymnasium.make`, or a specification.
        vectorization_mode: ``"sync"`` and ``"async"`` for the drop-in classes, or a backend of
            `shoal.vectorize`.
        vector_kwargs: more arguments for the class, or for `shoal.vectorize`.
        wrappers: are put around each environment.

    Raises:
        gymnasium.error.Error: there is no such environment.
    """
    if isinstance(id, str) and ":" in id:  # the module registers what follows
        importlib.import_module(id.partition(":")[0])
        id = id.partition(":")[2]
    spec = copying.deepcopy(gymnasium.spec(id) if isinstance(id, str) else id)
    single = copying.deepcopy(spec)
    single.kwargs = {}  # arrive with those of make_vec
    # The wrappers of the specification are part of the single environment, not of the vector.
    spec.additional_wrappers = ()
    spec.vector_entry_point = functools.partial(
        make_vector,
        single,
        vectorization_mode,
        dict(vector_kwargs or {}),
        list(wrappers or []),
    )
    return spec


def make_vector(
    spec: EnvSpec,
    vectorization_mode: str,
    vector_kwargs: dict[str, Any],
    wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]],
    num_envs: int,
    **kwargs: Any,
) -> VectorEnv:
    """Return a vector: the entry point of `vector_spec`."""
    creators = [functools.partial(make_one, spec, wrappers, kwargs)] * num_envs
    if vectorization_mode == "sync":
        return ShoalSyncVectorEnv(creators, **vector_kwargs)
    if vectorization_mode == "async":
        return ShoalAsyncVectorEnv(creators, **vector_kwargs)
    return vectorize(creators, backend=vectorization_mode, **vector_kwargs)


def make_one(
    spec: EnvSpec,
    wrappers: Iterable[Callable[[gymnasium.Env], gymnasium.Env]],
    kwargs: dict[str, Any],
) -> gymnasium.Env:
    """Return one environment of a vector."""
    env = gymnasium.make(spec, **kwargs)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def make_vec(
    id: str | EnvSpec,
    num_envs: int = 1,
    vectorization_mode: str = "auto",
    vector_kwargs: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]] | None = None,
    **kwargs: Any,
) -> VectorEnv:
    """Make a vector as `gymnasium.make_vec`, but Shoal's; see `vector_spec` for the arguments.

    Args:
        num_envs: how many environments.
        kwargs: for the constructor of each environment.
    """
    spec = vector_spec(id, vectorization_mode, vector_kwargs, wrappers)
    return gymnasium.make_vec(spec, num_envs, "vector_entry_point", **kwargs)
