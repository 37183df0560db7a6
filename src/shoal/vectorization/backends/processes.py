"""The backends with worker processes: ``multiprocess`` and ``pool``.

Both are one mechanism (c/sync.h): environments are posted to the rings of the workers that own
them, results land in blocks of `batch_size` environments, and blocks are received in order. What
makes them differ is the batch size and which environments share a block.

Invariants:
- Nothing waits for a worker without noticing its death: steps wait in the engine and messages in
  `Process`, and both watch the process itself.
- Messages from a worker answer messages to it, in order; steps send none. Its first one says what
  its environments are, or why it could not start.
- A worker that takes the place of a dead one is given work at once, which it finds when it is ready
  (`_starting`), so that nobody waits for it before its results are needed.
- An environment's region of the outbox is written before its row is reported and read as soon as
  that row's block has been received.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ClosedError, EmulationError, StepTimeoutError, WorkerDied
from shoal.rows.fields import RESET
from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.description import Description
from shoal.vectorization.info_slots import InfoReader
from shoal.vectorization.memory import map_memory
from shoal.vectorization.stepper import (
    CALL,
    GOOD_STEPS,
    MOST_FAILURES,
    TOO_MANY,
    Deferral,
    lose_places,
)
from shoal.vectorization.sync import (
    DEAD,
    FAILED,
    Parent,
    control_nbytes,
    create_memory,
    num_blocks,
    usable_cores,
)
from shoal.vectorization.workers import json_messages, pickle_messages
from shoal.vectorization.workers.channel import Outbox, read_error
from shoal.vectorization.workers.process import UNKNOWN_EXIT, Process, Starter
from shoal.vectorization.workers.worker import CLOSE_FAILED, CLOSING

__all__ = ["ProcessBackend"]

CLOSE_SECONDS = 2.0  # for environments to close, before their workers are killed
START_SECONDS = 60.0  # for workers to start, besides the `timeout` for creating environments
HASTE_SECONDS = 0.5  # the same if one of the workers is dead already


class ProcessBackend:
    """Environments in worker processes; see `Backend`, and `shoal.vectorize` for the arguments.

    Attributes:
        description: what the environments are, from the first worker.
        arena: the shared memory, attached.
    """

    lends_actions = False
    takes_objects = True

    def __init__(self, creators: Sequence[Callable[[], Any]], options: Options):
        self.name = options.backend
        python, affinity, seed = options.python, options.affinity, options.first_seed
        self._messages: Any = pickle_messages if python is None else json_messages
        self.num_envs = len(creators)
        self.num_workers = num_workers = int(options.num_workers or 1)
        self.batch_size = options.batch_size or self.num_envs
        self.restart = options.on_error == "restart"
        self.timeout = options.timeout
        self._pid = os.getpid()
        self._closed = False
        self._all = np.arange(self.num_envs)
        self._deferral = Deferral()
        self._replacing = False  # a worker, which was interrupted if nobody is in `_replace`
        method = options.start_method or ("forkserver" if sys.platform == "linux" else "spawn")
        if python is not None:
            method = "spawn"
        # A fork has the functions already, even if they can't be pickled.
        self._inherited = list(creators) if method == "fork" else None
        self._first = [w * self.num_envs // num_workers for w in range(num_workers + 1)]
        self._owner = np.repeat(np.arange(num_workers), np.diff(self._first))
        base = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self._setups: list[dict[str, Any]] = [
            {
                "worker": w,
                "writer": w,
                "first": self._first[w],
                "creators": None
                if self._inherited
                else send_creators(creators[self._first[w] : self._first[w + 1]], python),
                "emulation": options.emulation.to_json(),
                "mode": options.mode,
                "seed": (base + self._first[w]) % 2**32,
                "restart": self.restart,
                "profile": options.profile,
                "affinity": None if affinity is None else [affinity[w % len(affinity)]],
                "authkey": bytes(multiprocessing.current_process().authkey),
                "path": None
                if python is not None
                else [os.path.abspath(entry) if entry == "" else entry for entry in sys.path],
                # These are for workers that take the place of another.
                "description": None,
                "options": {},
                "owing": [],
            }
            for w in range(num_workers)
        ]
        self._processes: list[Process] = []
        self._starting: set[int] = set()  # workers whose first message has not been read
        self._control: Any = None  # a Parent, as soon as there is an arena
        self._fds: list[int] = []  # of the arena and the outbox
        self._starter: Any = None
        try:
            with self._deferral:
                for _ in range(2):
                    self._fds.append(create_memory(0))
                self._outbox = Outbox(self._fds[1])
                self._starter = Starter(method, self._fds[0], self._fds[1], python)
            self._start_all(options.order)
        except BaseException:
            self._close_quietly()
            raise

    # -- starting -----------------------------------------------------------------------------

    def _start_all(self, order: str) -> None:
        deadline = None if self.timeout is None else self._deadline(self.timeout + START_SECONDS)
        descriptions: dict[int, Description] = {}
        try:
            for setup in self._setups:
                creators = self._inherit(setup["worker"])
                with self._deferral:
                    self._processes.append(self._starter.start(creators, deadline))
                self._processes[-1].send(self._messages.dumps(setup), deadline)
        except TimeoutError as error:
            raise StepTimeoutError(
                f"no workers within {self._limit(START_SECONDS)}: {error}"
            ) from None
        while len(descriptions) < self.num_workers:  # whoever fails first is heard first
            if deadline is not None and time.monotonic() > deadline:
                late = [self._envs(w) for w in range(self.num_workers) if w not in descriptions]
                raise StepTimeoutError(
                    f"no environments within {self._limit(START_SECONDS)}: still creating "
                    + ", ".join(late)
                )
            for w, process in enumerate(self._processes):
                if w not in descriptions and process.has_message():
                    descriptions[w] = Description.from_json(self._receive(w))
            time.sleep(0.001)
        self.description = descriptions[0]
        for w in range(1, self.num_workers):
            self.description.require_same(descriptions[w], 0, self._first[w])
        mode = "first" if order == "first" and self.batch_size < self.num_envs else "fixed"
        counts = self.num_workers, self.num_envs, self.batch_size, mode
        geometry = {
            "num_envs": self.num_envs,
            "batch_size": self.batch_size,
            "num_blocks": num_blocks(self.num_envs, self.batch_size),
            "num_workers": self.num_workers,
            "control_nbytes": control_nbytes(*counts),
        }
        self._geometry = self._messages.dumps({"arena": geometry})
        self.arena = Arena(self.description, **geometry)
        try:
            os.ftruncate(self._fds[0], self.arena.nbytes)
            memory = map_memory(self._fds[0], self.arena.nbytes)
        except (OSError, OverflowError) as error:
            raise EmulationError(
                f"the rows need {self.arena.nbytes} bytes of memory, and there is not as much: "
                f"{error}"
            ) from None
        self.arena.attach(memory)
        self._control = Parent(memory, *counts, cores=usable_cores())
        for w, process in enumerate(self._processes):
            self._control.set_peer(w, process.pid, process.pidfd)
            process.send(self._geometry)
        self._infos = InfoReader(self._messages.load_info)
        self._restarts = 0
        self._failures = [0] * self.num_workers  # in a row
        self._begun = [0] * self.num_workers  # what `num_done` was when each worker was started
        self._options: list[Any] = []  # of automatic resets, for each environment

    def _inherit(self, worker: int) -> Sequence[Callable[[], Any]] | None:
        """Return the functions that a worker takes over when it is forked."""
        return self._inherited and self._inherited[self._first[worker] : self._first[worker + 1]]

    def _receive(self, worker: int, deadline: float | None = None) -> bytearray:
        """Return the next message of a worker; raises what it reports, or that it has died."""
        try:
            message = self._processes[worker].receive(deadline)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            raise self._death(worker) from None
        if message[:1] == b"\1":
            raise read_error(self._messages, message)
        return message[1:]

    def _heard(self, worker: int, deadline: float | None) -> None:
        """Wait until a worker that takes the place of another has started."""
        if worker in self._starting:
            self._receive(worker, deadline)
            self._starting.remove(worker)

    def _envs(self, worker: int) -> str:
        first, last = self._first[worker], self._first[worker + 1] - 1
        return f"environments {first} to {last}" if first < last else f"environment {first}"

    def _death(self, worker: int) -> WorkerDied:
        process = self._processes[worker]
        process.wait(1.0)
        what = f"worker {worker} (process {process.pid}), which has {self._envs(worker)}, "
        return WorkerDied(what + describe_exit(process.poll()))

    # -- batches ------------------------------------------------------------------------------

    def post(
        self,
        ops: Any,
        env_ids: np.ndarray | None,
        requests: dict[int, Any] | None,
        actions: Any = None,
    ) -> None:
        """Give environments their next operation: one for all, or one each."""
        control = self._open()
        if requests is not None:
            messages = {}  # what can't be pickled must raise before anything is posted
            for w in range(self.num_workers):
                mine = [
                    env
                    for env in range(self._first[w], self._first[w + 1])
                    if isinstance(ops, int) or ops[env] == RESET  # an int: all have a request
                ]
                if mine:
                    messages[w] = self._messages.dumps({env: requests[env] for env in mine})
            for w, message in messages.items():
                self._outbox.put(self.arena.num_rows + self.num_workers + w, message)
        if not isinstance(ops, int):
            control.post_each(ops)
        elif env_ids is None:
            control.post_all(ops)
        else:
            control.post(env_ids, ops)

    @property
    def num_posted(self) -> int:
        return self._control.num_posted

    def wait(self, turn: int, timeout: float | None) -> None:
        """Wait for a batch.

        Raises:
            StepTimeoutError, WorkerDied, or what an environment raised.
        """
        control = self._open()
        deadline = self._deadline(timeout)
        while control.num_received <= turn:
            left = None if deadline is None else deadline - time.monotonic()
            code = control.wait_block(left)
            if code >= 0:
                return
            self._open()  # or has another thread closed it?
            if code == -FAILED:
                message = self._outbox.get(self.arena.num_rows + control.culprit)
                raise read_error(self._messages, message)
            if code != -DEAD:
                raise self._late("batch")
            try:
                self._replace(control.culprit, deadline)
            except TimeoutError:
                self._close_quietly()
                raise StepTimeoutError(
                    "no batch in time: a worker died, and the fork server does not start another"
                ) from None
            except KeyboardInterrupt:
                if self._replacing:  # nothing can go on from half a restart
                    self._close_quietly()
                raise

    def _open(self) -> Parent:
        if self._closed or self._control is None:
            raise ClosedError("this vector is closed")
        if os.getpid() != self._pid:
            raise ClosedError(
                f"this vector is of process {self._pid}, which this one was forked from"
            )
        return self._control

    def _deadline(self, timeout: float | None) -> float | None:
        limit = self.timeout if timeout is None else timeout
        return None if limit is None else time.monotonic() + limit

    def _limit(self, more: float) -> str:
        return f"{(self.timeout or 0) + more:g} s (timeout={self.timeout:g})"

    def _late(self, what: str) -> StepTimeoutError:
        control = self._open()
        starting = [w for w in self._starting if not self._processes[w].has_message()]
        stuck = [control.current_env(w) for w in range(self.num_workers) if w not in starting]
        at_work = sorted(env for env in stuck if env is not None)
        parts = [f"environments {at_work} have not returned"] if at_work else []
        parts += [f"worker {w} is still starting {self._envs(w)}" for w in sorted(starting)]
        return StepTimeoutError(f"no {what} in time: " + ("; ".join(parts) or "workers are idle"))

    def _replace(self, worker: int, deadline: float | None) -> None:
        """Replace a dead worker, or raise. Ctrl-C waits for that; a second one does not."""
        with self._deferral:
            self._replacing = True
            error = self._start_another(worker, deadline)
            self._replacing = False
        warnings.warn(f"{error}; starting another", RuntimeWarning, stacklevel=5)

    def _start_another(self, worker: int, deadline: float | None) -> Exception:
        """Fill in what a dead worker owes, and start another; return what it died of, or raise."""
        control, process = self._open(), self._processes[worker]
        at = control.current_env(worker)
        error: Exception = self._death(worker)
        if at is not None:
            error = WorkerDied(f"{error}, at environment {at}")
        try:
            if process.has_message():
                self._heard(worker, time.monotonic())
        except WorkerDied:
            pass
        except Exception as reported:  # it has said why it could not start
            error = reported
        if not self.restart:
            raise error
        done = (control.num_done(worker) - self._begun[worker]) % 2**32
        good = done >= GOOD_STEPS * (self._first[worker + 1] - self._first[worker])
        self._failures[worker] = 1 if good else self._failures[worker] + 1
        if self._failures[worker] >= MOST_FAILURES:
            error.add_note(TOO_MANY)
            raise error
        control.bury(worker)
        envs = set(range(self._first[worker], self._first[worker + 1]))
        outstanding = control.outstanding(worker)
        for env in outstanding:
            lose_places(self.arena, control.place_of(env))
            control.complete_for(env)
        self._restarts += 1
        self.arena.arrays["counters"][worker, 3] += len(envs)
        process.release()
        process = self._processes[worker] = self._starter.start(self._inherit(worker), deadline)
        self._starting.add(worker)
        setup = {
            **self._setups[worker],
            # Whoever writes infos needs a number that no other process has had.
            "writer": self.num_workers + self._restarts,
            # What chance has led to once, it would lead to again.
            "seed": (self._setups[worker]["seed"] + self._restarts * self.num_envs) % 2**32,
            "description": self.description.to_json(),
            "options": {e: self._options[e][0] for e in envs} if self._options else {},
            "owing": envs - set(outstanding),
        }
        try:
            process.send(self._messages.dumps(setup))
            process.send(self._geometry)
        except (EOFError, OSError):
            pass  # dead again, which the next wait will say
        control.revive(worker, process.pid, process.pidfd)
        self._begun[worker] = control.num_done(worker)
        return error

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environment in each slot of a block."""
        if self.batch_size == self.num_envs:
            return self._all
        env_ids = np.empty(self.batch_size, np.int64)
        self._control.block_envs(block, env_ids)
        return env_ids

    def infos(self, block: int) -> dict[str, Any]:
        """Return the infos of a block, as Gymnasium's vector environments give them."""
        first = block * self.arena.batch_rows
        return self._infos.read(
            self.arena.blocks[block]["infos"], lambda row: self._outbox.get(first + row)
        )

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return the infos of a block, one dict for each row."""
        first = block * self.arena.batch_rows
        return self._infos.read_each(
            self.arena.blocks[block]["infos"], lambda row: self._outbox.get(first + row)
        )

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call a method of the groups for each environment: ``method(i, *arguments[i])``.

        Raises:
            WorkerDied, StepTimeoutError: answers may be missing, so that nothing can follow.
            Exception: the first that an environment raised.
        """
        control, deadline = self._open(), self._deadline(None)
        messages = {}
        for w in range(self.num_workers):
            mine = range(self._first[w], self._first[w + 1])
            given = {e: arguments[e] for e in mine if arguments[e] is not None}
            each = {e: self._messages.dumps(one) for e, one in given.items()}
            if each:
                messages[w] = self._messages.dumps((method, each))
        results: list[Any] = [None] * self.num_envs
        failure = None
        try:
            for w, message in messages.items():
                if self.restart and self._processes[w].poll() is not None:
                    self._replace(w, deadline)
                control.command(w, CALL)
                self._processes[w].send(message, deadline)
            for w in messages:
                try:
                    self._heard(w, deadline)
                    answer = self._messages.loads_any(self._receive(w, deadline))
                    if not isinstance(answer, dict):
                        raise EmulationError(f"worker {w} answered {method} with {answer!r:.80}")
                except (WorkerDied, TimeoutError):
                    raise
                except Exception as error:
                    failure = failure or error
                    continue
                for env in range(self._first[w], self._first[w + 1]):
                    results[env] = answer.get(env)
        except TimeoutError:
            raise StepTimeoutError(
                f"{method}: no answer in time from worker {w}, which has {self._envs(w)}"
            ) from None
        except (EOFError, OSError):
            raise self._death(w) from None
        if failure is not None:
            raise failure
        if method == "set_options":
            self._options = list(arguments)
        return results

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End all workers and release everything; takes at most a few seconds.

        Raises:
            Exception: the first that an environment raised when it was closed;
                everything is released all the same.
        """
        if self._closed or os.getpid() != self._pid:  # a fork of this process owns nothing
            return
        self._closed = True
        with Deferral():  # a second Ctrl-C ends the patience with environments
            failure = self._end_all()
        if failure is not None:
            raise failure

    def _end_all(self) -> Exception | None:
        """End the workers and release everything; return what an environment raised meanwhile."""
        control, failure = self._control, None
        try:
            if control is not None:
                all_alive = all(process.poll() is None for process in self._processes)
                control.close()
                deadline = time.monotonic() + (CLOSE_SECONDS if all_alive else HASTE_SECONDS)
                for w, process in enumerate(self._processes):
                    if w not in self._starting or process.has_message():
                        process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in self._processes:
                process.kill()
            deadline = time.monotonic() + 1
            for w, process in enumerate(self._processes):
                process.wait(max(0.0, deadline - time.monotonic()))
                if process.poll() == CLOSE_FAILED and control is not None and failure is None:
                    message = self._outbox.get(self.arena.num_rows + w)
                    if message[:1] == CLOSING:  # or an environment has ended its process
                        failure = read_error(self._messages, message)
            if control is not None:
                while not control.release() and time.monotonic() < deadline:
                    time.sleep(0.001)  # another thread waits, and is about to see that all are dead
                self.arena.detach()
            for process in self._processes:
                process.release()
            if self._starter is not None:
                self._starter.close()
            while self._fds:
                os.close(self._fds.pop())
        return failure

    release = close

    def _close_quietly(self) -> None:
        """Close after an error, which says more than what closing raises."""
        try:
            self.close()
        except Exception:
            pass


def send_creators(creators: Sequence[Callable[[], Any]], python: str | None) -> Any:
    """Return functions as workers take them: pickled, or as names for another interpreter."""
    if python is not None:
        return [(creator.name, dict(creator.kwargs)) for creator in creators]  # type: ignore[attr-defined]
    try:
        return pickle_messages.dumps(list(creators))
    except Exception as error:
        error.add_note(
            "env: the functions that create environments are sent to the workers, so all that "
            "they refer to must be picklable (by cloudpickle)"
        )
        raise


def describe_exit(code: int | None) -> str:
    """Return what an exit code says about the end of a process."""
    if code is None:
        return "does not answer, though its process is still there"
    if code == UNKNOWN_EXIT:
        return "ended, and something else in this process has taken its exit code"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}, exit code {code}"
