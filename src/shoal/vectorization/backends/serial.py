"""The serial backend: all environments in this process, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ClosedError, StepTimeoutError
from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.stepper import Stepper
from shoal.vectorization.workers.group import EnvGroup

__all__ = ["SerialBackend"]

# The batch just received, the one before it, and the one being made.
NUM_BLOCKS = 3
CLOSE_SECONDS = 5.0  # that `close` waits for another thread to come out of an environment


class SerialBackend:
    """Steps environments when the batch is received; the oracle for all other backends.

    See `Backend` for the contract.

    Args:
        creators: one function for each environment.
        options: of the vector.
    """

    name = "serial"
    num_workers = 0
    lends_actions = False
    takes_objects = True

    def __init__(self, creators: Sequence[Callable[[], Any]], options: Options):
        self.num_envs = self.batch_size = len(creators)
        group = EnvGroup(creators, 0, options.emulation, options.mode, options.first_seed)
        self.description = group.description()
        self.arena = Arena(
            self.description,
            num_envs=self.num_envs,
            batch_size=self.num_envs,
            num_blocks=NUM_BLOCKS,
            num_workers=1,
            control_nbytes=0,
        )
        self.arena.allocate()
        self._stepper: Stepper | None = Stepper(  # None once closed
            group, self.arena, 0, options.on_error == "restart", options.profile
        )
        self.num_posted = 0
        self._work: tuple[Any, Any] = (None, None)  # arguments of the last post
        self._all = np.arange(self.num_envs)
        self._inside = threading.RLock()  # held while environments run

    @property
    def stepper(self) -> Stepper:
        """Return who steps the environments.

        Raises:
            ClosedError: the backend is closed.
        """
        stepper = self._stepper
        if stepper is None:
            raise ClosedError("this vector is closed")
        return stepper

    def post(
        self, ops: Any, env_ids: Any, requests: dict[int, Any] | None, actions: Any = None
    ) -> None:
        """Give every environment its next operation: one for all, or one each."""
        self._work = ops, requests
        self.num_posted += self.num_envs  # an interrupt before this: nothing was posted

    def wait(self, turn: int, timeout: float | None) -> None:
        """Run what was posted. Nothing here can time out."""
        ops, requests = self._work
        with self._inside:
            stepper = self.stepper
            stepper.run_all(ops, requests, turn % NUM_BLOCKS * self.num_envs, turn)
        if stepper.failure is not None:
            raise stepper.failure

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environment in each slot of a block."""
        return self._all

    def infos(self, block: int) -> dict[str, Any]:
        """Return the infos of the block last waited for."""
        return self.stepper.take_infos(block * self.arena.batch_rows, self.arena.batch_rows)

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return the infos of the block last waited for, one dict for each row."""
        return self.stepper.take_each_info(block * self.arena.batch_rows, self.arena.batch_rows)

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call a method of the group: ``method(i, *arguments[i])`` for those that have any."""
        with self._inside:
            function = getattr(self.stepper.group, method)
            return [
                None if each is None else function(i, *each) for i, each in enumerate(arguments)
            ]

    def close(self) -> None:
        """Close the environments, as soon as no other thread is in one of them."""
        stepper = self._stepper
        if stepper is not None:
            stepper.stop = True
        if not self._inside.acquire(timeout=CLOSE_SECONDS):
            raise StepTimeoutError(
                f"an environment has not returned for {CLOSE_SECONDS} s, and is not closed"
            )
        try:
            if self._stepper is not None:
                group, self._stepper = self._stepper.group, None
                group.close()
        finally:
            self._inside.release()
            self.release()

    def release(self) -> None:
        """Let go of the memory."""
        self.arena.detach()
