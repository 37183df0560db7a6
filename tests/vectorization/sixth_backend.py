"""A sixth backend, as an example: written from `Backend`, it steps while the caller computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from shoal.errors import StepTimeoutError
from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.stepper import Stepper
from shoal.vectorization.workers.group import EnvGroup

NUM_BLOCKS = 3  # the batch just received, the one before it, and the one being made


class ThreadBackend:
    """Does everything with the environments in one other thread."""

    name = "thread"
    num_workers = 1
    lends_actions = False
    takes_objects = True

    def __init__(self, creators: Sequence[Callable[[], Any]], options: Options):
        self.num_envs = self.batch_size = n = len(creators)
        self.timeout = options.timeout
        self.group = EnvGroup(creators, 0, options.emulation, options.mode, options.first_seed)
        self.description = self.group.description()
        self.arena = Arena(self.description, n, n, NUM_BLOCKS, 1, control_nbytes=0)
        self.arena.allocate()
        restart = options.on_error == "restart"
        self.stepper = Stepper(self.group, self.arena, 0, restart, options.profile)
        self.work: tuple[int, Any, Any] = (0, None, None)  # posts so far, the last one's arguments
        self.begun = 0  # posts that the thread has been given
        self.task: Future = Future()  # the last one
        self.thread = ThreadPoolExecutor(1)

    @property
    def num_posted(self) -> int:
        return self.work[0] * self.num_envs

    def post(self, ops: Any, env_ids: Any, requests: Any, actions: Any = None) -> None:
        self.work = self.work[0] + 1, ops, requests  # in one instant, see `num_posted`
        self.begin()

    def begin(self) -> None:
        """Give the thread what was posted; after an interrupt again, which runs nothing twice."""
        count, ops, requests = self.work
        if self.begun != count:
            place = (count - 1) % NUM_BLOCKS * self.num_envs
            self.task = self.thread.submit(self.stepper.run_all, ops, requests, place, count - 1)
            self.begun = count

    def result(self, timeout: float | None) -> Any:
        """Return what the thread's last task returned, or raise what it raised."""
        if wait([self.task], timeout).not_done:
            raise StepTimeoutError(f"the environments have not returned within {timeout} s")
        return self.task.result()

    def wait(self, turn: int, timeout: float | None) -> None:
        self.begin()
        self.result(self.timeout if timeout is None else timeout)
        if self.stepper.failure is not None:
            raise self.stepper.failure

    def env_ids(self, block: int) -> np.ndarray:
        return np.arange(self.num_envs)

    def infos(self, block: int) -> dict[str, Any]:
        rows = self.arena.batch_rows
        return self.stepper.take_infos(block * rows, rows)

    def each_info(self, block: int) -> list[dict[str, Any]]:
        rows = self.arena.batch_rows
        return self.stepper.take_each_info(block * rows, rows)

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        function = getattr(self.group, method)
        self.task = self.thread.submit(
            lambda: [
                None if each is None else function(i, *each) for i, each in enumerate(arguments)
            ]
        )
        return self.result(self.timeout)

    def close(self) -> None:
        self.stepper.stop = True
        try:
            self.task = self.thread.submit(self.group.close)
            self.result(5.0)
        finally:
            self.release()

    def release(self) -> None:
        self.thread.shutdown(wait=False)
        self.arena.detach()
