"""The backends with worker processes: ``multiprocess`` and ``pool``.

Both are one mechanism (c/sync.h): environments are posted to the rings of the workers that own
them, results land in blocks of `batch_size` environments, and blocks are received in order. What
makes them differ is the batch size and which environments share a block.

Invariants:
- Nothing waits for a worker without noticing its death: steps wait in the engine, which watches the
  processes; messages wait on the socket, which a dead worker has closed.
- Messages from a worker answer messages to it, in order; steps send none.
- An environment's region of the outbox is written before its row is reported and read as soon as
  that row's block has been received.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from shoal.emulation.actions import ActionLayout
from shoal.emulation.layout import Layout
from shoal.errors import EmulationError, StepTimeoutError, WorkerDied
from shoal.vectorization.arena import Arena
from shoal.vectorization.engine import (
    DEAD,
    FAILED,
    Parent,
    control_nbytes,
    create_memory,
    num_blocks,
    usable_cores,
)
from shoal.vectorization.envs import check_same
from shoal.vectorization.info import InfoReader
from shoal.vectorization.memory import map_memory
from shoal.vectorization.processes import START_METHODS, Process, Starter, in_main_thread
from shoal.vectorization.stepper import CALL, GOOD_STEPS, MOST_FAILURES, RESET, lose_places
from shoal.vectorization.worker import Outbox

__all__ = ["ProcessBackend"]

CLOSE_SECONDS = 2.0  # for environments to close, before their workers are killed


class ProcessBackend:
    """Environments in worker processes; see `shoal.vectorize` for the arguments.

    Attributes:
        description: JSON of what the environments are, as the first worker told it.
        arena: the shared memory, attached.
        restarts: how often a worker was replaced.
    """

    def __init__(
        self,
        name: str,
        creators: Sequence[Callable[[], Any]],
        emulation: dict[str, Any],
        mode: int,
        seed: int | None,
        restart: bool,
        profile: bool,
        num_workers: int,
        batch_size: int,
        order: str = "first",
        start_method: str | None = None,
        timeout: float | None = None,
        affinity: Sequence[int] | None = None,
    ):
        self.name = name
        self.num_envs = len(creators)
        self.num_workers = num_workers
        self.batch_size = batch_size
        self.restart = restart
        self.timeout = timeout
        self.restarts = 0
        self._pid = os.getpid()
        self._closed = False
        self._all = np.arange(self.num_envs)
        method = start_method or ("forkserver" if sys.platform == "linux" else "spawn")
        if method not in START_METHODS:
            raise ValueError(f"start_method: expected one of {START_METHODS}, got {method!r}")
        self._first = [w * self.num_envs // num_workers for w in range(num_workers + 1)]
        self._owner = np.repeat(np.arange(num_workers), np.diff(self._first))
        base = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self._setups = [
            {
                "worker": w,
                "writer": w,
                "first": self._first[w],
                "creators": cloudpickle.dumps(list(creators[self._first[w] : self._first[w + 1]])),
                "emulation": emulation,
                "mode": mode,
                "seed": (base + self._first[w]) % 2**32,
                "restart": restart,
                "profile": profile,
                "affinity": None if affinity is None else [affinity[w % len(affinity)]],
                "path": [os.path.abspath(entry) if entry == "" else entry for entry in sys.path],
                "die_with_thread": method == "forkserver" or in_main_thread(),
            }
            for w in range(num_workers)
        ]
        self._memory_fd, self._outbox_fd = create_memory(0), create_memory(0)
        self._outbox = Outbox(self._outbox_fd)
        self._processes: list[Process] = []
        self._starter: Starter | None = None
        try:
            self._starter = Starter(method, self._memory_fd, self._outbox_fd)
            self._start_all(order)
        except BaseException:
            self.close()
            raise

    # -- starting -----------------------------------------------------------------------------

    def _start_all(self, order: str) -> None:
        assert self._starter is not None
        for setup in self._setups:
            process = self._starter.start()
            self._processes.append(process)
            process.connection.send_bytes(pickle.dumps(setup))
        descriptions = [self._receive(w).decode() for w in range(self.num_workers)]
        self.description = descriptions[0]
        for w, other in enumerate(descriptions):
            check_same(self.description, other, self._first[w])
        known = json.loads(self.description)
        agents = known["agents_per_env"]
        self._agents = agents
        mode = "first" if order == "first" and self.batch_size < self.num_envs else "fixed"
        counts = self.num_workers, self.num_envs, self.batch_size, mode
        geometry = {
            "num_envs": self.num_envs,
            "batch_size": self.batch_size,
            "num_blocks": num_blocks(self.num_envs, self.batch_size),
            "num_workers": self.num_workers,
            "control_nbytes": control_nbytes(*counts),
        }
        self._geometry = pickle.dumps({"arena": geometry})
        self.arena = Arena(
            Layout.from_json(known["observation_layout"], "obs"),
            ActionLayout(Layout.from_json(known["action_layout"], "action")),
            agents,
            **geometry,
        )
        os.ftruncate(self._memory_fd, self.arena.nbytes)
        memory = map_memory(self._memory_fd, self.arena.nbytes)
        self.arena.attach(memory)
        self._control = Parent(memory, *counts, cores=usable_cores())
        for w, process in enumerate(self._processes):
            self._control.set_peer(w, process.pid, process.pidfd)
            process.connection.send_bytes(self._geometry)
        self._infos = InfoReader()
        self._failures = [0] * self.num_workers
        self._started = [0] * self.num_workers  # batches received when each worker was started
        self._received = 0

    def _receive(self, worker: int) -> bytes:
        """The next message of a worker; raises what it reports, or that it has died."""
        try:
            message = self._processes[worker].connection.recv_bytes()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if message[:1] == b"\1":
            raise unpack_error(message)
        return message[1:]

    def _death(self, worker: int) -> WorkerDied:
        self._processes[worker].wait(1.0)
        code = self._processes[worker].poll()
        first, last = self._first[worker], self._first[worker + 1] - 1
        return WorkerDied(
            f"worker {worker} (process {self._processes[worker].pid}), which has environments "
            f"{first} to {last}, {describe_exit(code)}"
        )

    # -- batches ------------------------------------------------------------------------------

    def post(self, ops: Any, env_ids: np.ndarray | None, requests: dict[int, Any] | None) -> None:
        """Give environments their next operation: one for all, or one each."""
        if not isinstance(ops, int):
            for op in np.unique(ops):
                self._control.post(np.flatnonzero(ops == op), int(op))
        elif env_ids is None:
            self._control.post_all(ops)
        else:
            self._control.post(env_ids, ops)
        if requests is None:
            return
        # After posting, so that every worker is reading when a large message is written.
        for w, process in enumerate(self._processes):
            mine = {
                env: requests[env]
                for env in range(self._first[w], self._first[w + 1])
                if isinstance(ops, int) or ops[env] == RESET
            }
            if mine:
                try:
                    process.connection.send_bytes(cloudpickle.dumps(mine))
                except OSError:
                    pass  # it has died, which `wait` will say

    def wait(self, timeout: float | None) -> int:
        """Wait for the next block and return its number.

        Raises:
            StepTimeoutError, WorkerDied, or what an environment raised.
        """
        limit = self.timeout if timeout is None else timeout
        deadline = None if limit is None else time.monotonic() + limit
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            block = self._control.wait_block(left)
            if block >= 0:
                self._received += 1
                return block
            worker = self._control.culprit
            if block == -FAILED:
                raise unpack_error(self._outbox.get(self.arena.num_rows + worker))
            if block != -DEAD:
                raise self._late(limit)
            self._bury(worker)

    def _late(self, limit: float | None) -> StepTimeoutError:
        stuck = [self._control.current_env(w) for w in range(self.num_workers)]
        names = sorted(env for env in stuck if env is not None)
        what = f"environments {names} are still at it" if names else "no environment is at work"
        return StepTimeoutError(f"no batch within {limit} s: {what}")

    def _bury(self, worker: int) -> None:
        """A worker has died: fill in what it owes and start another, or raise."""
        error = self._death(worker)
        alive = self._received - self._started[worker]
        self._failures[worker] = self._failures[worker] + 1 if alive < GOOD_STEPS else 1
        if not self.restart:
            raise error
        if self._failures[worker] >= MOST_FAILURES:
            error.add_note(
                f"restarted {MOST_FAILURES - 1} times in a row, with fewer than {GOOD_STEPS} "
                "batches between"
            )
            raise error
        warnings.warn(f"{error}; starting another", RuntimeWarning, stacklevel=4)
        self.restarts += 1
        self._control.bury(worker)
        for env in self._control.outstanding(worker):
            place = self._control.place_of(env)
            lose_places(self.arena, place)
            self._control.complete_for(env)
        self._processes[worker].release()
        assert self._starter is not None
        process = self._processes[worker] = self._starter.start()
        # Whoever writes infos needs a number that no other process has had.
        setup = {**self._setups[worker], "writer": self.num_workers + self.restarts}
        process.connection.send_bytes(pickle.dumps(setup))
        check_same(self.description, self._receive(worker).decode(), self._first[worker])
        process.connection.send_bytes(self._geometry)
        self._started[worker] = self._received
        self._control.revive(worker, process.pid, process.pidfd)

    def env_ids(self, block: int) -> np.ndarray:
        """The environment in each slot of a block."""
        if self.batch_size == self.num_envs:
            return self._all
        env_ids = np.empty(self.batch_size, np.int64)
        self._control.block_envs(block, env_ids)
        return env_ids

    def infos(self, block: int) -> dict[str, Any]:
        """The infos of a block, as Gymnasium's vector environments give them."""
        first = block * self.arena.batch_rows
        return self._infos.read(
            self.arena.blocks[block]["infos"], lambda row: self._outbox.get(first + row)
        )

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call a method of the groups for each environment: ``method(i, *arguments[i])``."""
        messages = []
        for w in range(self.num_workers):
            mine = range(self._first[w], self._first[w + 1])
            each = {e: cloudpickle.dumps(arguments[e]) for e in mine if arguments[e] is not None}
            messages.append(pickle.dumps((method, each)) if each else None)
        for w, message in enumerate(messages):
            if message is not None:
                self._control.command(w, CALL)
                try:
                    self._processes[w].connection.send_bytes(message)
                except OSError:
                    raise self._death(w) from None
        results: list[Any] = [None] * self.num_envs
        failure = None
        for w, message in enumerate(messages):
            if message is not None:
                try:
                    for env, result in cloudpickle.loads(self._receive(w)).items():
                        results[env] = result
                except Exception as error:
                    failure = failure or error
        if failure is not None:
            raise failure
        return results

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End all workers and release everything; takes at most a few seconds."""
        if self._closed or os.getpid() != self._pid:  # a fork of this process owns nothing
            return
        self._closed = True
        if hasattr(self, "_control"):
            self._control.close()
        for process in self._processes:
            if not hasattr(self, "_control"):
                process.kill()
        deadline = time.monotonic() + CLOSE_SECONDS
        for process in self._processes:
            if not process.wait(max(0.0, deadline - time.monotonic())):
                process.kill()
        for process in self._processes:
            process.wait(1.0)
            process.release()
        if self._starter is not None:
            self._starter.close()
        os.close(self._memory_fd)
        os.close(self._outbox_fd)


def unpack_error(message: bytes) -> Exception:
    """The exception that `worker.error_message` packed."""
    data, said, notes = pickle.loads(message[1:])
    try:
        error = pickle.loads(data)
    except Exception:
        error = EmulationError(said)
        for note in notes:
            error.add_note(note)
    return error


def describe_exit(code: int | None) -> str:
    """What an exit code says about the end of a process."""
    import signal

    if code is None:
        return "does not answer, though its process is still there"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}, exit code {code}"
